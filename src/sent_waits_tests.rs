//! Tests of what a response waits for, and of what is known of one that is lost.

use super::*;

const ONE: &str = "response";

/// Whether a guard is in the last frame.
const LAST: bool = true;
const MORE: bool = false;

/// A response with a guard in its last frame.
fn guarded() -> (Waits<&'static str>, Key) {
    let mut waits = Waits::default();
    let key = waits.guard(None, LAST).expect("it is open");
    (waits, key)
}

#[test]
fn what_was_taken_apart_waits_for_a_turn_and_then_a_flush() {
    let (mut waits, key) = guarded();
    assert_eq!(waits.dropped(key, Fate::Unknown, LAST, 0, 0), None);
    waits.asked(key);
    assert_eq!(waits.ended(Some(key), ONE, true, 0), None);
    assert_eq!(waits.flushed(), None, "the server may not have come to it");
    waits.turn();
    assert_eq!(waits.flushed(), Some((ONE, Known::Queued)));
    assert!(!waits.is_waiting());
}

#[test]
fn what_was_dropped_and_not_asked_for_more_is_lost() {
    let (mut waits, key) = guarded();
    assert_eq!(waits.dropped(key, Fate::Unknown, LAST, 5, 0), None);
    assert_eq!(waits.ended(Some(key), ONE, true, 1), Some((ONE, Known::Lost(Some(0)))));
}

#[test]
fn what_was_asked_for_more_once_may_be_given_up_later() {
    let (mut waits, key) = guarded();
    assert_eq!(waits.dropped(key, Fate::Unknown, LAST, 0, 0), None);
    waits.asked(key);
    assert_eq!(waits.guard(Some(key), LAST), Some(key));
    assert_eq!(waits.dropped(key, Fate::Unknown, LAST, 0, 0), None);
    assert_eq!(waits.ended(Some(key), ONE, true, 0), Some((ONE, Known::Lost(Some(0)))));
}

#[test]
fn each_guard_counts() {
    let (mut waits, key) = guarded();
    assert_eq!(waits.guard(Some(key), LAST), Some(key));
    assert_eq!(waits.dropped(key, Fate::Written, LAST, 3, 0), None);
    assert_eq!(waits.ended(Some(key), ONE, true, 0), None);
    assert_eq!(waits.flushed(), None, "one guard is still held");
    assert_eq!(waits.dropped(key, Fate::Lost, LAST, 4, 1), Some((ONE, Known::Lost(Some(3)))));
}

#[test]
fn a_flush_is_not_of_a_frame_that_comes_after_it() {
    let (mut waits, key) = guarded();
    assert_eq!(waits.dropped(key, Fate::Written, LAST, 0, 0), None);
    assert_eq!(waits.guard(Some(key), LAST), Some(key));
    assert_eq!(waits.ended(Some(key), ONE, true, 0), None);
    assert_eq!(waits.flushed(), None, "the other is still held");
    assert_eq!(waits.dropped(key, Fate::Written, LAST, 0, 1), None);
    assert_eq!(waits.flushed(), Some((ONE, Known::Sent)));
}

#[test]
fn what_was_written_is_known_to_be_taken_after_a_flush() {
    let mut waits = Waits::default();
    let key = waits.guard(None, MORE);
    let known = key.expect("it is open");
    assert_eq!(waits.dropped(known, Fate::Written, MORE, 3, 0), None);
    assert_eq!(waits.flushed_data(known, 0), Some(0));
    assert_eq!(waits.flushed_data(known, 1), Some(3));
    assert_eq!(waits.guard(key, LAST), key);
    assert_eq!(waits.dropped(known, Fate::Written, LAST, 4, 1), None);
    assert_eq!(waits.ended(key, ONE, true, 1), None);
    assert_eq!(waits.close(1), Some((ONE, Known::Lost(Some(3)))));
}

#[test]
fn a_last_frame_without_a_guard_waits_for_a_turn_after_those_that_have_one() {
    let mut waits = Waits::default();
    let key = waits.guard(None, MORE);
    assert_eq!(waits.ended(key, ONE, true, 0), None);
    waits.turn();
    assert_eq!(waits.flushed(), None, "data is still held");
    assert_eq!(waits.dropped(key.expect("it is open"), Fate::Written, MORE, 3, 1), None);
    assert_eq!(waits.flushed(), None, "the last frame comes after that");
    assert!(waits.needs_turn());
    waits.turn();
    assert_eq!(waits.flushed(), Some((ONE, Known::Queued)));
}

