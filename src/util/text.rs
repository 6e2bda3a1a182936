//! [`Text`]: a short copy of text that a client chose, such as a path or a request id.

use std::{fmt, ops::Deref, str};

/// The longest path or request id that is kept, in bytes.
const MAX_LEN: usize = 1024;

/// The longest text that needs no allocation, in bytes.
const MAX_SHORT: usize = 46;

/// A copy of at most [`MAX_LEN`] bytes of a text, without a part of a character at its end.
///
/// The text of a request usually lies in the read buffer of its connection. A copy keeps that
/// buffer from living as long as the longest task.
#[derive(Clone)]
pub(crate) struct Text(Copied);

#[derive(Clone)]
enum Copied {
    Short { len: u8, bytes: [u8; MAX_SHORT] },
    Long(Box<str>),
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        let mut bytes = [0; MAX_SHORT];
        if let (Some(short), Ok(len)) = (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            short.copy_from_slice(text.as_bytes());
            return Self(Copied::Short { len, bytes });
        }
        // `str::floor_char_boundary` needs a newer Rust than ours.
        let longest = text.len().min(MAX_LEN);
        let end = (0..=longest).rev().find(|&end| text.is_char_boundary(end));
        Self(Copied::Long(text[..end.unwrap_or(0)].into()))
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        match &self.0 {
            Copied::Short { len, bytes } => {
                str::from_utf8(&bytes[..usize::from(*len)]).unwrap_or_default()
            }
            Copied::Long(text) => text,
        }
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_text_is_copied_whole() {
        for text in [
            "",
            "/sign-up",
            "/é",
            &"a".repeat(MAX_SHORT),
            &"a".repeat(MAX_SHORT + 1),
        ] {
            assert_eq!(&*Text::from(text), text);
        }
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let text = format!("{}é", "a".repeat(MAX_LEN - 1));
        assert_eq!(Text::from(text.as_str()).len(), MAX_LEN - 1);
        assert_eq!(Text::from("a".repeat(5_000).as_str()).len(), MAX_LEN);
    }
}
