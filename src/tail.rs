//! The one place where the core meets the feature `sent`: what becomes of a response behind the server, if that is known.

#[cfg(not(feature = "sent"))]
pub(crate) use self::untracked::Tail;
#[cfg(feature = "sent")]
pub(crate) use crate::sent_tail::Tail;

#[cfg(not(feature = "sent"))]
mod untracked {
    use http::{HeaderMap, Request};
    use http_body::Frame;

    use crate::{
        progress::{Progress, Verdict},
        tasks::BackgroundTasks,
    };

    // What tells of sent bytes has no other user, and is no dead code.
    const _: fn(&mut Progress, Option<u64>) = Progress::sent;
    const _: fn(&Progress) -> u64 = Progress::sendable;

    /// No connection is tracked, so there is none: a response is over when the server has dropped it.
    #[derive(Debug)]
    pub(crate) enum Tail {}

    impl Tail {
        pub(crate) const fn open<B>(_request: &mut Request<B>) -> Option<Self> {
            None
        }

        pub(crate) const fn is_held(&self) -> bool {
            match *self {}
        }

        pub(crate) const fn head(&mut self, _headers: &mut HeaderMap, _last: bool) {
            match *self {}
        }

        pub(crate) fn frame<D>(&mut self, _frame: Frame<D>, _last: bool, _yielded: u64) -> Frame<D> {
            match *self {}
        }

        pub(crate) const fn end_frame<D>(&mut self) -> Option<Frame<D>> {
            match *self {}
        }

        pub(crate) const fn asked(&self) {
            match *self {}
        }

        pub(crate) const fn owes_none(&mut self) -> bool {
            match *self {}
        }

        pub(crate) const fn at_end(&self) -> bool {
            match *self {}
        }

        pub(crate) fn wait(self, _tasks: BackgroundTasks, _verdict: Verdict, _progress: Progress) {
            match self {}
        }
    }
}
