//! Judges the cases of `tests/README.md` without a socket. Each case says what a server takes of
//! the response.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use http::{HeaderName, HeaderValue};

use super::*;

/// What a response shows while its body is polled.
#[derive(Debug, Clone, Copy)]
enum Seen {
    /// The body has no frame yet.
    Pending,
    Data(usize),
    /// Data after which `is_end_stream()` is true.
    LastData(usize),
    Trailers(&'static [(&'static str, &'static str)]),
    Error,
    Panic,
    /// The body returned `None`.
    End,
}
use Seen::{Data, End, Error, LastData, Panic, Pending, Trailers};

/// A response: the method of its request, its head, what its body says of itself at the head, and
/// what the body shows when it is polled.
#[derive(Debug, Clone)]
struct Case {
    method: Method,
    status: u16,
    headers: &'static [(&'static str, &'static str)],
    exact_size: Option<u64>,
    at_end: bool,
    seen: &'static [Seen],
}

/// A response to `GET` with status 200, whose body tells no length.
const fn stream(seen: &'static [Seen]) -> Case {
    Case {
        method: Method::GET,
        status: 200,
        headers: &[],
        exact_size: None,
        at_end: false,
        seen,
    }
}

/// A body of known length, such as `Full`. HTTP/1 polls it until the length is reached, and HTTP/2
/// until its last frame.
fn full(size: u64, seen: &'static [Seen]) -> Case {
    Case {
        exact_size: Some(size),
        at_end: size == 0,
        ..stream(seen)
    }
}

const HTTP: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

const COMPLETE: Judgement = (EndKind::Complete, None);
const INTERRUPTED: Judgement = (EndKind::Interrupted, None);
const PANICKED: Judgement = (EndKind::Panicked, None);

const fn failed(error: ResponseError) -> Judgement {
    (EndKind::Failed, Some(error))
}

fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
    list.iter()
        .map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        })
        .collect()
}

impl Case {
    fn state(&self) -> BodyState {
        let mut state = BodyState::default();
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(self.status).expect("it has three digits");
        *response.headers_mut() = headers(self.headers);
        state.note_head(&response, Instant::now(), self.exact_size, self.at_end);
        for seen in self.seen {
            match *seen {
                Pending => state.note_poll(),
                Data(bytes) => state.note_data(bytes, false),
                LastData(bytes) => state.note_data(bytes, true),
                Trailers(trailers) => state.note_trailers(&headers(trailers), true),
                Error => state.note_error(),
                Panic => state.note_panic(),
                End => state.note_end(),
            }
        }
        state
    }

    fn judge(&self, version: Version) -> Judgement {
        self.state().judge(&self.method, version)
    }

    /// Checks the end over HTTP/1.1 and over HTTP/2.
    fn ends(&self, name: &str, expected: [Judgement; 2]) {
        for (version, expected) in HTTP.into_iter().zip(expected) {
            assert_eq!(
                self.judge(version),
                expected,
                "{name} over {version:?}: {self:?}"
            );
        }
    }

    /// Returns what is known at the end.
    fn details(&self, version: Version) -> EndDetails {
        let mut state = self.state();
        state.details(&self.method, version, None, Instant::now())
    }
}

#[test]
fn a_body_whose_end_is_seen() {
    full(5, &[LastData(5)]).ends("`Full`", [COMPLETE; 2]);
    full(0, &[]).ends("an empty body", [COMPLETE; 2]);
    stream(&[Data(3), Data(3), End]).ends("a chunked stream", [COMPLETE; 2]);
    stream(&[Data(5), Trailers(&[("x-end", "1")])]).ends("trailers", [COMPLETE; 2]);
    stream(&[Data(3), Data(3), Pending]).ends("a stream whose end is not seen", [INTERRUPTED; 2]);
}

#[test]
fn a_body_of_known_length() {
    let sized = |seen| Case {
        headers: &[("content-length", "6")],
        ..stream(seen)
    };
    sized(&[Data(3), Data(3), End]).ends("a stream with `content-length`", [COMPLETE; 2]);
    // HTTP/1 needs no more than the length, and HTTP/2 waits for the end of the body.
    sized(&[Data(3), Data(3)]).ends("a stream that never ends", [COMPLETE, INTERRUPTED]);
    full(6, &[Data(3), Data(3)]).ends("the same, by its exact size", [COMPLETE, INTERRUPTED]);
    sized(&[Data(3)]).ends("a client leaves mid-body", [INTERRUPTED; 2]);
    let too_short = failed(ResponseError::TooShort {
        declared: 6,
        yielded: 3,
    });
    sized(&[Data(3), End]).ends("a body shorter than declared", [too_short; 2]);
    let too_long = failed(ResponseError::TooLong {
        declared: 6,
        yielded: 8,
    });
    sized(&[Data(3), Data(5), End]).ends("a body longer than declared", [COMPLETE, too_long]);
    full(6, &[Data(8)]).ends("a body longer than its exact size", [COMPLETE, too_long]);
}

