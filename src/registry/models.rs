//! Models of what happens to the tasks of a request at the same time. loom runs each model in every
//! order that threads can take.
//!
//! `RUSTC_WORKSPACE_WRAPPER="$PWD/.ci/with-loom" cargo test --lib models` runs them. There is no
//! runtime in a model, so a task that starts is dropped at once, and counts as aborted.

use std::sync::Arc;

use http::Request;
use loom::{future::block_on, thread};
use tokio::time::Instant;

use super::state::RequestState;
use crate::{
    response::BodyState,
    supervisor::{Stats, Supervisor},
    task::{Order, Task},
    util::sync::check,
};

fn request(supervisor: &Supervisor) -> Arc<RequestState> {
    let request = Request::new(());
    RequestState::open(supervisor, true, &request, Instant::now(), None)
}

fn finish(state: &Arc<RequestState>) {
    state.finish(BodyState::default(), None, Instant::now());
}

fn add(state: &Arc<RequestState>) -> bool {
    state.add(Task::new(async {}), None).is_ok()
}

/// Every task has exactly one outcome, and the numbers add up.
fn assert_all_ended(stats: Stats, tasks: u64) {
    assert_eq!(
        (stats.pending(), stats.ended() + stats.refused),
        (0, tasks),
        "{stats:?}"
    );
}

#[test]
fn a_task_is_added_while_the_response_ends() {
    check(|| {
        let supervisor = Supervisor::new();
        let state = request(&supervisor);
        let adding = {
            let state = Arc::clone(&state);
            thread::spawn(move || add(&state))
        };
        finish(&state);
        assert!(adding.join().unwrap());
        assert_all_ended(supervisor.stats(), 1);
    });
}

#[test]
fn a_task_is_added_to_a_sequence_while_the_response_ends() {
    check(|| {
        let supervisor = Supervisor::builder().order(Order::Sequential).build();
        let state = request(&supervisor);
        add(&state);
        let adding = {
            let state = Arc::clone(&state);
            thread::spawn(move || add(&state))
        };
        finish(&state);
        assert!(adding.join().unwrap());
        assert_all_ended(supervisor.stats(), 2);
    });
}

#[test]
fn a_task_is_added_while_a_shutdown_aborts_the_rest() {
    check(|| {
        let supervisor = Supervisor::new();
        let state = request(&supervisor);
        let adding = {
            let state = Arc::clone(&state);
            thread::spawn(move || add(&state))
        };
        supervisor.abort_all();
        let was_taken = adding.join().unwrap();
        let stats = supervisor.stats();
        assert_eq!(
            (stats.aborted, stats.refused),
            if was_taken { (1, 0) } else { (0, 1) }
        );
        assert_all_ended(stats, 1);
    });
}

#[test]
fn a_task_is_removed_while_the_response_ends() {
    check(|| {
        let supervisor = Supervisor::new();
        let state = request(&supervisor);
        assert!(state.add(Task::new(async {}).named("mail"), None).is_ok());
        let removing = {
            let state = Arc::clone(&state);
            thread::spawn(move || state.remove("mail"))
        };
        finish(&state);
        let removed = removing.join().unwrap() as u64;
        assert_eq!(supervisor.stats().removed, removed);
        assert_all_ended(supervisor.stats(), 1);
    });
}

#[test]
fn the_last_task_ends_while_somebody_starts_to_wait() {
    check(|| {
        let supervisor = Supervisor::new();
        let state = request(&supervisor);
        add(&state);
        let ending = thread::spawn(move || finish(&state));
        block_on(supervisor.idle());
        assert_all_ended(supervisor.stats(), 1);
        ending.join().unwrap();
    });
}