#[test]
fn a_connection_that_closes_loses_what_waits_and_takes_nothing_more() {
    let (mut waits, key) = guarded();
    assert_eq!(waits.ended(None, ONE, false, 0), None);
    assert_eq!(waits.close(0), Some((ONE, Known::Lost(Some(0)))));
    assert_eq!(waits.close(0), None);
    assert_eq!(waits.guard(None, LAST), None);
    assert_eq!(waits.ended(None, "two", true, 0), Some(("two", Known::Lost(None))));
    assert_eq!(waits.dropped(key, Fate::Unknown, LAST, 0, 0), None);
    assert_eq!(waits.ended(Some(key), "three", true, 0), Some(("three", Known::Lost(Some(0)))));
    assert!(waits.responses.is_empty());
}

#[test]
fn what_is_over_in_another_way_is_forgotten() {
    let (mut waits, key) = guarded();
    waits.forget(key);
    assert_eq!(waits.dropped(key, Fate::Written, LAST, 3, 0), None);
    assert!(waits.responses.is_empty());
}

/// A response that the server is to get, of which tasks wait.
fn held(multiplexed: bool) -> (Waits<&'static str>, Key) {
    let mut waits = Waits::default();
    let key = waits.hold(multiplexed).expect("it is open");
    assert!(!waits.is_claimed(key));
    assert_eq!(waits.claim(key), Some(key));
    assert_eq!(waits.claim(key), None, "another layer has it");
    (waits, key)
}

#[test]
fn what_the_server_has_not_let_go_of_is_not_over() {
    let (mut waits, key) = held(false);
    assert_eq!(waits.ended(Some(key), ONE, false, 0), None);
    assert_eq!(waits.flushed(), None, "a layer has the body, and may send it later");
    assert_eq!(waits.let_go(key, true, 0), None);
    assert_eq!(waits.flushed(), Some((ONE, Known::Sent)));
}

#[test]
fn what_the_server_let_go_of_may_be_flushed_before_its_end_is_told() {
    for multiplexed in [false, true] {
        let (mut waits, key) = held(multiplexed);
        if multiplexed {
            assert_eq!(waits.guard(Some(key), LAST), Some(key));
            assert_eq!(waits.dropped(key, Fate::Written, LAST, 0, 0), None);
            assert_eq!(waits.flushed(), None);
            assert_eq!(waits.let_go(key, true, 1), None);
        } else {
            assert_eq!(waits.let_go(key, true, 0), None);
            assert_eq!(waits.flushed(), None);
        }
        assert_eq!(waits.ended(Some(key), ONE, multiplexed, 1), Some((ONE, Known::Sent)));
        assert!(waits.responses.is_empty());
    }
}

#[test]
fn data_that_a_layer_keeps_or_takes_apart_tells_nothing_beside_a_last_frame() {
    for keep in [false, true] {
        let (mut waits, key) = held(true);
        assert_eq!(waits.guard(Some(key), MORE), Some(key));
        if !keep {
            assert_eq!(waits.dropped(key, Fate::Unknown, MORE, 5, 0), None);
        }
        assert_eq!(waits.guard(Some(key), LAST), Some(key));
        assert_eq!(waits.ended(Some(key), ONE, true, 0), None);
        assert_eq!(waits.let_go(key, true, 0), None);
        waits.turn();
        assert_eq!(waits.flushed(), None, "the server has it still");
        assert_eq!(waits.dropped(key, Fate::Written, LAST, 0, 1), None);
        assert_eq!(waits.flushed(), Some((ONE, Known::Sent)));
    }
}

#[test]
fn what_the_server_gives_up_is_lost() {
    let lost = Some((ONE, Known::Lost(Some(0))));
    let (mut waits, key) = held(true);
    assert_eq!(waits.ended(Some(key), ONE, true, 0), None);
    assert_eq!(waits.let_go(key, false, 0), lost, "it was dropped before its end");

    let (mut waits, key) = held(true);
    assert_eq!(waits.guard(Some(key), LAST), Some(key));
    assert_eq!(waits.ended(Some(key), ONE, true, 0), None);
    assert_eq!(waits.dropped(key, Fate::Unknown, LAST, 0, 0), None);
    assert_eq!(waits.let_go(key, true, 0), lost, "its last frame was dropped");
}

#[test]
fn what_nobody_waits_for_is_forgotten_when_the_server_lets_go() {
    let mut waits = Waits::<&str>::default();
    let key = waits.hold(true).expect("it is open");
    assert_eq!(waits.let_go(key, true, 0), None);
    assert!(waits.responses.is_empty());
    let (mut waits, key) = held(true);
    waits.forget(key);
    assert_eq!(waits.let_go(key, true, 0), None);
    assert!(waits.responses.is_empty());
}