#[test]
fn an_exact_size_that_contradicts_the_head() {
    let contradicted = failed(ResponseError::Contradicted {
        declared: 7,
        hinted: 6,
    });
    let case = Case {
        headers: &[("content-length", "7")],
        ..full(6, &[Data(3), LastData(3)])
    };
    case.ends("a header beside another size", [contradicted; 2]);
    let left = Case {
        seen: &[Data(3)],
        ..case
    };
    left.ends("a client leaves before it matters", [INTERRUPTED; 2]);
    let contradicted = failed(ResponseError::Contradicted {
        declared: 7,
        hinted: 0,
    });
    let empty = Case {
        headers: &[("content-length", "7")],
        ..full(0, &[])
    };
    empty.ends(
        "HTTP/1 does not send the header of an empty body",
        [COMPLETE, contradicted],
    );
    let head = Case {
        method: Method::HEAD,
        ..empty
    };
    head.ends(
        "the header of an answer to `HEAD` is the length of the answer to `GET`",
        [COMPLETE; 2],
    );
}

#[test]
fn a_length_that_is_no_number() {
    let invalid = failed(ResponseError::InvalidLength);
    let case = |headers| Case {
        headers,
        ..stream(&[Data(3), Data(3), End])
    };
    for headers in [
        &[("content-length", "")],
        &[("content-length", "six")],
        &[("content-length", "+6")],
        &[("content-length", "6, 6")],
        // One more than the largest number.
        &[("content-length", "18446744073709551616")],
    ] {
        case(headers).ends("no number", [COMPLETE, invalid]);
        let head = Case {
            method: Method::HEAD,
            seen: &[],
            ..case(headers)
        };
        head.ends("no number in the answer to `HEAD`", [COMPLETE, invalid]);
    }
    case(&[("content-length", "006")]).ends("leading zeros", [COMPLETE; 2]);
    // The header is found among many, too.
    let among = &[
        ("a", ""),
        ("b", ""),
        ("c", ""),
        ("d", ""),
        ("e", ""),
        ("content-length", "x"),
    ];
    case(among).ends("no number among other headers", [COMPLETE, invalid]);
}

#[test]
fn a_response_that_can_have_no_body() {
    let not_allowed = failed(ResponseError::NotAllowed);
    for (method, status) in [
        (Method::GET, 204),
        (Method::GET, 304),
        (Method::HEAD, 200),
        (Method::CONNECT, 200),
    ] {
        let case = |body: Case| Case {
            method: method.clone(),
            status,
            ..body
        };
        case(full(0, &[])).ends("without body", [COMPLETE; 2]);
        case(full(5, &[])).ends("with a body that is not polled", [COMPLETE; 2]);
        case(full(5, &[LastData(5)])).ends("with a body", [COMPLETE, not_allowed]);
        case(stream(&[Pending])).ends("with a body that is polled in vain", [INTERRUPTED; 2]);
    }
    let refused = Case {
        method: Method::CONNECT,
        status: 404,
        ..full(5, &[])
    };
    refused.ends("a refused `CONNECT` has a body", [INTERRUPTED; 2]);
}

#[test]
fn an_informational_status() {
    let informational = failed(ResponseError::InformationalStatus);
    for status in [100, 102, 103, 199] {
        Case {
            status,
            ..full(0, &[])
        }
        .ends("no final status", [informational; 2]);
        Case {
            status,
            ..stream(&[Error])
        }
        .ends("no final status, and a failed body", [informational; 2]);
    }
    // A WebSocket upgrade.
    let upgrade = Case {
        status: 101,
        ..full(0, &[])
    };
    upgrade.ends("101", [COMPLETE, informational]);
    assert_eq!(
        upgrade.judge(Version::HTTP_10),
        informational,
        "only HTTP/1.1 has upgrades"
    );
}

