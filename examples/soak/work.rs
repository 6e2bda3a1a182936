//! The tasks that requests add.

use std::{
    panic::resume_unwind,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use tower_background::{BackgroundTasks, Order, Task, TaskContext, When};

use crate::{
    account::{Account, Condition, Fallback, TaskEnd, TaskRecord},
    dice::Dice,
    plan::Plan,
    shared::Shared,
};

/// What a task does.
#[derive(Debug, Clone, Copy)]
enum Does {
    Return,
    Yield,
    Sleep,
    Fail,
    Panic,
    /// Sleeps longer than its own timeout.
    Oversleep,
    /// Ends only by the timeout of the supervisor.
    Hang,
    /// Ends when it is cancelled, or by its timeout.
    Await,
    /// Does not end in time. It is only added when a shutdown is near.
    Stay,
    Add,
    BlockAndReturn,
    BlockAndFail,
    BlockAndPanic,
    /// Blocks until it is cancelled.
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

impl Shared {
    /// Adds a task, which may add further tasks.
    pub fn leave(
        self: &Arc<Self>,
        tasks: &BackgroundTasks,
        plan: Plan,
        dice: &mut Dice,
        depth: u8,
    ) -> u64 {
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
            // Without an observer nobody knows whether the function had timed out.
            Does::Overblock if !self.account.is_observed() => Does::BlockAndReturn,
            Does::Add if depth == 0 => Does::Return,
            does => does,
        };
        let condition = dice.among(&[
            (55, Condition::Responded),
            (8, Condition::Complete),
            (8, Condition::Success),
            (8, Condition::Delivered),
            (20, Condition::Always),
            (1, Condition::Panics),
        ]);
        let blocking = matches!(
            does,
            Does::BlockAndReturn | Does::BlockAndFail | Does::BlockAndPanic | Does::Overblock
        );
        let fail_fast = plan.order.unwrap_or(self.order) == Order::FailFast;
        let record = self.account.record(condition, fail_fast, blocking);
        let number = record.number;
        let bomb = Bomb {
            armed: dice.percent(1),
        };
        let inner = Dice::new(dice.roll());
        let task = if blocking {
            block(does, record, bomb, inner)
        } else {
            self.run(does, record, bomb, inner, plan, depth)
        };
        let task = match does {
            Does::Await if self.may_stay() => task.timeout(Duration::from_secs(600)),
            Does::Oversleep | Does::Await => task.timeout(Duration::from_millis(1 + dice.below(8))),
            Does::Overblock => task.timeout(Duration::from_millis(1 + dice.below(3))),
            // Longer than any of these needs, so only a shutdown can end it early.
            Does::Stay | Does::BlockAndReturn | Does::BlockAndFail | Does::BlockAndPanic => {
                task.timeout(Duration::from_secs(600))
            }
            _ => task,
        };
        let task = if dice.percent(10) {
            fall_back(task, Arc::clone(&self.account), number, dice)
        } else {
            task
        };
        let task = task.named(number.to_string()).when(self.when(condition));
        let aborts = dice.percent(1);
        match tasks.try_add(task) {
            Ok(handle) if aborts => handle.abort(),
            Ok(_) => {}
            Err(refused) => {
                drop(refused);
                self.account.refuse(number);
            }
        }
        number
    }

    fn when(self: &Arc<Self>, condition: Condition) -> When {
        match condition {
            Condition::Responded => When::Responded,
            Condition::Complete => When::Complete,
            Condition::Success => When::Success,
            Condition::Delivered => When::Delivered,
            Condition::Always => When::Always,
            Condition::Panics => {
                let account = Arc::clone(&self.account);
                When::matches(move |_| {
                    account.condition_panics.fetch_add(1, SeqCst);
                    resume_unwind(Box::new("a condition panics"))
                })
            }
        }
    }

    fn run(
        self: &Arc<Self>,
        does: Does,
        mut record: TaskRecord,
        bomb: Bomb,
        mut dice: Dice,
        plan: Plan,
        depth: u8,
    ) -> Task {
        let shared = Arc::clone(self);
        Task::with_context(move |cx: TaskContext| async move {
            record.start();
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
                    let tasks = BackgroundTasks::current().expect("a task is code of its request");
                    for _ in 0..=dice.below(2) {
                        shared.leave(&tasks, plan, &mut dice, depth - 1);
                    }
                }
                _ => {}
            }
            match does {
                Does::Fail => {
                    record.end(TaskEnd::Failed);
                    Err("the task fails")
                }
                Does::Panic => {
                    record.end(TaskEnd::Panicked);
                    resume_unwind(Box::new("the task panics"))
                }
                _ => {
                    record.end(TaskEnd::Returned);
                    Ok(())
                }
            }
        })
    }
}

/// Gives a task a shutdown fallback, which may fail, panic or hang.
fn fall_back(task: Task, account: Arc<Account>, number: u64, dice: &mut Dice) -> Task {
    let end = dice.among(&[
        (70, TaskEnd::Returned),
        (10, TaskEnd::Failed),
        (10, TaskEnd::Panicked),
        (10, TaskEnd::DroppedUnfinished),
    ]);
    task.shutdown_fallback(async move {
        let mut fallback = Fallback::start(account, number);
        tokio::task::yield_now().await;
        if end == TaskEnd::DroppedUnfinished {
            std::future::pending::<()>().await;
        }
        fallback.end(end);
        match end {
            TaskEnd::Failed => Err("the fallback fails"),
            TaskEnd::Panicked => resume_unwind(Box::new("the fallback panics")),
            _ => Ok(()),
        }
    })
}

fn block(does: Does, mut record: TaskRecord, bomb: Bomb, mut dice: Dice) -> Task {
    Task::blocking_with_context(move |cx: TaskContext| {
        record.start();
        bomb.defuse();
        // This computes for a while and never waits.
        let worked = (0..dice.below(20_000)).fold(0, |sum: u64, _| sum.wrapping_add(dice.roll()));
        std::hint::black_box(worked);
        match does {
            Does::BlockAndFail => {
                record.end(TaskEnd::Failed);
                Err("the function fails")
            }
            Does::BlockAndPanic => {
                record.end(TaskEnd::Panicked);
                resume_unwind(Box::new("the function panics"))
            }
            Does::Overblock => {
                while !cx.is_cancelled() {
                    std::thread::yield_now();
                }
                record.end(TaskEnd::Cancelled);
                Ok(())
            }
            _ => {
                record.end(TaskEnd::Returned);
                Ok(())
            }
        }
    })
}
