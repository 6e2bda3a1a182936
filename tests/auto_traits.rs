//! Which public types can be sent, shared, moved when pinned, cloned and printed: a promise that a field can break unseen.

#![cfg(all(feature = "axum", feature = "sent-axum"))]

use std::{fmt, future::Ready, marker::PhantomData, marker::PhantomPinned, rc::Rc};

use http::Response;
use tower_background::{
    Background, BackgroundLayer, BackgroundTasks, BatchReport, BodyError, End, MissingLayer, Order, Outcome, Release,
    ResponseBody, ResponseEnd, ResponseFuture, RunningTask, SentBody, SentConnectInfo, SentConnection, SentFuture, SentLayer,
    SentListener, SentMakeFuture, SentMakeService, SentRouter, SentRouterFuture, SentService, SentStream, ShutdownReport, Stats,
    Supervisor, SupervisorBuilder, Task, TaskContext, TaskReport, TaskState, When,
};

/// Has a constant of its own for each trait that `T` has, which hides the one of `Without`.
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

/// Compares each type's traits with those that stand beside it.
macro_rules! assert_traits {
    ($($t:ty => $traits:literal),* $(,)?) => {{
        $(
            let traits = [With::<$t>::SEND, With::<$t>::SYNC, With::<$t>::UNPIN, With::<$t>::CLONE, With::<$t>::DEBUG];
            assert_eq!(traits.join(" "), $traits, "{}", stringify!($t));
        )*
    }};
}

/// What a framework needs of a service is there if the wrapped one has it, and only then.
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
        SentLayer => "Send Sync Unpin Clone Debug",
        SentService<()> => "Send Sync Unpin Clone Debug",
        SentService<Local> => "- - Unpin Clone Debug",
        SentFuture<Served> => "Send Sync Unpin - Debug",
        SentFuture<PhantomPinned> => "Send Sync - - Debug",
        SentBody<String> => "Send Sync Unpin - Debug",
        SentBody<PhantomPinned> => "Send Sync - - Debug",
        SentStream<()> => "Send Sync Unpin - Debug",
        SentStream<Local> => "- - Unpin - Debug",
        SentStream<PhantomPinned> => "Send Sync - - Debug",
        SentListener<()> => "Send Sync Unpin - Debug",
        SentMakeService<()> => "Send Sync Unpin Clone Debug",
        SentMakeFuture<Served> => "Send Sync Unpin - Debug",
        SentRouter<()> => "Send Sync Unpin Clone Debug",
        SentRouterFuture<Served> => "Send Sync Unpin - Debug",
    ];
}

/// Handles and what is told can go to any thread.
#[test]
fn handles_and_reports_can_be_sent_and_shared() {
    assert_traits![
        BackgroundTasks => "Send Sync Unpin Clone Debug",
        Task => "Send - Unpin - Debug",
        TaskContext => "Send Sync Unpin Clone Debug",
        When => "Send Sync Unpin Clone Debug",
        Order => "Send Sync Unpin Clone Debug",
        Release => "Send Sync Unpin Clone Debug",
        Outcome => "Send Sync Unpin - Debug",
        BodyError => "Send Sync Unpin Clone Debug",
        End => "Send Sync Unpin Clone Debug",
        ResponseEnd => "Send Sync Unpin Clone Debug",
        MissingLayer => "Send Sync Unpin Clone Debug",
        Supervisor => "Send Sync Unpin Clone Debug",
        SupervisorBuilder => "Send Sync Unpin - Debug",
        Stats => "Send Sync Unpin Clone Debug",
        RunningTask => "Send Sync Unpin Clone Debug",
        TaskState => "Send Sync Unpin Clone Debug",
        TaskReport => "Send Sync Unpin - Debug",
        BatchReport => "Send Sync Unpin - Debug",
        ShutdownReport => "Send Sync Unpin Clone Debug",
        SentConnection => "Send Sync Unpin Clone Debug",
        SentConnectInfo => "Send Sync Unpin Clone Debug",
    ];
}