#[test]
fn a_body_that_fails_or_panics() {
    let body = failed(ResponseError::Body);
    stream(&[Error]).ends("before the first frame", [body; 2]);
    stream(&[Data(3), Error]).ends("after the first frame", [body; 2]);
    full(3, &[Data(3), Error]).ends("after its length", [body; 2]);
    stream(&[Data(3), Panic]).ends("a panic", [PANICKED; 2]);
    stream(&[Data(3), Panic, End]).ends("a panic, although the body goes on", [PANICKED; 2]);
    Case {
        status: 100,
        ..stream(&[Panic])
    }
    .ends("a panic under any status", [PANICKED; 2]);
}

#[test]
fn without_a_head() {
    for version in HTTP {
        let state = BodyState::default();
        assert_eq!(
            state.judge(&Method::GET, version),
            (EndKind::NoResponse, None)
        );
        state.note_panic();
        assert_eq!(state.judge(&Method::GET, version), PANICKED);
    }
}

/// A server that unwinds drops a response as a client does that leaves. It is judged after that.
#[test]
fn while_the_thread_unwinds() {
    struct Dropped<'a>(&'a mut BodyState);
    impl Drop for Dropped<'_> {
        fn drop(&mut self) {
            self.0.note_drop();
        }
    }
    let mut state = stream(&[Data(3)]).state();
    drop(Dropped(&mut state));
    assert_eq!(state.judge(&Method::GET, Version::HTTP_11), INTERRUPTED);
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let _response = Dropped(&mut state);
        resume_unwind(Box::new("the server panics"));
    }));
    assert!(unwound.is_err());
    assert_eq!(state.judge(&Method::GET, Version::HTTP_11), PANICKED);
}

/// HTTP/1.0 and HTTP/0.9 go by the rules of HTTP/1.1, and HTTP/3 by those of HTTP/2.
#[test]
fn the_other_versions() {
    let case = full(6, &[Data(3), Data(3)]);
    for (version, expected) in [
        (Version::HTTP_09, COMPLETE),
        (Version::HTTP_10, COMPLETE),
        (Version::HTTP_3, INTERRUPTED),
    ] {
        assert_eq!(case.judge(version), expected, "{version:?}");
    }
}

#[test]
fn what_is_known_of_grpc() {
    const GRPC: &[(&str, &str)] = &[("content-type", "application/grpc")];
    const STATUS: &[(&str, &str)] = &[("content-type", "application/grpc"), ("grpc-status", "5")];
    let known = |case: Case| {
        let details = case.details(Version::HTTP_2);
        (
            details.kind,
            details.bytes,
            details.is_grpc,
            details.grpc_status,
        )
    };
    let ended = |status: &'static [Seen]| Case {
        headers: GRPC,
        ..stream(status)
    };
    let (complete, interrupted) = (EndKind::Complete, EndKind::Interrupted);
    assert_eq!(
        known(ended(&[Data(7), Trailers(&[("grpc-status", "0")])])),
        (complete, 7, true, Some(0)),
        "unary"
    );
    assert_eq!(
        known(ended(&[Data(7), Trailers(&[("grpc-status", "15")])])),
        (complete, 7, true, Some(15)),
        "an error"
    );
    assert_eq!(
        known(ended(&[Data(7), Pending])),
        (interrupted, 7, true, None),
        "a client cancels mid-stream"
    );
    assert_eq!(
        known(ended(&[Trailers(&[("grpc-status", "x")])])),
        (complete, 0, true, None),
        "no number"
    );
    // Without a message the status is in the head. Before a message it is not the status.
    assert_eq!(
        known(Case {
            headers: STATUS,
            ..full(0, &[])
        }),
        (complete, 0, true, Some(5)),
        "trailers-only"
    );
    assert_eq!(
        known(Case {
            headers: STATUS,
            ..stream(&[Data(7)])
        }),
        (interrupted, 7, true, None)
    );
    assert_eq!(
        known(Case {
            headers: STATUS,
            ..full(0, &[Trailers(&[])])
        }),
        (complete, 0, true, Some(5))
    );
}

#[cfg(feature = "sent")]
#[test]
fn http1_does_not_send_what_is_beyond_the_length() {
    let state = full(6, &[Data(8)]).state();
    assert_eq!(
        (
            state.sendable(Version::HTTP_11),
            state.sendable(Version::HTTP_2)
        ),
        (6, 8)
    );
    assert_eq!(stream(&[Data(8)]).state().sendable(Version::HTTP_11), 8);
}
