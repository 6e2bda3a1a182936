//! Adds a task for each condition, and records the outcomes of these tasks.

use std::sync::{Arc, Mutex};

use http::Request;
use tower_background::{
    BackgroundLayer, BackgroundTasksExt, Observer, Outcome, ResponseEnd, Supervisor,
    SupervisorBuilder, Task, When, report::TaskReport,
};

/// A supervisor, its layer, and what it has reported.
#[derive(Clone)]
pub(crate) struct Seen {
    pub(crate) supervisor: Supervisor,
    pub(crate) layer: BackgroundLayer,
    records: Arc<Records>,
}

#[derive(Default)]
struct Records {
    ends: Mutex<Vec<String>>,
    /// The names of the tasks that ended, and whether they ran.
    tasks: Mutex<Vec<(String, bool)>>,
}

impl Observer for Records {
    fn on_response_end(&self, end: &ResponseEnd) {
        let status = end
            .status()
            .map(|status| format!(" {}", status.as_u16()))
            .unwrap_or_default();
        self.ends
            .lock()
            .unwrap()
            .push(format!("{:?}{status}", end.kind()));
    }

    fn on_task_end(&self, report: &TaskReport) {
        let ran = match report.outcome() {
            Outcome::Succeeded => true,
            Outcome::Skipped => false,
            other => panic!("{other}"),
        };
        self.tasks
            .lock()
            .unwrap()
            .push((report.name().expect("it has a name").to_owned(), ran));
    }
}

impl Seen {
    pub(crate) fn new() -> Self {
        Self::with(Supervisor::builder())
    }

    pub(crate) fn with(builder: SupervisorBuilder) -> Self {
        let records = Arc::<Records>::default();
        let supervisor = builder.observer(Arc::clone(&records)).build();
        Self {
            layer: BackgroundLayer::with_supervisor(supervisor.clone()),
            supervisor,
            records,
        }
    }

    /// The ends of all responses, in the order in which they ended.
    pub(crate) fn ends(&self) -> String {
        self.records.ends.lock().unwrap().join(", ")
    }

    /// What became of the tasks with this condition, as the guide writes it.
    pub(crate) fn cell(&self, condition: &str) -> String {
        let tasks = self.records.tasks.lock().unwrap();
        let ran: Vec<_> = tasks
            .iter()
            .filter(|(name, _)| name == condition)
            .map(|(_, ran)| *ran)
            .collect();
        match ran[..] {
            [] | [false] => "-".to_owned(),
            [true] => "runs".to_owned(),
            _ => format!(
                "{} of {}",
                ran.iter().filter(|ran| **ran).count(),
                ran.len()
            ),
        }
    }
}

/// Adds a task for each condition.
pub(crate) fn add_all<B>(request: &Request<B>) {
    let tasks = request.background_tasks().expect("the layer is there");
    for (name, when) in [
        ("Responded", When::Responded),
        ("Success", When::Success),
        ("Complete", When::Complete),
        ("Delivered", When::Delivered),
        ("Always", When::Always),
    ] {
        tasks.add(Task::new(async {}).named(name).when(when));
    }
}
