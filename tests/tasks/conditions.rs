//! Which conditions hold after each end of a response, and how to test a handler without a server.

use http::StatusCode;
use tower_background::{BackgroundTasks, EndKind, Stats, Supervisor, Task, When};

use crate::common::{Call, soon};

const CONDITIONS: [(&str, When); 5] = [
    ("Responded", When::Responded),
    ("Success", When::Success),
    ("Complete", When::Complete),
    ("Delivered", When::Delivered),
    ("Always", When::Always),
];

/// The conditions that hold after this end.
async fn held(kind: EndKind, status: StatusCode) -> Vec<&'static str> {
    let mut held = Vec::new();
    for (name, when) in CONDITIONS {
        let tasks = BackgroundTasks::for_test();
        tasks.add(Task::new(async {}).when(when));
        let Stats {
            succeeded, skipped, ..
        } = soon(tasks.end_for_test(kind, status)).await;
        assert_eq!(succeeded + skipped, 1);
        if succeeded == 1 {
            held.push(name);
        }
    }
    held
}

#[tokio::test(start_paused = true)]
async fn an_end_is_printed_in_few_words() {
    let tasks = BackgroundTasks::for_test();
    let (print, printed) = tokio::sync::oneshot::channel();
    tasks.add(Task::with_context(|cx| async move {
        let end = cx.end().expect("the task has a request");
        print.send(format!("{end:?}")).expect("the test is there");
    }));
    soon(tasks.end_for_test(EndKind::Complete, StatusCode::OK)).await;
    assert_eq!(
        printed.await.expect("the task ran"),
        "ResponseEnd { kind: Complete, method: GET, path: \"/\", status: Some(200), bytes: 0, \
         elapsed: 0ns, .. }"
    );
}

/// The table of the documentation of [`When`], where there is a head.
#[tokio::test]
async fn after_each_end_with_a_head() {
    let (ok, redirect) = (StatusCode::OK, StatusCode::PERMANENT_REDIRECT);
    let (bad, broken) = (StatusCode::BAD_REQUEST, StatusCode::INTERNAL_SERVER_ERROR);
    for status in [ok, redirect] {
        let all = ["Responded", "Success", "Complete", "Delivered", "Always"];
        assert_eq!(held(EndKind::Complete, status).await, all);
        for kind in [EndKind::Interrupted, EndKind::Unfinished] {
            assert_eq!(
                held(kind, status).await,
                ["Responded", "Success", "Always"],
                "{kind:?}"
            );
        }
    }
    for status in [bad, broken] {
        assert_eq!(
            held(EndKind::Complete, status).await,
            ["Responded", "Complete", "Always"]
        );
        for kind in [EndKind::Interrupted, EndKind::Unfinished] {
            assert_eq!(
                held(kind, status).await,
                ["Responded", "Always"],
                "{kind:?}"
            );
        }
    }
    for status in [ok, broken] {
        for kind in [EndKind::Failed, EndKind::Panicked] {
            assert_eq!(
                held(kind, status).await,
                ["Responded", "Always"],
                "{kind:?}"
            );
        }
    }
}

#[tokio::test]
async fn after_each_end_without_a_head() {
    for kind in [EndKind::ServiceError, EndKind::NoResponse] {
        assert_eq!(held(kind, StatusCode::OK).await, ["Always"], "{kind:?}");
    }
    let tasks = BackgroundTasks::for_test();
    let (tell, told) = tokio::sync::oneshot::channel();
    let task = Task::with_context(|cx| async move {
        let end = cx.end().expect("the task has a request");
        tell.send((end.kind(), end.status(), end.time_to_head()))
            .expect("the test is there");
    });
    tasks.add(task.when(When::Always));
    soon(tasks.end_for_test(EndKind::NoResponse, StatusCode::OK)).await;
    assert_eq!(
        told.await.expect("the task ran"),
        (EndKind::NoResponse, None, None)
    );
}

#[tokio::test]
async fn a_client_leaves_before_the_head() {
    let supervisor = Supervisor::new();
    let call = Call::new(&supervisor, "/");
    for (name, when) in CONDITIONS {
        let task = if name == "Always" {
            Task::new(async {})
        } else {
            Task::new(async { assert_eq!(1, 2, "it must not run") })
        };
        call.tasks.add(task.when(when));
    }
    call.cancel().await;
    soon(supervisor.idle()).await;
    assert_eq!(
        (supervisor.stats().skipped, supervisor.stats().succeeded),
        (4, 1)
    );
}

#[tokio::test]
async fn a_handler_is_tested_without_a_server() {
    fn sign_up(tasks: &BackgroundTasks) -> StatusCode {
        tasks.add(
            Task::new(async {})
                .named("welcome-mail")
                .when(When::Success),
        );
        tasks.add(Task::with_context(async |cx| {
            let end = cx.end().expect("it has one");
            assert_eq!(
                (end.kind(), end.status(), end.path()),
                (EndKind::Interrupted, Some(StatusCode::CREATED), "/")
            );
        }));
        StatusCode::CREATED
    }
    let tasks = BackgroundTasks::for_test();
    let status = sign_up(&tasks);
    assert_eq!(tasks.names(), [Some("welcome-mail".to_owned()), None]);
    assert_eq!(tasks.supervisor().stats().deferred, 2);
    let first = soon(tasks.end_for_test(EndKind::Interrupted, status)).await;
    assert_eq!((first.succeeded, first.added()), (2, 2), "{first:?}");

    // A task that is added later starts at once, and a second end starts nothing again.
    tasks.add(async {});
    let second = soon(tasks.end_for_test(EndKind::Complete, status)).await;
    assert_eq!((second.succeeded, second.added()), (3, 3), "{second:?}");

    assert_ne!(
        tasks.supervisor(),
        BackgroundTasks::for_test().supervisor(),
        "each test has its own supervisor"
    );
}
