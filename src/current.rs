//! The registry of the request whose code is running on this thread.
//!
//! A registry is moved into the thread's slot while code of its request is polled, and moved back after: two moves, no count
//! of references, no lock. A code path that suspends takes its registry along, as the owner puts it back before it returns.

use std::{cell::Cell, mem::ManuallyDrop};

use crate::tasks::BackgroundTasks;

thread_local! {
    // Without a destructor, which each access would have to look after: what is put in is always taken out again.
    static CURRENT: Cell<ManuallyDrop<Option<BackgroundTasks>>> = const { Cell::new(ManuallyDrop::new(None)) };
}

/// A registry that becomes the current one while code of its request runs.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    tasks: Option<BackgroundTasks>,
    entered_until_drop: bool,
}

impl Scope {
    #[inline]
    pub(crate) const fn new(tasks: BackgroundTasks) -> Self {
        Self { tasks: Some(tasks), entered_until_drop: false }
    }

    /// The registry, which is there while the scope is not entered.
    pub(crate) const fn tasks(&self) -> Option<&BackgroundTasks> {
        self.tasks.as_ref()
    }

    /// The same, to be changed where nobody else has it.
    pub(crate) const fn tasks_mut(&mut self) -> Option<&mut BackgroundTasks> {
        self.tasks.as_mut()
    }

    /// Takes the registry out, for good.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<BackgroundTasks> {
        self.leave();
        self.tasks.take()
    }

    /// The registry, made by `f` as one that serves a request: out of the one that is there, or a new one.
    #[inline]
    pub(crate) fn serve(&mut self, f: impl FnOnce(&mut BackgroundTasks)) -> &BackgroundTasks {
        let tasks = self.tasks.get_or_insert_with(BackgroundTasks::spare);
        f(tasks);
        tasks
    }

    /// Puts one into a scope that has none.
    #[inline]
    pub(crate) fn put(&mut self, tasks: BackgroundTasks) {
        self.tasks = Some(tasks);
    }

    /// Makes this registry the current one until the guard is dropped, also by a panic.
    #[inline]
    pub(crate) fn enter(&mut self) -> Entered<'_> {
        self.swap();
        Entered(self)
    }

    /// Runs `f` with this registry as the current one.
    #[inline]
    pub(crate) fn run<R>(&mut self, f: impl FnOnce() -> R) -> R {
        let _entered = self.enter();
        f()
    }

    /// Makes this registry the current one until this scope is dropped, for the time in which its neighbours are dropped.
    #[inline]
    pub(crate) fn enter_until_drop(&mut self) {
        if !self.entered_until_drop {
            self.entered_until_drop = true;
            self.swap();
        }
    }

    /// Ends what [`Self::enter_until_drop`] began.
    #[inline]
    pub(crate) fn leave(&mut self) {
        if std::mem::take(&mut self.entered_until_drop) {
            self.swap();
        }
    }

    #[inline]
    fn swap(&mut self) {
        let entering = ManuallyDrop::new(self.tasks.take());
        self.tasks = ManuallyDrop::into_inner(CURRENT.replace(entering));
    }
}

/// Takes the registry back to its scope.
#[derive(Debug)]
pub(crate) struct Entered<'a>(&'a mut Scope);

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.swap();
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The current registry.
pub(crate) fn current() -> Option<BackgroundTasks> {
    let tasks = ManuallyDrop::into_inner(CURRENT.replace(ManuallyDrop::new(None)));
    CURRENT.set(ManuallyDrop::new(tasks.clone()));
    tasks
}
