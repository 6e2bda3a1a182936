//! Tests of what a response waits for, and of what is known of one that is lost.

use super::*;

const ONE: &str = "response";

/// A response with a guard in its last frame.
fn guarded() -> (Waits<&'static str>, Key) {
    let mut waits = Waits::default();
    let key = waits.guard(None, true).expect("it is open");
    (waits, key)
}

#[test]
fn what_was_taken_apart_waits_for_a_turn_and_then_a_flush() {
    let (mut waits, key) = guarded();
    assert_eq!(waits.dropped(key, Fate::Unknown, 0, 0), None);
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
    assert_eq!(waits.dropped(key, Fate::Unknown, 5, 0), None);
    assert_eq!(waits.ended(Some(key), ONE, true, 1), Some((ONE, Known::Lost(Some(0)))));
}

#[test]
fn what_was_asked_for_more_once_may_be_given_up_later() {
    let mut waits = Waits::default();
    let key = waits.guard(None, false);
    let known = key.expect("it is open");
    assert_eq!(waits.dropped(known, Fate::Unknown, 5, 0), None);
    waits.asked(known);
    assert_eq!(waits.guard(key, true), key);
    assert_eq!(waits.dropped(known, Fate::Unknown, 5, 0), None);
    assert_eq!(waits.ended(key, ONE, true, 0), Some((ONE, Known::Lost(Some(0)))));
}

#[test]
fn each_guard_counts() {
    let (mut waits, key) = guarded();
    assert_eq!(waits.guard(Some(key), true), Some(key));
    assert_eq!(waits.dropped(key, Fate::Written, 3, 0), None);
    assert_eq!(waits.ended(Some(key), ONE, true, 0), None);
    assert_eq!(waits.flushed(), None, "one guard is still held");
    assert_eq!(waits.dropped(key, Fate::Lost, 4, 1), Some((ONE, Known::Lost(Some(3)))));
}

#[test]
fn what_was_written_is_known_to_be_taken_after_a_flush() {
    let mut waits = Waits::default();
    let key = waits.guard(None, false);
    let known = key.expect("it is open");
    assert_eq!(waits.dropped(known, Fate::Written, 3, 0), None);
    assert_eq!(waits.flushed_data(known, 0), Some(0));
    assert_eq!(waits.flushed_data(known, 1), Some(3));
    assert_eq!(waits.guard(key, true), key);
    assert_eq!(waits.dropped(known, Fate::Written, 4, 1), None);
    assert_eq!(waits.ended(key, ONE, true, 1), None);
    assert_eq!(waits.close(1), Some((ONE, Known::Lost(Some(3)))));
}

#[test]
fn a_last_frame_without_a_guard_waits_for_a_turn_after_those_that_have_one() {
    let mut waits = Waits::default();
    let key = waits.guard(None, false);
    assert_eq!(waits.ended(key, ONE, true, 0), None);
    waits.turn();
    assert_eq!(waits.flushed(), None, "data is still held");
    assert_eq!(waits.dropped(key.expect("it is open"), Fate::Written, 3, 1), None);
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
    assert_eq!(waits.guard(None, true), None);
    assert_eq!(waits.ended(None, "two", true, 0), Some(("two", Known::Lost(None))));
    assert_eq!(waits.dropped(key, Fate::Unknown, 0, 0), None);
    assert_eq!(waits.ended(Some(key), "three", true, 0), Some(("three", Known::Lost(Some(0)))));
    assert!(waits.responses.is_empty());
}

#[test]
fn what_is_over_in_another_way_is_kept_for_its_guards_alone() {
    let (mut waits, key) = guarded();
    waits.forget(key);
    assert_eq!(waits.dropped(key, Fate::Written, 3, 0), None);
    assert!(waits.responses.is_empty());
}
