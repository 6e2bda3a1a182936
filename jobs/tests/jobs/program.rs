//! The program `jobs`, as an operator calls it.

use std::{process::Command, time::Duration};

use tower_background_jobs::{JobError, JobQueue, PushOptions};

use crate::{
    on_both,
    support::{Database, eventually},
};

/// What the program prints. An error is what it prints when it fails.
fn jobs(database: &Database, arguments: &str) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jobs"));
    command
        .arg(database.location())
        .args(arguments.split_whitespace());
    let output = command.output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("it is text");
    if output.status.success() {
        Ok(text(output.stdout))
    } else {
        Err(text(output.stderr))
    }
}

/// The words of the line that starts with `name`.
fn line(output: &str, name: &str) -> String {
    let mut lines = output
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let words = lines
        .find(|words| words.first() == Some(&name))
        .expect(name);
    words[1..].join(" ")
}

on_both! {
    async fn an_operator_works_with_the_program(database) {
        let queue: JobQueue<String> = database.queue("mails").await;
        let later = PushOptions::new().delay(Duration::from_secs(3_600)).header("tenant", 7);
        let waits = queue.push_with(&"waits".to_owned(), later).await.unwrap();
        let bad = queue.push(&"bad".to_owned()).await.unwrap();
        let worker = queue
            .worker(|_, _| async { Err(JobError::give_up("no such address\nin the book")) })
            .start();
        eventually("it is archived", async || {
            queue.depth().await.unwrap().archived == 1
        })
        .await;
        worker.stop(Duration::from_secs(5)).await;
        let ready = queue.push(&"ready".to_owned()).await.unwrap();
        let run = |arguments: &str| jobs(&database, arguments);

        assert_eq!(run("queues").unwrap(), "mails\n");
        let depth = run("depth mails").unwrap();
        let counts = ["ready", "invisible", "archived"].map(|state| line(&depth, state));
        assert_eq!(counts, ["1", "1", "1"]);
        assert_ne!(line(&depth, "oldest"), "");

        let list = run("list mails").unwrap();
        assert_eq!(line(&list, &waits.to_string()), "0 0 \"waits\"");
        assert_eq!(line(&list, &ready.to_string()), "0 0 \"ready\"");
        assert_eq!(list.lines().count(), 3, "a head and two jobs");
        assert_eq!(run(&format!("list mails {ready}")).unwrap().lines().count(), 1);
        let archived = run("archived mails").unwrap();
        assert_eq!(line(&archived, &bad.to_string()), "1 1 \"bad\" no such address");

        let shown = run(&format!("show mails {bad}")).unwrap();
        assert_eq!(line(&shown, "failures"), "1");
        assert_eq!(line(&shown, "job"), "\"bad\"");
        assert!(shown.contains("error     no such address\nin the book\n"), "{shown}");
        let shown = run(&format!("show mails {waits}")).unwrap();
        assert_eq!(line(&shown, "headers"), "{\"tenant\":7}");
        assert!(line(&shown, "visible").starts_with("in 3"), "{shown}");

        let retried: i64 = run(&format!("retry mails {bad}")).unwrap().trim().parse().unwrap();
        assert_eq!(run(&format!("retry mails {waits}")).unwrap().trim(), waits.to_string());
        assert_eq!(line(&run("depth mails").unwrap(), "ready"), "3");
        assert_eq!(run(&format!("discard mails {retried}")).unwrap(), "deleted\n");
        assert_eq!(line(&run("depth mails").unwrap(), "ready"), "2");

        let worker = queue.worker(|_, _| async { Err(JobError::give_up("no")) }).start();
        eventually("both are archived", async || {
            queue.depth().await.unwrap().archived == 2
        })
        .await;
        worker.stop(Duration::from_secs(5)).await;
        assert_eq!(run("purge mails 1").unwrap(), "0 deleted\n");
        assert_eq!(run("purge mails 0").unwrap(), "2 deleted\n");
        assert_eq!(line(&run("depth mails").unwrap(), "archived"), "0");
    }
}

on_both! {
    async fn the_program_says_what_is_wrong(database) {
        let queue: JobQueue<u8> = database.queue("mails").await;
        let ready = queue.push(&1).await.unwrap();
        for (arguments, error) in [
            ("", "usage: jobs DATABASE COMMAND"),
            ("depth", "usage: jobs DATABASE COMMAND"),
            ("depth letters", "there is no queue letters"),
            ("show mails 999999", "there is no such job"),
            ("discard mails 999999", "there is no such job"),
            (&format!("retry mails {ready}"), "there is no such job, or it is visible already"),
            ("show mails x", "invalid digit found in string"),
            ("purge mails 213503982334602", "these are too many days"),
        ] {
            let failed = jobs(&database, arguments).unwrap_err();
            assert_eq!(failed.lines().next(), Some(error), "{arguments}");
        }
    }
}

#[test]
fn the_program_creates_no_file() {
    let database = Database::sqlite();
    let path = database.location();
    let failed = jobs(&database, "queues").unwrap_err();
    assert_eq!(failed, format!("there is no file {path}\n"));
    assert!(!std::path::Path::new(&path).exists());
}
