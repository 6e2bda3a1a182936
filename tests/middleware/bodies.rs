//! How responses with wrong bodies end. The bodies yield any frames, state any end and size, fail,
//! panic, go on after their end, and are dropped at any step. Each method, status and version is
//! tried.
//!
//! Each case is compared with a short model of the contract. It is also compared with the same body
//! without the layer, which must have been used in exactly the same way.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use crate::common::{Scripted, soon};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Empty;
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use tokio::sync::mpsc;
use tower::{Layer, Service, service_fn};
use tower_background::{
    BackgroundLayer, BackgroundTasksExt, EndKind, Observer, ResponseEnd, Supervisor, Task,
    TaskContext, When,
};

/// What a body does at a poll.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Does {
    Data(usize),
    Trailers(Option<&'static str>),
    Fail,
    Panic,
    Pend,
    EndKind,
}

/// A poll, and what the body says of itself after it.
#[derive(Debug, Clone, Copy)]
struct Step {
    does: Does,
    says: Says,
}

#[derive(Debug, Clone, Copy)]
struct Says {
    at_end: bool,
    lower: u64,
    upper: Option<u64>,
}

impl Says {
    const fn exact(self) -> Option<u64> {
        match self.upper {
            Some(upper) if upper == self.lower => self.upper,
            _ => None,
        }
    }
}

/// What the service does with the call.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Serves {
    Answer,
    Fail,
    PanicInCall,
    Panic,
    Pend,
}

/// How the server lets go of what it has.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Leaves {
    Drops,
    /// By a panic of its own.
    Unwinds,
    /// And the body panics at it.
    DropPanics,
}

#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
struct Case {
    method: Method,
    version: Version,
    serves: Serves,
    status: StatusCode,
    response_version: Version,
    content_length: Option<&'static str>,
    grpc_status: Option<&'static str>,
    /// Whether the content type is one of gRPC.
    grpc: bool,
    says: Says,
    steps: Vec<Step>,
    polls: usize,
    leaves: Leaves,
    /// Whether the head is dropped after the body, as frameworks do which replace bodies.
    head_last: bool,
    /// Whether the layer is there twice.
    twice: bool,
    observed: bool,
}

impl Case {
    /// What the body does at its polls; it has ended for good when the script is over.
    fn step(&self, index: usize) -> Step {
        let says = self.steps.last().map_or(self.says, |step| step.says);
        self.steps.get(index).copied().unwrap_or(Step {
            does: Does::EndKind,
            says,
        })
    }
}

