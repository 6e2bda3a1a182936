//! [`QueueName`]: a name that both engines take.

use std::sync::Arc;

use crate::Error;

/// The name of a queue: 1 to 47 of the characters `a-z`, `0-9` and `_`.
///
/// Cheap to clone. These are the names that pgmq takes. Upper case is refused, as pgmq would lower it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueName(Arc<str>);

impl QueueName {
    /// Checks a name.
    ///
    /// # Errors
    ///
    /// [`Error::QueueName`] for any other name.
    pub fn new(name: impl Into<String>) -> Result<Self, Error> {
        let name = name.into();
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if (1..=47).contains(&name.len()) && name.bytes().all(allowed) {
            Ok(Self(name.into()))
        } else {
            Err(Error::QueueName { name })
        }
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_pgmq() {
        for name in ["mails", "a", "m_1", &"x".repeat(47)] {
            assert!(QueueName::new(name).is_ok(), "{name}");
        }
        for name in ["", "Mails", "m-1", "é", &"x".repeat(48)] {
            assert!(QueueName::new(name).is_err(), "{name}");
        }
    }
}
