//! [`Queue`]: tasks in the order added, linked by their own headers, so that adding one allocates nothing.

use crate::task::Task;

/// Tasks, first in, first out.
#[derive(Default)]
pub(crate) struct Queue {
    /// The oldest task, and by its link the next.
    out: Option<Task>,
    /// The newest task, and by its link the one before, down to the one after all of `out`.
    into: Option<Task>,
    len: u32,
}

impl Queue {
    #[inline]
    pub(crate) fn push(&mut self, mut task: Task) {
        task.header_mut().link = self.into.take();
        self.into = Some(task);
        self.len += 1;
    }

    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Task> {
        if self.out.is_none() {
            while let Some(mut task) = self.into.take() {
                self.into = std::mem::replace(&mut task.header_mut().link, self.out.take());
                self.out = Some(task);
            }
        }
        let mut task = self.out.take()?;
        self.out = task.header_mut().link.take();
        self.len -= 1;
        Some(task)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) const fn len(&self) -> u32 {
        self.len
    }

    /// The tasks in the order added.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Task> {
        let into: Vec<_> = linked(self.into.as_ref()).collect();
        linked(self.out.as_ref()).chain(into.into_iter().rev())
    }

    /// Does something to each task, in no order.
    pub(crate) fn for_each(&mut self, mut f: impl FnMut(&mut Task)) {
        for mut next in [self.out.as_mut(), self.into.as_mut()] {
            while let Some(task) = next {
                f(task);
                next = task.header_mut().link.as_mut();
            }
        }
    }

    /// Takes out the tasks that `which` is true of.
    pub(crate) fn extract(&mut self, which: impl Fn(&Task) -> bool) -> Self {
        let (mut kept, mut extracted) = (Self::default(), Self::default());
        while let Some(task) = self.pop() {
            if which(&task) { extracted.push(task) } else { kept.push(task) }
        }
        *self = kept;
        extracted
    }
}

fn linked(first: Option<&Task>) -> impl Iterator<Item = &Task> {
    std::iter::successors(first, |task| task.header().link.as_ref())
}

impl Drop for Queue {
    fn drop(&mut self) {
        // One by one: a task's own drop would go down the whole of the links.
        while self.pop().is_some() {}
    }
}
