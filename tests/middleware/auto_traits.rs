//! The public types are `Send`, `Sync`, `Unpin`, `Clone` and `Debug` as promised. A private field
//! can break these promises.

use std::{fmt, future::Ready, marker::PhantomData, marker::PhantomPinned, rc::Rc};

use http::Response;
use tower_background::{
    BackgroundLayer, BackgroundTasks, EndKind, MissingLayer, NotInRequest, Order, Outcome, Refused,
    ResponseEnd, StartOn, Stats, Supervisor, SupervisorBuilder, Task, TaskContext, TaskHandle,
    When,
    middleware::{Background, ResponseBody, ResponseFuture},
    report::{Busy, RequestReport, ResponseError, ShutdownReport, TaskInfo, TaskReport, TaskState},
};

/// Has a constant for each trait that `T` has. It hides the constant of `Without`.
struct With<T>(PhantomData<T>);

trait Without {
    const SEND: &str = "-";
    const SYNC: &str = "-";
    const UNPIN: &str = "-";
    const CLONE: &str = "-";
    const DEBUG: &str = "-";
}

impl<T> Without for With<T> {}

macro_rules! with {
    ($($constant:ident: $bound:path, $name:literal);*) => {
        $(impl<T: $bound> With<T> {
            const $constant: &str = $name;
        })*
    };
}

with!(SEND: Send, "Send"; SYNC: Sync, "Sync"; UNPIN: Unpin, "Unpin"; CLONE: Clone, "Clone"; DEBUG: fmt::Debug, "Debug");

/// Compares the traits of each type with those beside it.
macro_rules! assert_traits {
    ($($t:ty => $traits:literal),* $(,)?) => {{
        $(
            let traits = [With::<$t>::SEND, With::<$t>::SYNC, With::<$t>::UNPIN, With::<$t>::CLONE, With::<$t>::DEBUG];
            assert_eq!(traits.join(" "), $traits, "{}", stringify!($t));
        )*
    }};
}

/// A wrapper has the traits that frameworks need if the wrapped value has them.
#[test]
fn wrappers_have_the_traits_of_what_they_wrap() {
    type Local = Rc<()>;
    type Served = Ready<Response<String>>;
    assert_traits![
        Box<dyn Fn()> => "- - Unpin - -",
        BackgroundLayer => "Send Sync Unpin Clone Debug",
        Background<()> => "Send Sync Unpin Clone Debug",
        Background<Local> => "- - Unpin Clone Debug",
        ResponseFuture<Served> => "Send Sync Unpin - Debug",
        ResponseFuture<Local> => "- - Unpin - Debug",
        ResponseFuture<PhantomPinned> => "Send Sync - - Debug",
        ResponseBody<String> => "Send Sync Unpin - Debug",
        ResponseBody<Local> => "- - Unpin - Debug",
        ResponseBody<PhantomPinned> => "Send Sync - - Debug",
    ];
}

#[test]
fn handles_and_reports_can_be_sent_and_shared() {
    assert_traits![
        BackgroundTasks => "Send Sync Unpin Clone Debug",
        Task => "Send - Unpin - Debug",
        TaskContext => "Send Sync Unpin Clone Debug",
        TaskHandle => "Send Sync Unpin - Debug",
        Refused => "Send Sync Unpin - Debug",
        When => "Send Sync Unpin Clone Debug",
        Order => "Send Sync Unpin Clone Debug",
        StartOn => "Send Sync Unpin Clone Debug",
        Outcome => "Send Sync Unpin - Debug",
        ResponseError => "Send Sync Unpin Clone Debug",
        EndKind => "Send Sync Unpin Clone Debug",
        ResponseEnd => "Send Sync Unpin Clone Debug",
        MissingLayer => "Send Sync Unpin Clone Debug",
        NotInRequest => "Send Sync Unpin Clone Debug",
        Supervisor => "Send Sync Unpin Clone Debug",
        SupervisorBuilder => "Send Sync Unpin - Debug",
        Stats => "Send Sync Unpin Clone Debug",
        TaskInfo => "Send Sync Unpin Clone Debug",
        TaskState => "Send Sync Unpin Clone Debug",
        TaskReport => "Send Sync Unpin - Debug",
        RequestReport => "Send Sync Unpin - Debug",
        ShutdownReport => "Send Sync Unpin Clone Debug",
        Busy => "Send Sync Unpin Clone Debug",
    ];
}
