//! Short copies of text that a client chose, such as paths and request ids.

/// The longest path or request id that is kept after the response, in bytes.
const MAX_LEN: usize = 1024;

/// Copies at most [`MAX_LEN`] bytes, and never a part of a character.
///
/// The text of a request usually lies in the read buffer of its connection. A copy keeps that
/// buffer from living as long as the longest task.
pub(crate) fn bounded(text: &str) -> Box<str> {
    // `str::floor_char_boundary` needs a newer Rust than ours.
    let longest = text.len().min(MAX_LEN);
    let end = (0..=longest).rev().find(|&end| text.is_char_boundary(end));
    text[..end.unwrap_or(0)].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_text_is_copied_whole() {
        assert_eq!(&*bounded("/sign-up"), "/sign-up");
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let text = format!("{}é", "a".repeat(MAX_LEN - 1));
        assert_eq!(bounded(&text).len(), MAX_LEN - 1);
        assert_eq!(bounded(&"a".repeat(5_000)).len(), MAX_LEN);
    }
}
