//! Tasks that end while somebody waits for them, asks them to stop or seals the table. There is no
//! runtime.

use super::*;
use crate::response::{RequestInfo, ResponseEnd};

struct NoRequest;

impl Owner for NoRequest {
    fn has_request(&self) -> bool {
        false
    }

    fn is_admitted(&self) -> bool {
        true
    }

    fn request(&self) -> Option<RequestInfo> {
        None
    }

    fn end(&self) -> Option<Arc<ResponseEnd>> {
        None
    }

    fn shut_down(self: Arc<Self>, _phase: Phase) {}
}

/// Adds a queued task.
fn add(table: &TaskTable) -> Key {
    add_to(table, 0)
}

/// Adds a queued task to this shard.
fn add_to(table: &TaskTable, number: usize) -> Key {
    let key = try_add_to(table, number).expect("the table is open");
    assert_eq!(number_of(key), number);
    key
}

/// Adds a queued task to this shard. Returns `None` if the table takes no task.
fn try_add_to(table: &TaskTable, number: usize) -> Option<Key> {
    let entry = Entry {
        name: None,
        owner: Weak::<NoRequest>::new(),
        has_request: false,
        state: TaskState::Queued,
        since: None,
        is_fallback: false,
        stop: None,
        waker: None,
    };
    table.add_to(number, entry, true).map(|(key, _)| key)
}

fn end(table: &TaskTable, key: Key) {
    table.end(key, |stats| stats.aborted += 1);
}

#[cfg(not(background_loom))]
#[test]
fn tasks_look_for_a_stop_only_while_there_is_one() {
    let table = TaskTable::new(None);
    let (stopped, other) = (add(&table), add(&table));
    assert_eq!(table.stops.load(Ordering::Relaxed), 0);
    assert!(table.stop(stopped, Stop::Abort));
    assert!(!table.stop(stopped, Stop::Remove), "it stops already");
    assert!(table.stops.load(Ordering::Relaxed) > 0);
    assert!(!table.may_go_on(stopped) && table.may_go_on(other));
    end(&table, stopped);
    assert_eq!(table.stops.load(Ordering::Relaxed), 0);
    assert!(!table.stop(stopped, Stop::Abort), "it has ended");
    table.advance(Phase::Closed);
    assert!(table.may_go_on(other), "it is listed first");
    table.advance(Phase::Sealed);
    assert!(!table.may_go_on(other));
    assert!(!table.keep_waker(other, Waker::noop()));
}

#[cfg(not(background_loom))]
#[test]
fn who_waits_is_woken_once_the_last_task_of_all_shards_has_ended() {
    let table = TaskTable::new(None);
    let [one, other] = [0, 1].map(|number| add_to(&table, number));
    let mut idle = tokio_test::task::spawn(table.idle());
    assert!(idle.poll().is_pending());
    end(&table, other);
    assert!(!idle.is_woken());
    end(&table, one);
    assert!(idle.is_woken() && idle.poll().is_ready());
}

/// loom runs each model in every order that threads can take.
#[cfg(background_loom)]
mod models {
    use std::{future::poll_fn, task::Poll};

    use loom::{future::block_on, thread};

    use super::*;
    use crate::util::sync::check;

    /// Runs a task that waits until it is asked to stop.
    fn run(table: &TaskTable, key: Key) {
        let mut has_waker = false;
        block_on(poll_fn(|cx| {
            if !table.may_go_on(key) {
                return Poll::Ready(());
            }
            if !has_waker {
                has_waker = table.keep_waker(key, cx.waker());
            }
            if has_waker {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        }));
        end(table, key);
    }

    #[test]
    fn tasks_are_stopped_while_they_start_to_wait() {
        check(|| {
            let table = Arc::new(TaskTable::new(None));
            let keys = [0, 1].map(|number| add_to(&table, number));
            let running = keys.map(|key| {
                let table = Arc::clone(&table);
                thread::spawn(move || run(&table, key))
            });
            table.stop(keys[0], Stop::Abort);
            table.stop(keys[1], Stop::Remove);
            for thread in running {
                thread.join().unwrap();
            }
            assert_eq!(table.stops.load(Ordering::Relaxed), 0);
            assert_eq!(table.stats().aborted, 2);
        });
    }

    #[test]
    fn a_task_starts_to_wait_while_a_shutdown_stops_all() {
        check(|| {
            let table = Arc::new(TaskTable::new(None));
            let [waits, other] = [add(&table), add(&table)];
            let waiting = {
                let table = Arc::clone(&table);
                thread::spawn(move || run(&table, waits))
            };
            let aborting = {
                let table = Arc::clone(&table);
                thread::spawn(move || {
                    table.stop(other, Stop::Abort);
                    end(&table, other);
                })
            };
            table.advance(Phase::Sealed);
            table.wake_stopped();
            waiting.join().unwrap();
            aborting.join().unwrap();
            assert!(table.stops.load(Ordering::Relaxed) > 0);
            assert_eq!(table.stats().aborted, 2);
        });
    }

    #[test]
    fn the_last_tasks_of_two_shards_end_while_somebody_waits() {
        check(|| {
            let table = Arc::new(TaskTable::new(None));
            let ending = [0, 1].map(|number| {
                let (table, key) = (Arc::clone(&table), add_to(&table, number));
                thread::spawn(move || end(&table, key))
            });
            block_on(table.idle());
            assert_eq!(table.stats().aborted, 2);
            for thread in ending {
                thread.join().unwrap();
            }
        });
    }

    #[test]
    fn tasks_are_added_to_two_shards_while_the_table_is_sealed() {
        check(|| {
            let table = Arc::new(TaskTable::new(None));
            let adding = [0, 1].map(|number| {
                let table = Arc::clone(&table);
                thread::spawn(move || {
                    let added = try_add_to(&table, number);
                    if let Some(key) = added {
                        assert!(table.may_go_on(key));
                        end(&table, key);
                    }
                    u64::from(added.is_some())
                })
            });
            while !table.seal_if_idle() {
                block_on(table.idle());
            }
            let before = table.stats();
            let added: u64 = adding
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum();
            assert_eq!((before.pending(), before.aborted), (0, added));
            assert_eq!(table.stats(), before);
        });
    }

    #[test]
    fn a_table_is_not_idle_while_one_task_adds_another() {
        check(|| {
            let table = Arc::new(TaskTable::new(None));
            let first = add_to(&table, 1);
            let running = {
                let table = Arc::clone(&table);
                thread::spawn(move || {
                    let second = add_to(&table, 0);
                    end(&table, first);
                    end(&table, second);
                })
            };
            block_on(table.idle());
            assert!(table.seal_if_idle());
            assert_eq!(table.stats().aborted, 2);
            running.join().unwrap();
        });
    }

    #[test]
    fn a_task_is_removed_or_starts() {
        check(|| {
            let table = Arc::new(TaskTable::new(None));
            let key = add(&table);
            let starting = {
                let table = Arc::clone(&table);
                thread::spawn(move || table.start(key))
            };
            let is_removed = table.stop(key, Stop::Remove);
            assert_eq!(starting.join().unwrap(), !is_removed);
        });
    }
}
