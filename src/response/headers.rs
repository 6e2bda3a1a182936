//! What the headers of a response say of its body, and the gRPC status of heads and trailers.

use std::sync::LazyLock;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The `content-length` of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ContentLength {
    Bytes(u64),
    Invalid,
}

/// Reads the `content-length` of a head, and whether its content type is gRPC. gRPC-Web is not: it
/// sends its status in the body, where this crate does not see it.
pub(super) fn length_and_is_grpc(headers: &HeaderMap) -> (Option<ContentLength>, bool) {
    let [length, content_type] = find(headers, [&CONTENT_LENGTH, &CONTENT_TYPE]);
    (
        length.map(content_length),
        content_type.is_some_and(is_grpc),
    )
}

fn content_length(value: &HeaderValue) -> ContentLength {
    parse_digits(value.as_bytes()).map_or(ContentLength::Invalid, ContentLength::Bytes)
}

fn is_grpc(content_type: &HeaderValue) -> bool {
    let rest = content_type.as_bytes().strip_prefix(b"application/grpc");
    matches!(rest, Some([] | [b'+' | b';', ..]))
}

/// Returns the length that a head declares, if its `content-length` is valid.
#[cfg(feature = "sent")]
pub(crate) fn declared_length(headers: &HeaderMap) -> Option<u64> {
    match content_length(headers.get(CONTENT_LENGTH)?) {
        ContentLength::Bytes(bytes) => Some(bytes),
        ContentLength::Invalid => None,
    }
}

/// Reads `grpc-status` from a head or from trailers.
pub(super) fn grpc_status(headers: &HeaderMap) -> Option<i32> {
    let [status] = find(headers, [&GRPC_STATUS]);
    status?.to_str().ok()?.trim().parse().ok()
}

/// Trailers with nothing but `grpc-status: 0`, as most gRPC responses have them. One copy is enough
/// for all responses.
pub(super) static GRPC_OK: LazyLock<HeaderMap> =
    LazyLock::new(|| HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))]));

/// Returns whether trailers are equal to [`GRPC_OK`].
pub(super) fn is_grpc_ok(trailers: &HeaderMap) -> bool {
    let mut all = trailers.iter();
    match (all.next(), all.next()) {
        (Some((name, value)), None) => name == GRPC_STATUS && value == "0",
        _ => false,
    }
}

/// Up to so many headers, it is faster to compare each name than to hash the wanted one.
const FEW: usize = 4;

/// Returns the first value of each name.
fn find<'a, const N: usize>(
    headers: &'a HeaderMap,
    names: [&HeaderName; N],
) -> [Option<&'a HeaderValue>; N] {
    if headers.len() > FEW {
        return names.map(|name| headers.get(name));
    }
    let mut found = [None; N];
    for (name, value) in headers {
        for (wanted, found) in names.iter().zip(&mut found) {
            if found.is_none() && name == wanted {
                *found = Some(value);
            }
        }
    }
    found
}

/// Parses a number. `str::parse` would accept a sign, which servers and clients do not.
fn parse_digits(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number.checked_mul(10)?.checked_add(digit.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers<const N: usize>(list: [(&'static str, &'static str); N]) -> HeaderMap {
        list.map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        })
        .into_iter()
        .collect()
    }

    #[test]
    fn the_first_value_of_a_name_counts_among_few_headers_and_among_many() {
        let (length, kind) = ("content-length", "content-type");
        let twice = [
            (length, "6"),
            (kind, "application/grpc"),
            (length, "7"),
            (kind, "text/html"),
        ];
        let others = ["a", "b", "c", "d", "e"].map(|name| (name, "x"));
        for count in [0, 5] {
            let mut headers = HeaderMap::new();
            for (name, value) in twice.iter().chain(&others[..count]) {
                headers.append(*name, HeaderValue::from_static(value));
            }
            let expected = (Some(ContentLength::Bytes(6)), true);
            assert_eq!(length_and_is_grpc(&headers), expected, "{headers:?}");
        }
    }

    #[cfg(feature = "sent")]
    #[test]
    fn an_invalid_length_declares_nothing() {
        for (value, expected) in [("6", Some(6)), ("x", None)] {
            let headers = headers([("content-length", value)]);
            assert_eq!(declared_length(&headers), expected, "{value:?}");
        }
    }

    #[test]
    fn only_equal_trailers_are_grpc_ok() {
        let twice = [("grpc-status", "0"), ("grpc-status", "0")].map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        let mut appended = HeaderMap::new();
        for (name, value) in twice {
            appended.append(name, value);
        }
        for trailers in [
            headers([("grpc-status", "0")]),
            headers([("grpc-status", "13")]),
            headers([("grpc-status", "0"), ("grpc-message", "")]),
            appended,
            HeaderMap::new(),
        ] {
            assert_eq!(is_grpc_ok(&trailers), trailers == *GRPC_OK, "{trailers:?}");
        }
    }

    #[test]
    fn grpc_web_is_not_grpc() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let value = HeaderValue::from_static(value);
            assert_eq!(is_grpc(&value), expected, "{value:?}");
        }
    }
}
