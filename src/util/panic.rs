//! Catches panics.

use std::{
    any::Any,
    mem::ManuallyDrop,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Calls `f`, and turns a panic into its message.
#[inline]
pub(crate) fn catch<R>(f: impl FnOnce() -> R) -> Result<R, String> {
    // After a panic, callers do not use again what `f` has changed.
    catch_unwind(AssertUnwindSafe(f)).map_err(message)
}

/// Returns the message of a panic.
fn message(payload: Box<dyn Any + Send>) -> String {
    let payload = match payload.downcast::<String>() {
        Ok(message) => return *message,
        Err(payload) => payload,
    };
    match payload.downcast::<&str>() {
        Ok(message) => (*message).to_owned(),
        Err(payload) => {
            if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                // The payload of the second panic could panic as well, so it is leaked.
                let _ = ManuallyDrop::new(again);
            }
            "a panic without a message".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(catch(|| 1), Ok(1));
        assert_eq!(
            catch(|| panic!("no {}", "mail")),
            Err::<(), _>("no mail".to_owned())
        );
        assert_eq!(
            catch(|| panic!("literal")),
            Err::<(), _>("literal".to_owned())
        );
    }

    #[test]
    fn a_payload_may_panic_when_it_is_dropped() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        let caught = catch(|| std::panic::panic_any(Bomb));
        assert_eq!(caught, Err::<(), _>("a panic without a message".to_owned()));
    }
}
