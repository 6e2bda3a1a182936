//! Models of what is counted at once: responses at the gate, tasks in the ledger. See `models.rs`.

use std::sync::Weak;

use loom::{
    future::block_on,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use crate::{
    gate::Gate,
    ledger::{Ledger, Phase},
    models::check,
    outcome::Outcome,
    registry::Registry,
    room::Room,
    supervisor::Supervisor,
    task::Key,
};

#[test]
fn nobody_enters_a_closed_gate() {
    check(3, || {
        let gate = loom::sync::Arc::new(Gate::default());
        let closed = loom::sync::Arc::new(AtomicBool::new(false));
        let guests: Vec<_> = (0..2)
            .map(|_| {
                let (gate, closed) = (gate.clone(), closed.clone());
                thread::spawn(move || {
                    let was_closed = closed.load(Ordering::Acquire);
                    let entered = gate.enter();
                    assert!(!(was_closed && entered), "the gate was closed before");
                    (entered, entered && gate.leave())
                })
            })
            .collect();
        gate.close();
        closed.store(true, Ordering::Release);
        let open = gate.open_responses();
        let guests: Vec<_> = guests.into_iter().map(|guest| guest.join().unwrap()).collect();
        let (entered, last) =
            guests.iter().fold((0, 0), |(entered, last), guest| (entered + usize::from(guest.0), last + usize::from(guest.1)));
        assert!(open <= entered, "a response is counted that did not enter");
        assert!(last <= 1, "two are the last");
        assert!(open == 0 || last == 1, "nobody tells that the last has left");
        assert!(!gate.enter());
        assert_eq!(gate.open_responses(), 0);
    });
}

#[test]
fn one_of_two_is_the_last_of_a_closed_gate() {
    loom::model(|| {
        let gate = loom::sync::Arc::new(Gate::default());
        let done = loom::sync::Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        assert!(gate.enter() && gate.enter());
        let leavers: Vec<_> = (0..2)
            .map(|index| {
                let (gate, done) = (gate.clone(), done.clone());
                thread::spawn(move || {
                    // What a response has done is to be seen by whoever finds the gate empty, by nothing but the gate.
                    done[index].store(true, Ordering::Relaxed);
                    gate.leave()
                })
            })
            .collect();
        gate.close();
        let open = gate.open_responses();
        if open == 0 {
            assert!(done.iter().all(|done| done.load(Ordering::Relaxed)), "the gate is empty, and a response is not over");
        }
        let last = leavers.into_iter().filter_map(|leaver| leaver.join().unwrap().then_some(())).count();
        assert!(last <= 1, "two are the last");
        assert!(open == 0 || last == 1, "nobody tells that the last has left");
        assert_eq!(gate.open_responses(), 0);
    });
}

fn ledger(max_pending: Option<usize>) -> loom::sync::Arc<Ledger> {
    loom::sync::Arc::new(Ledger::new(max_pending))
}

fn add(ledger: &Ledger) -> Option<Key> {
    let nothing: Weak<Registry> = Weak::new();
    ledger.add(None, nothing, true, None)
}

fn end(ledger: &Ledger, key: Key) {
    ledger.end(key, Outcome::Succeeded.figure());
}

#[test]
fn books_are_sealed_with_nothing_pending_and_take_nothing_more() {
    loom::model(|| {
        let ledger = ledger(None);
        let early = add(&ledger).expect("the books are open");
        ledger.advance(Phase::Draining);
        let ending = thread::spawn({
            let ledger = ledger.clone();
            move || end(&ledger, early)
        });
        let adding = thread::spawn({
            let ledger = ledger.clone();
            move || add(&ledger)
        });
        let sealed = ledger.seal_if_idle();
        if sealed {
            assert_eq!(ledger.stats().pending(), 0, "a task is pending in sealed books");
        }
        ending.join().unwrap();
        let late = adding.join().unwrap();
        assert_eq!(late.is_none(), sealed, "sealed books took a task, or open ones did not");
        let stats = ledger.stats();
        assert_eq!((stats.added(), stats.succeeded), (2, 1));
        assert_eq!((stats.collected, stats.refused), if sealed { (0, 1) } else { (1, 0) });
    });
}

#[test]
fn who_waits_for_idle_wakes_with_the_last_task() {
    loom::model(|| {
        let ledger = ledger(None);
        let keys = [add(&ledger), add(&ledger)].map(|key| key.expect("the books are open"));
        let ending = keys.map(|key| {
            let ledger = ledger.clone();
            thread::spawn(move || end(&ledger, key))
        });
        // A wake-up that is lost is a thread that waits for ever, which loom reports.
        block_on(ledger.idle());
        assert_eq!((ledger.stats().pending(), ledger.stats().succeeded), (0, 2));
        ending.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn who_waits_for_room_wakes_with_a_task_that_ends() {
    loom::model(|| {
        let supervisor = Supervisor::builder().max_pending(1).build();
        let key = add(supervisor.ledger()).expect("the books are open");
        let ending = thread::spawn({
            let supervisor = supervisor.clone();
            move || end(supervisor.ledger(), key)
        });
        let mut room = Room::default();
        block_on(std::future::poll_fn(|cx| room.poll(&supervisor, cx)));
        assert!(supervisor.ledger().has_room());
        ending.join().unwrap();
    });
}
