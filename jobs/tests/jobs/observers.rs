//! What others see of the runs: observers of tasks, metrics and spans.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tower_background::{
    Observer,
    report::{TaskInfo, TaskReport},
};
use tower_background_jobs::{Backoff, JobError, JobOutcome, JobQueue, engines::QueueName};

use crate::{on_both, support::eventually};

const SOON: Backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(20));

/// Notes how jobs start and end, and panics each time.
#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl Recorder {
    fn note(&self, line: String) {
        self.0.lock().unwrap().push(line);
        std::panic::resume_unwind(Box::new("an observer panics"));
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Observer for Recorder {
    fn on_task_start(&self, task: &TaskInfo) {
        self.note(format!("{} starts", task.name().unwrap()));
    }

    fn on_task_end(&self, report: &TaskReport) {
        let ran = if report.ran().is_some() {
            "ran"
        } else {
            "did not run"
        };
        self.note(format!(
            "{} {}, {ran}",
            report.name().unwrap(),
            report.outcome()
        ));
    }
}

on_both! {
    async fn an_observer_sees_each_outcome(database) {
        let queue: JobQueue<String> = database.queue("observed").await;
        let recorder = Arc::new(Recorder::default());
        let worker = queue
            .worker(|what: String, cx| async move {
                match (what.as_str(), cx.header("seen")) {
                    ("fail", _) => Err(std::io::Error::other("no disk").into()),
                    ("panic", _) => panic!("index 7"),
                    ("snooze", _) => Err(JobError::snooze(Duration::from_secs(60))),
                    ("pend", _) => std::future::pending().await,
                    _ => Ok(()),
                }
            })
            .max_attempts(2)
            .backoff(SOON)
            .concurrency(1)
            .observer(Arc::clone(&recorder))
            .start();
        let mut expected = Vec::new();
        for (what, ends) in [
            ("done", &["succeeded, ran"][..]),
            ("fail", &["failed: no disk, ran", "failed: no disk, ran"]),
            ("panic", &["panicked: index 7, ran", "panicked: index 7, ran"]),
            ("snooze", &["skipped, ran"]),
        ] {
            queue.push(&what.to_owned()).await.unwrap();
            for end in ends {
                expected.push("observed starts".to_owned());
                expected.push(format!("observed {end}"));
            }
            eventually(what, async || recorder.lines().len() >= expected.len()).await;
        }
        queue.push(&"pend".to_owned()).await.unwrap();
        expected.push("observed starts".to_owned());
        eventually("it runs", async || recorder.lines().len() == expected.len()).await;
        worker.stop(Duration::from_millis(50)).await;
        expected.push("observed aborted, ran".to_owned());
        assert_eq!(recorder.lines(), expected);
    }
}

on_both! {
    /// The process of the job died while it ran alone in its last attempt. Nobody but the message
    /// knows of that.
    async fn an_observer_sees_a_job_whose_process_died(database) {
        let queue: JobQueue<u8> = database.queue("died").await;
        let (engine, name) = (database.engine().await, QueueName::new("died").unwrap());
        let alone = tower_background_jobs::PushOptions::new().header("x-alone", 1);
        let id = queue.push_with(&1, alone).await.unwrap();
        let batch = engine.read(&name, 1, Duration::from_millis(20)).await.unwrap();
        assert_eq!(batch.messages.len(), 1);
        let recorder = Arc::new(Recorder::default());
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let _worker = queue
            .worker(|_, _| async { Ok(()) })
            .max_attempts(1)
            .observer(Arc::clone(&recorder))
            .on_end(move |report| tell.send(report.clone()).unwrap())
            .start();
        let report = told.recv().await.unwrap();
        assert_eq!((report.id, report.attempt, report.outcome), (id, 1, JobOutcome::Archived));
        assert_eq!(report.ran, None);
        let died = "died failed: the process died 1 times while this job ran, did not run";
        eventually("it is seen", async || recorder.lines() == [died]).await;
    }
}

on_both! {
    /// The span has no parent: the worker does not belong to the request that pushed.
    async fn a_handler_runs_in_a_span_of_its_job(database) {
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
        let queue: JobQueue<u8> = database.queue("spans").await;
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let _worker = queue
            .worker(move |_, _| {
                let tell = tell.clone();
                async move { Ok(tell.send(tracing::Span::current())?) }
            })
            .start();
        queue.push(&1).await.unwrap();
        let span = told.recv().await.unwrap();
        let metadata = span.metadata().expect("a subscriber is set");
        let fields: Vec<_> = metadata.fields().iter().map(|field| field.name()).collect();
        assert_eq!((metadata.name(), &fields[..]), ("job", &["queue", "id", "attempt"][..]));
    }
}

#[cfg(feature = "metrics")]
mod metrics {
    use std::sync::OnceLock;

    use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
    use tower_background_jobs::PushOptions;

    use super::*;

    /// The process has one recorder, which other tests use too.
    fn recorder() -> &'static PrometheusHandle {
        static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
        HANDLE.get_or_init(|| {
            PrometheusBuilder::new()
                .install_recorder()
                .expect("it is the first")
        })
    }

    /// The value of a series, such as `background_jobs{queue="mails",state="ready"}`.
    fn value(series: &str) -> Option<f64> {
        let text = recorder().render();
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        line.map(|value| value.trim().parse().expect("it is a number"))
    }

    on_both! {
        async fn a_recorder_sees_depth_age_latency_and_outcomes(database) {
            recorder();
            let name = if database.is_postgres() { "metered_pg" } else { "metered_lite" };
            let value = |series: &str| {
                let labels = format!("{{queue=\"{name}\"");
                value(&series.replace('{', &labels))
            };
            let queue: JobQueue<String> = database.queue(name).await;
            for what in ["bad", "flaky", "flaky"] {
                queue.push(&what.to_owned()).await.unwrap();
            }
            let worker = queue
                .worker(move |what: String, cx| async move {
                    match (what.as_str(), cx.attempt()) {
                        ("bad", _) => Err(JobError::give_up("bad")),
                        ("flaky", 1) => Err(JobError::retry_in(Duration::ZERO, "flaky")),
                        _ => Ok(()),
                    }
                })
                .start();
            eventually("all have ended", async || {
                let counts = worker.counts();
                (counts.done, counts.archived, counts.running) == (2, 1, 0)
            })
            .await;
            worker.stop(Duration::from_secs(5)).await;
            for (outcome, count) in [("done", 2.0), ("failed", 2.0), ("archived", 1.0)] {
                let series = format!("background_jobs_total{{,outcome=\"{outcome}\"}}");
                assert_eq!(value(&series), Some(count), "{outcome}");
            }
            for histogram in ["background_job_wait_seconds", "background_job_run_seconds"] {
                assert_eq!(value(&format!("{histogram}_count{{}}")), Some(5.0), "{histogram}");
                assert!(value(&format!("{histogram}_sum{{}}")).unwrap() > 0.0, "{histogram}");
            }

            // A worker measures the queue when it starts. It may have read a job by then.
            for _ in 0..2 {
                queue.push(&"pend".to_owned()).await.unwrap();
            }
            let later = PushOptions::new().delay(Duration::from_secs(3_600));
            queue.push_with(&"later".to_owned(), later).await.unwrap();
            let worker = queue.worker(|_, _| std::future::pending()).concurrency(1).start();
            let state = |state: &str| value(&format!("background_jobs{{,state=\"{state}\"}}"));
            eventually("the queue is measured", async || {
                let oldest = value("background_job_oldest_seconds{}");
                state("archived") == Some(1.0) && oldest.is_some_and(|age| age > 0.0)
            })
            .await;
            let (ready, invisible) = (state("ready").unwrap(), state("invisible").unwrap());
            assert!(ready >= 1.0 && ready + invisible == 3.0, "{ready} and {invisible}");
            worker.stop(Duration::ZERO).await;
            assert_eq!(value("background_jobs_total{,outcome=\"returned\"}"), Some(1.0));
        }
    }
}
