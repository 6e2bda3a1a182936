//! Tests of what a response waits for, and of what is known of a response that is lost.

use super::{
    super::entry::{Ended, SendResult},
    *,
};

const ONE: &str = "response";

/// Whether a guard is in the last frame.
const LAST: bool = true;
const MORE: bool = false;

type Pending = PendingResponses<&'static str>;

/// A response that the server has dropped, with a guard in its last frame.
fn guarded() -> (Pending, ResponseKey) {
    let mut pending = Pending::default();
    let key = add(&mut pending, LAST);
    (pending, key)
}

/// Adds a response that the server has dropped, with a guard.
fn add(pending: &mut Pending, is_last: bool) -> ResponseKey {
    let key = pending.open(true);
    assert!(pending.add_guard(key, is_last));
    assert_eq!(pending.server_dropped(key, true, 0), None);
    key
}

/// A response that is over, and that one layer follows.
#[expect(
    clippy::unnecessary_wraps,
    reason = "it is compared with what methods return"
)]
fn over(ended: &'static str, result: SendResult) -> Over<&'static str> {
    Some((Ended::new(ended), result))
}

const fn frame(key: ResponseKey, is_last: bool, bytes: u64) -> GuardedFrame {
    GuardedFrame {
        key,
        is_last,
        bytes,
    }
}

#[test]
fn a_frame_that_was_taken_apart_waits_for_a_read_cycle_and_then_a_flush() {
    let (mut pending, key) = guarded();
    assert_eq!(
        pending.guard_dropped(frame(key, LAST, 0), Dropped::Unknown, 0),
        None
    );
    pending.note_poll(key);
    assert_eq!(pending.layer_dropped(key, ONE, 0), None);
    assert_eq!(
        pending.note_flush(1),
        None,
        "the server may not have written it"
    );
    pending.note_read_cycle();
    assert_eq!(pending.note_flush(1), over(ONE, SendResult::Queued));
    assert!(!pending.is_waiting());
}

#[test]
fn a_frame_that_was_dropped_without_another_poll_is_lost() {
    let (mut pending, key) = guarded();
    assert_eq!(
        pending.guard_dropped(frame(key, LAST, 5), Dropped::Unknown, 0),
        None
    );
    let lost = over(ONE, SendResult::Lost(Some(0)));
    assert_eq!(pending.layer_dropped(key, ONE, 1), lost);
}

#[test]
fn a_poll_counts_for_one_last_frame() {
    let (mut pending, key) = guarded();
    assert_eq!(
        pending.guard_dropped(frame(key, LAST, 0), Dropped::Unknown, 0),
        None
    );
    pending.note_poll(key);
    assert!(pending.add_guard(key, LAST));
    assert_eq!(
        pending.guard_dropped(frame(key, LAST, 0), Dropped::Unknown, 0),
        None
    );
    let lost = over(ONE, SendResult::Lost(Some(0)));
    assert_eq!(pending.layer_dropped(key, ONE, 0), lost);
}

#[test]
fn each_guard_counts() {
    let (mut pending, key) = guarded();
    assert!(pending.add_guard(key, LAST));
    assert_eq!(
        pending.guard_dropped(frame(key, LAST, 3), Dropped::Written, 0),
        None
    );
    assert_eq!(pending.layer_dropped(key, ONE, 0), None);
    assert_eq!(pending.note_flush(1), None, "one guard is not dropped yet");
    let lost = over(ONE, SendResult::Lost(Some(3)));
    assert_eq!(
        pending.guard_dropped(frame(key, LAST, 4), Dropped::Discarded, 1),
        lost
    );
}

#[test]
fn a_flush_does_not_count_for_a_later_frame() {
    let (mut pending, key) = guarded();
    assert_eq!(
        pending.guard_dropped(frame(key, LAST, 0), Dropped::Written, 0),
        None
    );
    assert!(pending.add_guard(key, LAST));
    assert_eq!(pending.layer_dropped(key, ONE, 0), None);
    assert_eq!(
        pending.note_flush(1),
        None,
        "the other guard is not dropped yet"
    );
    assert_eq!(
        pending.guard_dropped(frame(key, LAST, 0), Dropped::Written, 1),
        None
    );
    assert_eq!(pending.note_flush(1), over(ONE, SendResult::Sent));
}

#[test]
fn written_data_is_sent_after_a_flush() {
    let mut pending = Pending::default();
    let key = add(&mut pending, MORE);
    assert_eq!(
        pending.guard_dropped(frame(key, MORE, 3), Dropped::Written, 0),
        None
    );
    assert_eq!(pending.flushed_data(key, 0), Some(0));
    assert_eq!(pending.flushed_data(key, 1), Some(3));
    assert!(pending.add_guard(key, LAST));
    assert_eq!(
        pending.guard_dropped(frame(key, LAST, 4), Dropped::Written, 1),
        None
    );
    assert_eq!(pending.layer_dropped(key, ONE, 1), None);
    assert_eq!(pending.close(1), over(ONE, SendResult::Lost(Some(3))));
}

#[test]
fn a_last_frame_without_a_guard_waits_for_a_read_cycle_after_the_frames_with_guards() {
    let mut pending = Pending::default();
    let key = add(&mut pending, MORE);
    assert_eq!(pending.layer_dropped(key, ONE, 0), None);
    pending.note_read_cycle();
    assert_eq!(pending.note_flush(1), None, "data is not written yet");
    assert_eq!(
        pending.guard_dropped(frame(key, MORE, 3), Dropped::Written, 1),
        None
    );
    assert_eq!(
        pending.note_flush(1),
        None,
        "the last frame comes after that"
    );
    assert!(pending.needs_read_cycle());
    pending.note_read_cycle();
    assert_eq!(pending.note_flush(1), over(ONE, SendResult::Queued));
}

#[test]
fn a_closed_connection_loses_its_responses_and_takes_no_more() {
    let (mut pending, key) = guarded();
    let other = pending.open(false);
    assert_eq!(pending.layer_dropped(other, ONE, 0), None);
    assert_eq!(pending.close(0), over(ONE, SendResult::Lost(Some(0))));
    assert_eq!(pending.close(0), None);
    assert!(!pending.add_guard(key, LAST));
    let lost = over("two", SendResult::Lost(Some(0)));
    assert_eq!(
        pending.layer_dropped(key, "two", 0),
        lost,
        "its guard tells nothing more"
    );
    assert_eq!(
        pending.guard_dropped(frame(key, LAST, 0), Dropped::Unknown, 0),
        None
    );
    assert_eq!(pending.server_dropped(other, true, 0), None);

    let late = pending.open(true);
    assert_eq!(pending.layer_dropped(late, "three", 0), None);
    let lost = over("three", SendResult::Lost(Some(0)));
    assert_eq!(pending.server_dropped(late, true, 0), lost);
    assert!(pending.responses.is_empty());
}

#[test]
fn a_removed_response_is_forgotten() {
    let (mut pending, key) = guarded();
    pending.remove_layer(key);
    assert_eq!(
        pending.guard_dropped(frame(key, LAST, 3), Dropped::Written, 0),
        None
    );
    assert!(pending.responses.is_empty());
}

#[test]
fn the_key_of_a_removed_response_does_not_reach_the_next_one() {
    let (mut pending, key) = guarded();
    pending.remove_layer(key);
    let next = add(&mut pending, LAST);
    assert_eq!(next.index, key.index, "the place is used again");
    assert_eq!(
        pending.guard_dropped(frame(key, LAST, 3), Dropped::Discarded, 0),
        None
    );
    assert_eq!(
        pending.guard_dropped(frame(next, LAST, 3), Dropped::Written, 0),
        None
    );
    assert_eq!(pending.layer_dropped(next, ONE, 0), None);
    assert_eq!(pending.note_flush(1), over(ONE, SendResult::Sent));
}

/// A response that is in flight, and that tasks wait for.
fn in_flight(multiplexed: bool) -> (Pending, ResponseKey) {
    let mut pending = Pending::default();
    let key = pending.open(multiplexed);
    (pending, key)
}

#[test]
fn a_response_in_flight_is_not_over() {
    let (mut pending, key) = in_flight(false);
    assert_eq!(pending.layer_dropped(key, ONE, 0), None);
    assert_eq!(
        pending.note_flush(1),
        None,
        "a layer has the body, and may send it later"
    );
    assert_eq!(pending.server_dropped(key, true, 0), None);
    assert_eq!(pending.note_flush(1), over(ONE, SendResult::Sent));
}

#[test]
fn a_response_can_be_flushed_before_the_layer_drops_it() {
    for multiplexed in [false, true] {
        let (mut pending, key) = in_flight(multiplexed);
        if multiplexed {
            assert!(pending.add_guard(key, LAST));
            assert_eq!(
                pending.guard_dropped(frame(key, LAST, 0), Dropped::Written, 0),
                None
            );
            assert_eq!(pending.note_flush(1), None);
            assert_eq!(pending.server_dropped(key, true, 1), None);
        } else {
            assert_eq!(pending.server_dropped(key, true, 0), None);
            assert_eq!(pending.note_flush(1), None);
        }
        let sent = over(ONE, SendResult::Sent);
        assert_eq!(pending.layer_dropped(key, ONE, 1), sent);
        assert!(pending.responses.is_empty());
    }
}

#[test]
fn data_that_a_layer_keeps_or_takes_apart_does_not_count_beside_a_last_frame() {
    for keep in [false, true] {
        let (mut pending, key) = in_flight(true);
        assert!(pending.add_guard(key, MORE));
        if !keep {
            assert_eq!(
                pending.guard_dropped(frame(key, MORE, 5), Dropped::Unknown, 0),
                None
            );
        }
        assert!(pending.add_guard(key, LAST));
        assert_eq!(pending.layer_dropped(key, ONE, 0), None);
        assert_eq!(pending.server_dropped(key, true, 0), None);
        pending.note_read_cycle();
        assert_eq!(
            pending.note_flush(1),
            None,
            "the server has not written the last frame"
        );
        assert_eq!(
            pending.guard_dropped(frame(key, LAST, 0), Dropped::Written, 1),
            None
        );
        assert_eq!(pending.note_flush(1), over(ONE, SendResult::Sent));
    }
}

#[test]
fn a_response_that_the_server_gives_up_is_lost() {
    let lost = over(ONE, SendResult::Lost(Some(0)));
    let (mut pending, key) = in_flight(true);
    assert_eq!(pending.layer_dropped(key, ONE, 0), None);
    assert_eq!(
        pending.server_dropped(key, false, 0),
        lost,
        "it was dropped before its end"
    );

    let (mut pending, key) = in_flight(true);
    assert!(pending.add_guard(key, LAST));
    assert_eq!(pending.layer_dropped(key, ONE, 0), None);
    assert_eq!(
        pending.guard_dropped(frame(key, LAST, 0), Dropped::Unknown, 0),
        None
    );
    assert_eq!(
        pending.server_dropped(key, true, 0),
        lost,
        "its last frame was dropped"
    );
}

#[test]
fn a_response_that_was_removed_is_unknown() {
    let (mut pending, key) = in_flight(true);
    pending.remove_layer(key);
    assert_eq!(pending.server_dropped(key, true, 0), None);
    assert!(pending.responses.is_empty());
}

#[test]
fn a_response_is_over_for_each_layer_that_follows_it() {
    let (mut pending, key) = in_flight(false);
    for _ in 0..3 {
        pending.add_layer(key);
    }
    pending.remove_layer(key);
    assert_eq!(pending.layer_dropped(key, ONE, 0), None);
    assert_eq!(pending.layer_dropped(key, "two", 0), None);
    assert_eq!(pending.server_dropped(key, true, 0), None);
    let (ended, result) = pending.note_flush(1).expect("it was flushed");
    assert_eq!(result, SendResult::Sent);
    assert_eq!(ended.each().collect::<Vec<_>>(), [ONE, "two"]);

    let late = pending.layer_dropped(key, "three", 1);
    assert_eq!(
        late,
        over("three", SendResult::Sent),
        "it was flushed before"
    );
    assert!(pending.responses.is_empty());
}

#[test]
fn a_response_in_flight_can_lose_its_layer_and_get_another() {
    let (mut pending, key) = in_flight(true);
    pending.remove_layer(key);
    assert!(!pending.add_guard(key, MORE), "nobody follows the response");
    assert_eq!(pending.add_layer(key), Some(true), "it is the only layer");
    assert_eq!(pending.add_layer(key), Some(false));
    pending.remove_layer(key);
    assert!(pending.add_guard(key, LAST));
    assert_eq!(pending.layer_dropped(key, ONE, 0), None);
    assert_eq!(pending.server_dropped(key, true, 0), None);
    let written = pending.guard_dropped(frame(key, LAST, 0), Dropped::Written, 0);
    assert_eq!(written, None);
    assert_eq!(pending.note_flush(1), over(ONE, SendResult::Sent));
    assert!(pending.responses.is_empty());
}
