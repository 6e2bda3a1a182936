//! Looks at queues, and changes what is in them.

use std::{path::Path, process::ExitCode, sync::Arc, time::Duration};

use serde_json::Value;
use tower_background_jobs::{
    BoxError, JobInfo, JobQueue, PgmqEngine, SqliteEngine, engines::Engine,
};

const USAGE: &str = "usage: jobs DATABASE COMMAND

DATABASE is the path of a SQLite file or the URL of a PostgreSQL database.

  queues                 names of all queues
  depth QUEUE            how many jobs there are, and the age of the oldest
  list QUEUE [AFTER]     jobs that are not done: 100, after the id AFTER
  archived QUEUE [AFTER] jobs that failed for good: 100, after the id AFTER
  show QUEUE ID          one job with its headers and its last error
  retry QUEUE ID         runs a job now; one that failed for good starts anew
  discard QUEUE ID       deletes a job
  purge QUEUE DAYS       deletes jobs that failed for good so many days ago";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match start(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: &[&str]) -> Result<(), BoxError> {
    let [database, command, arguments @ ..] = arguments else {
        return Err(USAGE.into());
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(database, command, arguments))
}

async fn run(database: &str, command: &str, arguments: &[&str]) -> Result<(), BoxError> {
    let engine: Arc<dyn Engine> = if database.contains("://") {
        Arc::new(PgmqEngine::connect(database)?)
    } else if Path::new(database).exists() {
        Arc::new(SqliteEngine::open(database).await?)
    } else {
        return Err(format!("there is no file {database}").into());
    };
    if let ("queues", []) = (command, arguments) {
        engine
            .queues()
            .await?
            .iter()
            .for_each(|name| println!("{name}"));
        return Ok(());
    }
    let [name, arguments @ ..] = arguments else {
        return Err(USAGE.into());
    };
    if !engine.queues().await?.iter().any(|queue| queue == name) {
        return Err(format!("there is no queue {name}").into());
    }
    let queue: JobQueue<Value> = JobQueue::open_shared(engine, name).await?;
    match (command, arguments) {
        ("depth", []) => {
            let depth = queue.depth().await?;
            println!("ready      {}", depth.ready);
            println!("invisible  {}", depth.invisible);
            println!("archived   {}", depth.archived);
            println!("oldest     {:.1?}", depth.age_of_oldest);
        }
        ("list", after) => print_all(&queue.list_queued(number(after)?, 100).await?),
        ("archived", after) => print_all(&queue.list_archived(number(after)?, 100).await?),
        ("show", [id]) => print(
            &queue
                .find(id.parse()?)
                .await?
                .ok_or("there is no such job")?,
        ),
        ("retry", [id]) => {
            let id = queue.retry(id.parse()?).await?;
            println!(
                "{}",
                id.ok_or("there is no such job, or it is visible already")?
            );
        }
        ("discard", [id]) if queue.discard(id.parse()?).await? => println!("deleted"),
        ("discard", [_]) => return Err("there is no such job".into()),
        ("purge", [days]) => {
            let seconds = days.parse::<u64>()?.checked_mul(24 * 60 * 60);
            let age = Duration::from_secs(seconds.ok_or("these are too many days")?);
            println!("{} deleted", queue.purge(age).await?);
        }
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

/// The id to list after. Ids are positive.
fn number(after: &[&str]) -> Result<i64, BoxError> {
    match after {
        [] => Ok(0),
        [after] => Ok(after.parse()?),
        _ => Err(USAGE.into()),
    }
}

fn print_all(jobs: &[JobInfo]) {
    println!("{:>12} {:>5} {:>8}  job, error", "id", "reads", "failures");
    for job in jobs {
        let body: String = job.body.chars().take(60).collect();
        let error = job
            .error()
            .unwrap_or_default()
            .lines()
            .next()
            .unwrap_or_default();
        println!(
            "{:>12} {:>5} {:>8}  {body}  {error}",
            job.id,
            job.read_count,
            job.failures()
        );
    }
}

fn print(job: &JobInfo) {
    let age = |time: std::time::SystemTime| match time.elapsed() {
        Ok(age) => format!("{age:.1?} ago"),
        Err(ahead) => format!("in {:.1?}", ahead.duration()),
    };
    println!("id        {}", job.id);
    println!("pushed    {}", age(job.enqueued_at));
    match job.archived_at {
        Some(time) => println!("archived  {}", age(time)),
        None => println!("visible   {}", age(job.visible_at)),
    }
    println!("reads     {}", job.read_count);
    println!("failures  {}", job.failures());
    println!("error     {}", job.error().unwrap_or("none"));
    println!("headers   {}", Value::Object(job.headers.clone()));
    println!("job       {}", job.body);
}
