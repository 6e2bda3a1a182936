//! The tasks that requests leave.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use tower_background::{BackgroundTasks, Order, Task, TaskContext, When};

use crate::{
    books::{Condition, Fate, Slip},
    dice::Dice,
    field::Field,
    plan::Plan,
};

/// What a task does.
#[derive(Debug, Clone, Copy)]
enum Does {
    Return,
    Yield,
    Sleep,
    Fail,
    Panic,
    /// Sleeps past a timeout of its own.
    Oversleep,
    /// Never ends, but for the timeout that the supervisor sets.
    Hang,
    /// Ends when it is told to, or by its timeout.
    Await,
    /// Neither ends nor has a timeout that counts; left only when a shutdown is near.
    Stay,
    Add,
    BlockAndReturn,
    BlockAndFail,
    BlockAndPanic,
    /// Blocks until it is told to stop.
    Overblock,
}

/// A captured value that panics when it is dropped before its task has started.
struct Bomb {
    armed: bool,
}

impl Bomb {
    fn defuse(mut self) {
        self.armed = false;
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.armed && !std::thread::panicking() {
            resume_unwind(Box::new("a captured value panics"));
        }
    }
}

impl Field {
    /// Leaves a task, which may leave others.
    pub fn leave(self: &Arc<Self>, tasks: &BackgroundTasks, plan: Plan, dice: &mut Dice, depth: u8) -> u64 {
        let does = match dice.among(&[
            (400, Does::Return),
            (100, Does::Yield),
            (120, Does::Sleep),
            (80, Does::Fail),
            (60, Does::Panic),
            (20, Does::Oversleep),
            (6, Does::Hang),
            (10, Does::Await),
            (10, Does::Stay),
            (80, Does::Add),
            (40, Does::BlockAndReturn),
            (8, Does::BlockAndFail),
            (8, Does::BlockAndPanic),
            (5, Does::Overblock),
        ]) {
            Does::Stay if !self.may_stay() => Does::Sleep,
            // What an unwatched function does after its timeout is in no figure.
            Does::Overblock if !self.books.is_observed() => Does::BlockAndReturn,
            Does::Add if depth == 0 => Does::Return,
            does => does,
        };
        let condition = dice.among(&[
            (55, Condition::Responded),
            (8, Condition::Complete),
            (10, Condition::Success),
            (26, Condition::Always),
            (1, Condition::Panics),
        ]);
        let blocking = matches!(does, Does::BlockAndReturn | Does::BlockAndFail | Does::BlockAndPanic | Does::Overblock);
        let fail_fast = plan.order.unwrap_or(self.order) == Order::FailFast;
        let slip = self.books.slip(condition, fail_fast, blocking);
        let number = slip.number;
        let bomb = Bomb { armed: dice.percent(1) };
        let armed = bomb.armed;
        let inner = Dice::new(dice.roll());
        let task = if blocking { block(does, slip, bomb, inner) } else { self.run(does, slip, bomb, inner, plan, depth) };
        let task = match does {
            Does::Await if self.may_stay() => task.timeout(Duration::from_secs(600)),
            Does::Oversleep | Does::Await => task.timeout(Duration::from_millis(1 + dice.below(8))),
            Does::Overblock => task.timeout(Duration::from_millis(1 + dice.below(3))),
            // Longer than any of these waits and works: what ends it is a shutdown.
            Does::Stay | Does::BlockAndReturn | Does::BlockAndFail | Does::BlockAndPanic => {
                task.timeout(Duration::from_secs(600))
            }
            _ => task,
        };
        let task = task.named(number.to_string()).when(self.when(condition));
        // A refused task is dropped by the one who adds it, with what it has captured.
        let taken = if armed { catch_unwind(AssertUnwindSafe(|| tasks.add(task))).unwrap_or(false) } else { tasks.add(task) };
        if !taken {
            self.books.refused.fetch_add(1, SeqCst);
        }
        number
    }

    fn when(self: &Arc<Self>, condition: Condition) -> When {
        match condition {
            Condition::Responded => When::Responded,
            Condition::Complete => When::Complete,
            Condition::Success => When::Success,
            Condition::Always => When::Always,
            Condition::Panics => {
                let books = Arc::clone(&self.books);
                When::matches(move |_| {
                    books.condition_panics.fetch_add(1, SeqCst);
                    resume_unwind(Box::new("a condition panics"))
                })
            }
        }
    }

    fn run(self: &Arc<Self>, does: Does, mut slip: Slip, bomb: Bomb, mut dice: Dice, plan: Plan, depth: u8) -> Task {
        let field = Arc::clone(self);
        Task::with_context(move |cx: TaskContext| async move {
            slip.start();
            bomb.defuse();
            match does {
                Does::Yield => {
                    for _ in 0..dice.below(4) {
                        tokio::task::yield_now().await;
                    }
                }
                Does::Sleep => tokio::time::sleep(Duration::from_millis(dice.below(4))).await,
                Does::Oversleep | Does::Stay => tokio::time::sleep(Duration::from_secs(600)).await,
                Does::Hang => std::future::pending().await,
                Does::Await => cx.cancelled().await,
                Does::Add => {
                    let tasks = if dice.percent(50) { Some(cx.tasks()) } else { BackgroundTasks::current() };
                    let tasks = tasks.expect("a task's registry is the current one");
                    for _ in 0..=dice.below(2) {
                        field.leave(&tasks, plan, &mut dice, depth - 1);
                    }
                }
                _ => {}
            }
            match does {
                Does::Fail => {
                    slip.end(Fate::Failed);
                    Err("the task fails")
                }
                Does::Panic => {
                    slip.end(Fate::Panicked);
                    resume_unwind(Box::new("the task panics"))
                }
                _ => {
                    slip.end(Fate::Returned);
                    Ok(())
                }
            }
        })
    }
}

fn block(does: Does, mut slip: Slip, bomb: Bomb, mut dice: Dice) -> Task {
    Task::blocking(move |cx: TaskContext| {
        slip.start();
        bomb.defuse();
        // Work, and no wait: it takes a thread, and has an end.
        let worked = (0..dice.below(20_000)).fold(0, |sum: u64, _| sum.wrapping_add(dice.roll()));
        std::hint::black_box(worked);
        match does {
            Does::BlockAndFail => {
                slip.end(Fate::Failed);
                Err("the function fails")
            }
            Does::BlockAndPanic => {
                slip.end(Fate::Panicked);
                resume_unwind(Box::new("the function panics"))
            }
            Does::Overblock => {
                while !cx.is_cancelled() {
                    std::thread::yield_now();
                }
                slip.end(Fate::Told);
                Ok(())
            }
            _ => {
                slip.end(Fate::Returned);
                Ok(())
            }
        }
    })
}
