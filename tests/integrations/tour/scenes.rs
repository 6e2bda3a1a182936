//! The scenes about limits, unique tasks and the context of a request, and the list of the scenes in the help.

use serde_json::{Value, json};

use super::{click, demos, figures, in_order, lanes, text, tour};
use crate::common::output_with;

/// The states of the lanes.
fn states(lanes: &Value) -> Vec<&str> {
    let lanes = lanes.as_array().expect("a list").iter();
    lanes
        .map(|lane| lane[1].as_str().expect("a state is text"))
        .collect()
}

/// How many mails were sent at once, by the entries of the log.
const MOST_MAILS: &str = "(() => {
    let now = 0, most = 0;
    for (const { dataset } of document.querySelectorAll('#log [data-task^=mail]')) {
        now += { started: 1, ended: -1 }[dataset.what] ?? 0;
        most = Math.max(most, now);
    }
    return most;
})()";

#[tokio::test]
async fn two_mails_are_sent_at_a_time_and_other_tasks_do_not_wait() {
    let Some((_server, mut browser)) = tour("tour-limit").await else {
        return;
    };
    click(&mut browser, "limit").await;
    let mut expected = vec![["Client", "answered"], ["Response", "over"]];
    let tasks = ["mail-1", "mail-2", "mail-3", "mail-4", "audit-log"];
    expected.extend(tasks.map(|task| [task, "succeeded"]));
    assert_eq!(lanes(&mut browser).await, json!(expected));
    // The task that was added last starts before the mails that wait.
    let started = |task: &str| format!("[data-what=started][data-task={task}]");
    for (first, second) in [("audit-log", "mail-3"), ("audit-log", "mail-4")] {
        in_order(&mut browser, &[&started(first), &started(second)]).await;
    }
    assert_eq!(browser.ask(MOST_MAILS).await, 2);
    let caption = text(&mut browser, "#see").await;
    assert!(caption.contains("the audit-log did not wait"), "{caption}");
    browser.close().await;
}

#[tokio::test]
async fn one_of_several_clients_refreshes_the_cache() {
    let Some((_server, mut browser)) = tour("tour-unique").await else {
        return;
    };
    let mut before = 0;
    // The clients of a machine that is slow enough could come one after the other.
    for _ in 0..5 {
        click(&mut browser, "unique").await;
        let lanes = lanes(&mut browser).await;
        let states = states(&lanes);
        let count = |state: &str| states.iter().filter(|is| **is == state).count();
        let (ran, skipped) = (count("succeeded"), count("skipped"));
        assert_eq!((ran + skipped, states.len()), (5, 5), "{lanes}");
        assert!(ran > 0, "{lanes}");
        let figures = figures(&mut browser).await;
        let total = before + skipped;
        assert_eq!(
            (&figures["skipped"], &figures["balanced"]),
            (&json!(total), &json!(true))
        );
        if total > 0 {
            let counted = format!("Skipped as duplicates: {total} of {total}.");
            assert_eq!(text(&mut browser, "#duplicates").await, counted);
        }
        if ran == 1 {
            assert_eq!(
                text(&mut browser, "#verdict").await,
                "5 of 5 clients answered, 1 refresh started, 4 skipped as duplicates."
            );
            assert!(text(&mut browser, "#see").await.contains("were skipped"));
            return browser.close().await;
        }
        before = total;
    }
    panic!("no refresh was shared by all clients");
}

#[tokio::test]
async fn each_task_knows_the_user_of_its_request() {
    let Some((_server, mut browser)) = tour("tour-context").await else {
        return;
    };
    click(&mut browser, "context").await;
    let expected = json!([["ada", "succeeded"], ["grace", "succeeded"]]);
    assert_eq!(lanes(&mut browser).await, expected);
    for user in ["ada", "grace"] {
        let words = text(&mut browser, &format!(".lane[data-user={user}] small")).await;
        assert!(words.ends_with(&format!("hello {user}")), "{words}");
    }
    assert_eq!(
        text(&mut browser, "#verdict").await,
        "2 of 2 clients answered, 2 of 2 tasks know their user."
    );
    let code = text(&mut browser, "#code").await;
    for shown in ["async fn greet", "impl Capture for User", "impl Scope for"] {
        assert!(code.contains(shown), "{code}");
    }
    browser.close().await;
}

#[tokio::test]
async fn the_help_lists_the_scenes() {
    let Some((_server, mut browser)) = tour("tour-help").await else {
        return;
    };
    let expected = demos(&mut browser).await;
    browser.close().await;
    let help = output_with("tour", "axum", &["--help"]).await;
    let (_, scenes) = help.split_once("Scenes").expect("there is a list");
    let mut listed: Vec<_> = scenes
        .lines()
        .skip(1)
        .take_while(|line| !line.is_empty())
        .flat_map(|line| line.trim().split("  ").next().unwrap().split(", "))
        .collect();
    let mut expected: Vec<_> = expected.iter().map(String::as_str).collect();
    listed.sort_unstable();
    expected.sort_unstable();
    assert_eq!(listed, expected);
}

#[tokio::test]
async fn a_mark_shows_when_a_shutdown_begins() {
    let Some((_server, mut browser)) = tour("tour-mark").await else {
        return;
    };
    let mark = "document.querySelector('.mark.closing')?.innerText ?? null";
    assert_eq!(browser.ask(mark).await, Value::Null);
    click(&mut browser, "feed").await;
    assert_eq!(browser.ask(mark).await, "the shutdown begins");
    click(&mut browser, "quick").await;
    assert_eq!(browser.ask(mark).await, Value::Null);
    browser.close().await;
}
