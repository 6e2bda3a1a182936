//! [`ResponseError`]: what was wrong with a response.

use std::{error::Error, fmt};

/// Why a response ended as [`EndKind::Failed`](crate::EndKind::Failed).
///
/// # Examples
///
/// ```
/// use tower_background::report::ResponseError;
///
/// assert_eq!(ResponseError::Body.to_string(), "the body returned an error");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResponseError {
    /// The body returned an error. The error itself goes to the server, as it would without this
    /// crate.
    Body,
    /// The body ended before the declared length, so the client sees a broken response.
    #[non_exhaustive]
    TooShort {
        /// The length that the head declared, in bytes.
        declared: u64,
        /// The length of the data that the body yielded, in bytes.
        yielded: u64,
    },
    /// The body yielded more than the declared length over HTTP/2, so the client resets the stream
    /// ([RFC 9113, section 8.1.1](https://www.rfc-editor.org/rfc/rfc9113#section-8.1.1)). Over
    /// HTTP/1 a server cuts off the surplus, and the response is complete.
    #[non_exhaustive]
    TooLong {
        /// The length that the head declared, in bytes.
        declared: u64,
        /// The length of the data that the body yielded, in bytes.
        yielded: u64,
    },
    /// The exact size of the body is not the length that the head declared. Servers send the
    /// declared length, and then send as much data as the exact size says.
    #[non_exhaustive]
    Contradicted {
        /// The length that the head declared, in bytes.
        declared: u64,
        /// The exact size that the body stated, in bytes.
        hinted: u64,
    },
    /// The `content-length` of a response over HTTP/2 is not a number, so the client resets the
    /// stream.
    InvalidLength,
    /// The body yielded data where none is allowed (`HEAD`, 204, 304) over HTTP/2. HTTP/1 servers
    /// do not send such data.
    NotAllowed,
    /// The status is informational (100-199), and no server sends it as a final one, except 101
    /// over HTTP/1.1. hyper answers with a 500 or resets the stream.
    InformationalStatus,
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body => f.write_str("the body returned an error"),
            Self::TooShort { declared, yielded } => {
                write!(
                    f,
                    "the body ended after {yielded} of {declared} declared bytes"
                )
            }
            Self::TooLong { declared, yielded } => {
                write!(
                    f,
                    "the body yielded {yielded} bytes, but the head declared {declared}"
                )
            }
            Self::Contradicted { declared, hinted } => {
                write!(
                    f,
                    "the body stated a size of {hinted} bytes, but the head declared {declared}"
                )
            }
            Self::InvalidLength => f.write_str("the `content-length` is not a number"),
            Self::NotAllowed => {
                f.write_str("the body yielded data, but this response must have none")
            }
            Self::InformationalStatus => {
                f.write_str("the status is informational, and no server sends it as a final one")
            }
        }
    }
}

impl Error for ResponseError {}