fn says() -> impl Strategy<Value = Says> {
    let hint = prop_oneof![
        4 => Just((0, None)),
        4 => (0..8_u64).prop_map(|exact| (exact, Some(exact))),
        1 => (0..8_u64, 1..4_u64).prop_map(|(lower, more)| (lower, Some(lower + more))),
        1 => (0..8_u64).prop_map(|lower| (lower, None)),
        1 => Just((u64::MAX, Some(u64::MAX))),
    ];
    (prop::bool::weighted(0.2), hint).prop_map(|(at_end, (lower, upper))| Says {
        at_end,
        lower,
        upper,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let does = prop_oneof![
        8 => (1..5_usize).prop_map(Does::Data),
        1 => Just(Does::Data(0)),
        1 => grpc_status().prop_map(Does::Trailers),
        1 => Just(Does::Fail),
        1 => Just(Does::Panic),
        2 => Just(Does::Pend),
        2 => Just(Does::EndKind),
    ];
    (does, says()).prop_map(|(does, says)| Step { does, says })
}

fn grpc_status() -> impl Strategy<Value = Option<&'static str>> {
    prop::sample::select(vec![None, None, Some("0"), Some("13"), Some("none")])
}

fn version() -> impl Strategy<Value = Version> {
    prop::sample::select(vec![
        Version::HTTP_11,
        Version::HTTP_11,
        Version::HTTP_2,
        Version::HTTP_10,
        Version::HTTP_09,
        Version::HTTP_3,
    ])
}

fn case() -> impl Strategy<Value = Case> {
    let method = prop::sample::select(vec![
        Method::GET,
        Method::GET,
        Method::POST,
        Method::HEAD,
        Method::CONNECT,
    ]);
    let serves = prop_oneof![
        20 => Just(Serves::Answer),
        1 => Just(Serves::Fail),
        1 => Just(Serves::PanicInCall),
        1 => Just(Serves::Panic),
        1 => Just(Serves::Pend),
    ];
    let status = prop_oneof![
        6 => Just(200),
        3 => prop::sample::select(vec![100, 101, 103, 199, 204, 205, 206, 299, 300, 304, 399, 400, 404, 500]),
        1 => 100..1_000_u16,
    ]
    .prop_map(|status| StatusCode::from_u16(status).expect("it has three digits"));
    // The longest is one more than the longest number that there can be.
    let lengths = vec![
        "0",
        "1",
        "2",
        "3",
        "4",
        "5",
        "6",
        "7",
        "007",
        "",
        "x",
        "5x",
        "-1",
        "+0",
        "+5",
        "5, 5",
        "18446744073709551616",
    ];
    let content_length = prop::option::of(prop::sample::select(lengths));
    let leaves = prop_oneof![8 => Just(Leaves::Drops), 1 => Just(Leaves::Unwinds), 1 => Just(Leaves::DropPanics)];
    let head = (
        method,
        version(),
        serves,
        status,
        prop_oneof![3 => Just(Version::HTTP_11), 1 => version()],
    );
    let body = (
        content_length,
        grpc_status(),
        says(),
        prop::collection::vec(step(), 0..6),
        0..9_usize,
        leaves,
    );
    (head, body, any::<[bool; 4]>()).prop_map(|(head, body, [head_last, twice, observed, grpc])| {
        let (method, version, serves, status, response_version) = head;
        let (content_length, grpc_status, says, steps, polls, leaves) = body;
        Case {
            method,
            version,
            serves,
            status,
            response_version,
            content_length,
            grpc_status,
            grpc,
            says,
            steps,
            polls,
            leaves,
            head_last,
            twice,
            observed,
        }
    })
}

/// How a response ends.
#[derive(Debug, Clone, PartialEq)]
struct Expected {
    kind: EndKind,
    /// In words, as only the crate can make errors with figures.
    error: String,
    status: Option<StatusCode>,
    version: Version,
    bytes: u64,
    grpc_status: Option<i32>,
    trailers: Option<HeaderMap>,
    success: bool,
}

/// The model: the contract, read from top to bottom.
fn model(case: &Case) -> (EndKind, String, u64) {
    let unwinds = case.leaves == Leaves::Unwinds;
    match case.serves {
        Serves::Fail => return (EndKind::ServiceError, String::new(), 0),
        Serves::PanicInCall | Serves::Panic => return (EndKind::Panicked, String::new(), 0),
        Serves::Pend if unwinds => return (EndKind::Panicked, String::new(), 0),
        Serves::Pend => return (EndKind::NoResponse, String::new(), 0),
        Serves::Answer => {}
    }
    let seen = polled(case);
    let bytes = seen
        .iter()
        .map(|step| {
            if let Does::Data(length) = step.does {
                length as u64
            } else {
                0
            }
        })
        .sum::<u64>();
    let multiplexed = matches!(case.version, Version::HTTP_2 | Version::HTTP_3);

    // A body that returned `None` has ended the response. Later polls do not matter.
    let over = seen.last().is_some_and(|step| step.does == Does::EndKind);
    let has_panicked = seen.iter().any(|step| step.does == Does::Panic);
    if has_panicked || (!over && case.leaves != Leaves::Drops) {
        return (EndKind::Panicked, String::new(), bytes);
    }
    let status = case.status.as_u16();
    let is_upgrade = status == 101 && case.version == Version::HTTP_11;
    if matches!(status, 100..=199) && !is_upgrade {
        return (EndKind::Failed, "InformationalStatus".to_owned(), bytes);
    }
    if seen.iter().any(|step| step.does == Does::Fail) {
        return (EndKind::Failed, "Body".to_owned(), bytes);
    }
    let header = case.content_length.map(length);
    if multiplexed && header == Some(None) {
        return (EndKind::Failed, "InvalidLength".to_owned(), bytes);
    }

    let noted = case.says.at_end
        || seen.iter().any(|step| match step.does {
            Does::EndKind | Does::Trailers(_) => true,
            Does::Data(_) => step.says.at_end,
            Does::Fail | Does::Panic | Does::Pend => false,
        })
        // The server asked after the last poll.
        || seen.last().is_some_and(|step| step.says.at_end);
    let no_body_allowed = case.method == Method::HEAD
        || is_upgrade
        || matches!(status, 204 | 304)
        || (case.method == Method::CONNECT && matches!(status, 200..=299));
    if no_body_allowed {
        // What is declared then is the length that another request's response would have.
        return match () {
            () if multiplexed && bytes > 0 => (EndKind::Failed, "NotAllowed".to_owned(), bytes),
            () if noted || seen.is_empty() => (EndKind::Complete, String::new(), bytes),
            () => (EndKind::Interrupted, String::new(), bytes),
        };
    }
    let header = header.flatten();
    if let Some(declared) = case.says.exact().or(header) {
        if multiplexed && bytes > declared {
            return (
                EndKind::Failed,
                format!("TooLong {{ declared: {declared}, yielded: {bytes} }}"),
                bytes,
            );
        }
        if noted && bytes < declared {
            return (
                EndKind::Failed,
                format!("TooShort {{ declared: {declared}, yielded: {bytes} }}"),
                bytes,
            );
        }
        if noted || (!multiplexed && bytes >= declared) {
            // The header contradicts the size. HTTP/1 does not send the header if there is only a
            // head.
            return match header
                .filter(|header| *header != declared && (multiplexed || !case.says.at_end))
            {
                Some(header) => (
                    EndKind::Failed,
                    format!("Contradicted {{ declared: {header}, hinted: {declared} }}"),
                    bytes,
                ),
                None => (EndKind::Complete, String::new(), bytes),
            };
        }
    }
    (
        if noted {
            EndKind::Complete
        } else {
            EndKind::Interrupted
        },
        String::new(),
        bytes,
    )
}

/// A length that is one.
fn length(text: &str) -> Option<u64> {
    text.parse()
        .ok()
        .filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The polls that are the response's: none after the first `None`.
fn polled(case: &Case) -> Vec<Step> {
    let mut seen = Vec::new();
    for index in 0..case.polls {
        seen.push(case.step(index));
        if case.step(index).does == Does::EndKind {
            break;
        }
    }
    seen
}

fn expected(case: &Case) -> Expected {
    let (kind, error, bytes) = model(case);
    let answers = case.serves == Serves::Answer;
    let seen = if answers { polled(case) } else { Vec::new() };
    let trailers = || {
        seen.iter().rev().filter_map(|step| match step.does {
            Does::Trailers(grpc_status) => Some(grpc_status),
            _ => None,
        })
    };
    // A status in the head is one only if no message follows.
    let in_head = case.grpc_status.filter(|_| answers && case.says.at_end);
    let number = |text: &str| text.parse::<i32>().ok();
    let grpc_status = trailers()
        .flatten()
        .find_map(number)
        .or_else(|| in_head.and_then(number));
    Expected {
        kind,
        error,
        status: answers.then_some(case.status),
        version: case.version,
        bytes,
        grpc_status,
        trailers: trailers().next().map(trailer_map),
        success: matches!(kind, EndKind::Complete | EndKind::Interrupted)
            && case.status.as_u16() < 400
            && grpc_status.map_or(!case.grpc, |status| status == 0),
    }
}

fn trailer_map(grpc_status: Option<&'static str>) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-end", HeaderValue::from_static("1"));
    if let Some(status) = grpc_status {
        trailers.insert("grpc-status", HeaderValue::from_static(status));
    }
    trailers
}

/// The body that does what the case says.
#[derive(Debug)]
struct Liar {
    case: Case,
    polls: usize,
}

impl Liar {
    fn says(&self) -> Says {
        self.polls
            .checked_sub(1)
            .map_or(self.case.says, |last| self.case.step(last).says)
    }
}

impl Body for Liar {
    type Data = Bytes;
    type Error = Scripted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Scripted>>> {
        let step = self.case.step(self.polls);
        self.polls += 1;
        let filler = if self.polls % 2 == 0 { b'0' } else { b'1' };
        match step.does {
            Does::Data(length) => Poll::Ready(Some(Ok(Frame::data(vec![filler; length].into())))),
            Does::Trailers(grpc_status) => {
                Poll::Ready(Some(Ok(Frame::trailers(trailer_map(grpc_status)))))
            }
            Does::Fail => Poll::Ready(Some(Err(Scripted))),
            // Not reported to the test's output.
            Does::Panic => resume_unwind(Box::new("the case panics")),
            Does::Pend => Poll::Pending,
            Does::EndKind => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.says().at_end
    }

    fn size_hint(&self) -> SizeHint {
        let says = self.says();
        let mut hint = SizeHint::new();
        hint.set_lower(says.lower);
        says.upper
            .into_iter()
            .for_each(|upper| hint.set_upper(upper));
        hint
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        if self.case.leaves == Leaves::DropPanics {
            resume_unwind(Box::new("the case panics when it is dropped"));
        }
    }
}

/// Something of the service's own in the response's extensions.
#[derive(Debug, Clone, PartialEq)]
struct Extension(&'static str);

fn response(case: &Case) -> Response<Liar> {
    let mut response = Response::new(Liar {
        case: case.clone(),
        polls: 0,
    });
    *response.status_mut() = case.status;
    *response.version_mut() = case.response_version;
    response.extensions_mut().insert(Extension("the service's"));
    if let Some(length) = case.content_length {
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from_static(length));
    }
    if case.grpc {
        response.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/grpc+proto"),
        );
    }
    if let Some(status) = case.grpc_status {
        response
            .headers_mut()
            .insert("grpc-status", HeaderValue::from_static(status));
    }
    response
}

/// What a server sees of a response, in words.
fn look<B: Body<Data = Bytes, Error = Scripted>>(body: &mut Pin<Box<B>>) -> (String, bool) {
    let polled = catch_unwind(AssertUnwindSafe(|| {
        body.as_mut()
            .poll_frame(&mut Context::from_waker(Waker::noop()))
    }));
    let over = matches!(polled, Ok(Poll::Ready(None)));
    let polled = match polled {
        Ok(polled) => format!("{polled:?}"),
        Err(panic) => format!("a panic with {:?}", panic.downcast_ref::<&str>()),
    };
    (format!("{polled}, {}", state(body)), over)
}

fn state<B: Body>(body: &Pin<Box<B>>) -> String {
    format!(
        "at its end: {}, {:?}",
        body.is_end_stream(),
        body.size_hint()
    )
}

/// Lets go of something in the way of the case.
fn leave<T>(case: &Case, what: T) {
    let left = catch_unwind(AssertUnwindSafe(|| {
        let _what = what;
        if case.leaves == Leaves::Unwinds {
            resume_unwind(Box::new("the server panics"));
        }
    }));
    assert!(
        left.is_ok() || case.leaves != Leaves::Drops,
        "a drop panics"
    );
}

/// Sees all ends of responses.
#[derive(Debug, Clone, Default)]
struct Ends(Arc<Mutex<Vec<ResponseEnd>>>);

impl Observer for Ends {
    fn on_response_end(&self, end: &ResponseEnd) {
        self.0.lock().unwrap().push(end.clone());
    }
}

/// Drives a request as a server does, with as many polls as the case says. Checks at each step
/// whether the tasks have started.
fn drive<S, B>(case: &Case, mut service: S, supervisor: &Supervisor)
where
    S: Service<Request<()>, Response = Response<B>, Error = Scripted>,
    B: Body<Data = Bytes, Error = Scripted>,
{
    let collected = || supervisor.stats().deferred;
    let request = Request::builder()
        .method(case.method.clone())
        .version(case.version)
        .body(())
        .expect("it is valid");
    let Ok(future) = catch_unwind(AssertUnwindSafe(|| service.call(request))) else {
        assert_eq!((case.serves, collected()), (Serves::PanicInCall, 0));
        return;
    };
    let mut future = Box::pin(future);
    assert_eq!(collected(), 1, "nothing starts before the head");
    let polled = catch_unwind(AssertUnwindSafe(|| {
        future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
    }));
    let response = match polled {
        Ok(Poll::Ready(Ok(response))) => response,
        other => {
            let ended = matches!(other, Ok(Poll::Ready(Err(_))));
            assert_eq!(
                collected(),
                u64::from(!ended),
                "a future that is not ready still holds its tasks"
            );
            leave(case, future);
            return;
        }
    };
    drop(future);
    let (head, body) = response.into_parts();
    let mut body = Box::pin(body);
    let (bare_head, bare_body) = self::response(case).into_parts();
    let mut bare_body = Box::pin(bare_body);
    assert_eq!(
        (head.status, head.version, &head.headers),
        (bare_head.status, bare_head.version, &bare_head.headers)
    );
    assert_eq!(
        head.extensions.get::<Extension>(),
        bare_head.extensions.get::<Extension>()
    );
    assert_eq!(
        state(&body),
        state(&bare_body),
        "the head's body is the same"
    );

    let mut head = Some(head).filter(|_| case.head_last);
    let mut over = false;
    for poll in 0..case.polls {
        assert_eq!(
            collected(),
            u64::from(!over),
            "tasks are held until the end, before poll {poll}"
        );
        let (seen, ended) = look(&mut body);
        assert_eq!(
            seen,
            look(&mut bare_body).0,
            "poll {poll} shows what the bare body shows"
        );
        over |= ended;
    }
    assert_eq!(
        collected(),
        u64::from(!over),
        "tasks are held until the end"
    );
    leave(
        &Case {
            leaves: Leaves::DropPanics,
            ..case.clone()
        },
        bare_body,
    );
    leave(case, body);
    if head.take().is_none() {
        assert_eq!(collected(), 0, "the drop of the body starts the tasks");
    }
}

/// Runs a case below the layer, and gives what was told of its end.
fn ending(case: &Case) -> ResponseEnd {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let _entered = runtime.enter();
    let ends = Ends::default();
    let by_task = Ends::default();
    let builder = Supervisor::builder();
    let supervisor = if case.observed {
        builder.observer(ends.clone()).build()
    } else {
        builder.build()
    };
    let layer = BackgroundLayer::with_supervisor(supervisor.clone());
    let (answer, task_ends) = (case.clone(), by_task.clone());
    let service = service_fn(move |request: Request<()>| {
        let ends = task_ends.clone();
        let task = Task::with_context(async move |cx: TaskContext| {
            ends.on_response_end(cx.end().expect("a request left the task"));
        });
        request
            .background_tasks()
            .expect("the layer is there")
            .add(task.when(When::Always));
        let case = answer.clone();
        if case.serves == Serves::PanicInCall {
            resume_unwind(Box::new("the service panics"));
        }
        async move {
            match case.serves {
                Serves::Answer => Ok(response(&case)),
                Serves::Fail => Err(Scripted),
                Serves::Panic | Serves::PanicInCall => resume_unwind(Box::new("the future panics")),
                Serves::Pend => std::future::pending().await,
            }
        }
    });
    if case.twice {
        drive(case, layer.layer(layer.layer(service)), &supervisor);
    } else {
        drive(case, layer.layer(service), &supervisor);
    }
    assert_eq!(
        (supervisor.open_responses(), supervisor.stats().deferred),
        (0, 0),
        "the response is over"
    );
    runtime.block_on(soon(supervisor.idle()));
    let stats = supervisor.stats();
    assert_eq!(
        (stats.added(), stats.succeeded),
        (1, 1),
        "the task ran, once: {stats:?}"
    );
    let by_task = by_task.0.lock().unwrap().clone();
    let [end] = &by_task[..] else {
        panic!("the task saw {by_task:?}")
    };
    let told = ends.0.lock().unwrap().clone();
    assert_eq!(
        told.len(),
        usize::from(case.observed),
        "a response ends once: {told:?}"
    );
    assert!(
        told.iter()
            .all(|told| format!("{told:?}") == format!("{end:?}")),
        "{told:?} and {end:?} are the same"
    );
    end.clone()
}

fn found(end: &ResponseEnd) -> Expected {
    Expected {
        kind: end.kind(),
        error: end
            .error()
            .map(|error| format!("{error:?}"))
            .unwrap_or_default(),
        status: end.status(),
        version: end.version(),
        bytes: end.bytes(),
        grpc_status: end.grpc_status(),
        trailers: end.trailers().cloned(),
        success: end.is_success(),
    }
}

// Eight times as many as usual, as each is short; `PROPTEST_CASES` asks for more.
proptest! {
    #![proptest_config(ProptestConfig {
        cases: 8 * ProptestConfig::default().cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn ends_as_the_contract_says(case in case()) {
        let end = ending(&case);
        prop_assert_eq!(found(&end), expected(&case));
        prop_assert_eq!(end.is_complete(), end.kind() == EndKind::Complete);
        prop_assert_eq!(end.method(), &case.method);
    }
}

/// A generator that misses a way to end proves nothing of it.
#[test]
fn cases_come_to_every_end() {
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeSet::new();
    for _ in 0..4_000 {
        let case = case()
            .new_tree(&mut runner)
            .expect("all cases are valid")
            .current();
        let (kind, error, _) = model(&case);
        seen.insert(format!(
            "{kind:?} {}",
            error.split(' ').next().unwrap_or_default()
        ));
    }
    let all = [
        "Complete ",
        "Failed Body",
        "Failed Contradicted",
        "Failed InformationalStatus",
        "Failed InvalidLength",
        "Failed NotAllowed",
        "Failed TooLong",
        "Failed TooShort",
        "Interrupted ",
        "NoResponse ",
        "Panicked ",
        "ServiceError ",
    ];
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), all);
}

/// The body of an answer to `HEAD` is dropped before the head is sent. A panic that drops the head
/// later is none of the service.
#[tokio::test]
async fn a_panic_that_drops_the_head_does_not_change_the_end() {
    let (sender, mut kinds) = mpsc::unbounded_channel();
    let mut service = BackgroundLayer::new().layer(service_fn(move |request: Request<()>| {
        let sender = sender.clone();
        let task = Task::with_context(|cx| async move {
            let kind = cx.end().map(ResponseEnd::kind);
            sender.send(kind).expect("the test is there");
        });
        request
            .background_tasks()
            .expect("the layer is there")
            .add(task);
        std::future::ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
    }));
    let request = Request::head("/").body(()).expect("a request");
    let response = service.call(request).await.expect("it answers");
    let (head, body) = response.into_parts();
    drop(body);
    let panicked = catch_unwind(AssertUnwindSafe(move || {
        let _head = head;
        panic!("a layer farther out panics");
    }));
    assert!(panicked.is_err());
    let kind = soon(kinds.recv()).await.expect("the task runs");
    assert_eq!(kind, Some(EndKind::Complete));
}
