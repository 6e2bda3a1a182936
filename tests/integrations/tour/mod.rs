//! The page of the tour works in a real browser. The tests click every button, and compare what the
//! page shows with what must have happened. They do not look at times.
//!
//! The tests are skipped without Chromium, unless `TOWER_BACKGROUND_NO_SKIP` is set. If
//! `TOUR_SCREENSHOTS` names a folder, they write pictures to it.

mod browser;
mod look;
mod palette;
mod scenes;

use serde_json::{Value, json};
use tokio::process::Child;

use crate::common::start;
use browser::Browser;

/// The page in a browser, and the server that it is from. `None` without a browser, which is told.
async fn tour(name: &str) -> Option<(Child, Browser)> {
    let Some(mut browser) = Browser::start(name).await else {
        assert!(
            std::env::var_os("TOWER_BACKGROUND_NO_SKIP").is_none(),
            "there is no chromium"
        );
        eprintln!("skipped: no chromium");
        return None;
    };
    let (server, address, _) = start("tour", "axum").await;
    browser.resize(1280, 1080).await;
    browser.open(&address).await;
    // The page shows something before anybody has clicked.
    done(&mut browser, "quick").await;
    Some((server, browser))
}

/// Waits for the end of what a button has begun.
async fn done(browser: &mut Browser, demo: &str) {
    browser
        .until(&format!(
            "document.body.dataset.demo === {demo:?} && document.body.dataset.run === 'done'"
        ))
        .await;
}

/// Returns the names of all demos, in the order of their buttons.
async fn demos(browser: &mut Browser) -> Vec<String> {
    let names = browser
        .ask("[...document.querySelectorAll('nav button')].map(button => button.dataset.demo)")
        .await;
    serde_json::from_value(names).expect("names are texts")
}

async fn click(browser: &mut Browser, demo: &str) {
    browser
        .ask("document.querySelector('#log').textContent = ''")
        .await;
    browser.click(&format!("nav [data-demo={demo}]")).await;
    done(browser, demo).await;
}

/// Checks the bars of the page. The bar of the client has this state, and the bar of the response
/// is over. Then each of these tasks has a bar, with its outcome.
async fn assert_bars(browser: &mut Browser, client: &str, tasks: &[[&str; 2]]) {
    let expected = [&[["Client", client], ["Response", "over"]], tasks].concat();
    assert_eq!(lanes(browser).await, json!(expected));
}

/// Clicks a demo that is answered, and checks the outcomes of its tasks.
async fn click_and_see(browser: &mut Browser, demo: &str, tasks: &[[&str; 2]]) {
    click(browser, demo).await;
    assert_bars(browser, "answered", tasks).await;
}

/// Returns the name and the state of each bar.
async fn lanes(browser: &mut Browser) -> Value {
    browser
        .ask(
            "[...document.querySelectorAll('.lane')]
                .map(lane => [lane.querySelector('b').textContent, lane.dataset.state])",
        )
        .await
}

/// The place in the log of what is told so; the log has it once.
async fn told(browser: &mut Browser, selector: &str) -> u64 {
    let found = browser
        .ask(&format!(
            "[...document.querySelectorAll('#log li')].flatMap((entry, place) => entry.matches({selector:?}) ? [place] : [])"
        ))
        .await;
    match found.as_array().map(Vec::as_slice) {
        Some([place]) => place.as_u64().expect("a place is a number"),
        _ => panic!("{selector} in the log: {found}"),
    }
}

/// Checks that the log tells of these things in this order.
async fn in_order(browser: &mut Browser, selectors: &[&str]) {
    let mut last = None;
    for selector in selectors {
        let place = told(browser, selector).await;
        assert!(last < Some(place), "{selector} comes too early");
        last = Some(place);
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("it is a number")
}

async fn text(browser: &mut Browser, selector: &str) -> String {
    let text = browser
        .ask(&format!("document.querySelector({selector:?}).innerText"))
        .await;
    text.as_str().expect("it is text").to_owned()
}

/// Returns the statistics on the page, when no task is pending.
async fn figures(browser: &mut Browser) -> Value {
    let none = "name => document.querySelector(`[data-stat=${name}] dd`).textContent === '0'";
    browser
        .until(&format!("['deferred', 'queued', 'running'].every({none})"))
        .await;
    browser
        .ask(
            "(() => {
                const rows = [...document.querySelectorAll('#figures div')];
                const figure = row => Number(row.querySelector('dd').textContent);
                const figures = Object.fromEntries(rows.map(row => [row.dataset.stat, figure(row)]));
                const sum = Object.values(figures).reduce((sum, figure) => sum + figure) - figures.refused;
                return { ...figures, balanced: sum === Number(document.querySelector('#sum').dataset.added) };
            })()",
        )
        .await
}

#[tokio::test]
async fn an_answer_comes_first_and_its_tasks_later() {
    let Some((_server, mut browser)) = tour("tour-first").await else {
        return;
    };
    click_and_see(
        &mut browser,
        "quick",
        &[["welcome-mail", "succeeded"], ["audit-log", "succeeded"]],
    )
    .await;
    in_order(
        &mut browser,
        &["[data-what=sent]", "[data-what=head]", "[data-what=last]"],
    )
    .await;
    for task in ["welcome-mail", "audit-log"] {
        let of = |what: &str| format!("[data-what={what}][data-task={task}]");
        in_order(
            &mut browser,
            &[
                &of("added"),
                "[data-what=over][data-end=Complete]",
                &of("started"),
                &of("ended"),
            ],
        )
        .await;
    }
    assert!(
        text(&mut browser, "#verdict")
            .await
            .contains("The tasks took")
    );

    click_and_see(&mut browser, "stream", &[["count-usage", "succeeded"]]).await;
    in_order(
        &mut browser,
        &["[data-what=sent]", "[data-what=head]", "[data-what=last]"],
    )
    .await;
    in_order(
        &mut browser,
        &[
            "[data-what=added]",
            "[data-what=over]",
            "[data-what=started]",
        ],
    )
    .await;

    click_and_see(&mut browser, "slow", &[["count-download", "succeeded"]]).await;
    let socket = |what: &str| format!("[data-where=socket][data-what={what}]");
    in_order(
        &mut browser,
        &[
            &socket("sent"),
            &socket("head"),
            "[data-what=over]",
            "[data-what=ended]",
        ],
    )
    .await;
    in_order(&mut browser, &["[data-what=over]", &socket("last")]).await;
    assert!(
        !text(&mut browser, "#verdict").await.contains('-'),
        "a task that was done before the last byte took no time after it"
    );
    browser.close().await;
}

#[tokio::test]
async fn what_goes_wrong_is_told_and_stays_where_it_is() {
    let Some((_server, mut browser)) = tour("tour-wrong").await else {
        return;
    };
    click(&mut browser, "abort").await;
    assert_bars(
        &mut browser,
        "left",
        &[["receipt", "skipped"], ["clean-up", "succeeded"]],
    )
    .await;
    in_order(&mut browser, &["[data-what=head]", "[data-what=left]"]).await;
    in_order(
        &mut browser,
        &[
            "[data-what=over][data-end=Interrupted]",
            "[data-what=started][data-task=clean-up]",
        ],
    )
    .await;

    click_and_see(
        &mut browser,
        "fail",
        &[
            ["webhook", "failed"],
            ["report", "timed_out"],
            ["audit-log", "succeeded"],
        ],
    )
    .await;
    assert!(
        text(&mut browser, "#log [data-outcome=failed]")
            .await
            .ends_with("webhook failed: no such host")
    );

    click_and_see(
        &mut browser,
        "panic",
        &[["thumbnail", "panicked"], ["audit-log", "succeeded"]],
    )
    .await;
    assert!(
        text(&mut browser, "#log [data-outcome=panicked]")
            .await
            .ends_with("thumbnail panicked: the image has no pixels")
    );

    let figures = figures(&mut browser).await;
    let ended = ["succeeded", "failed", "panicked", "timed_out", "skipped"]
        .map(|name| figures[name].as_u64());
    assert_eq!(
        ended,
        [Some(5), Some(1), Some(1), Some(1), Some(1)],
        "{figures}"
    );
    assert_eq!(figures["balanced"], true);
    browser.close().await;
}

#[tokio::test]
async fn limits_make_tasks_wait_and_then_the_door_closes() {
    let Some((_server, mut browser)) = tour("tour-limits").await else {
        return;
    };
    click_and_see(
        &mut browser,
        "blocking",
        &[
            ["hash-password", "succeeded"],
            ["zip-files", "succeeded"],
            ["audit-log", "succeeded"],
        ],
    )
    .await;
    in_order(
        &mut browser,
        &[
            "[data-what=started][data-task=hash-password]",
            "[data-what=started][data-task=zip-files]",
        ],
    )
    .await;

    // A machine that is slow enough could work tasks off while the burst still comes.
    for _ in 0..5 {
        let before = number(&figures(&mut browser).await["succeeded"]);
        click(&mut browser, "burst").await;
        let after = number(&figures(&mut browser).await["succeeded"]);
        let count =
            |state: &str| format!("document.querySelectorAll('.lane[data-state={state}]').length");
        let done = number(&browser.ask(&count("succeeded")).await);
        let shed = number(&browser.ask(&count("shed")).await);
        assert_eq!((done + shed, after - before), (12, done));
        assert!(done >= 8, "8 requests must fit, and {done} succeeded");
        if shed > 0 {
            assert!(
                text(&mut browser, "#verdict")
                    .await
                    .starts_with(&format!("{done} of 12 answered, {shed} turned away"))
            );
            return browser.close().await;
        }
    }
    panic!("no burst was turned away from a full supervisor");
}

#[tokio::test]
async fn a_shutdown_is_reported_and_the_tour_goes_on_after_it() {
    let Some((_server, mut browser)) = tour("tour-shutdown").await else {
        return;
    };
    click_and_see(
        &mut browser,
        "shutdown",
        &[
            ["short", "succeeded"],
            ["polite", "succeeded"],
            ["stubborn", "aborted"],
        ],
    )
    .await;
    let report = text(&mut browser, "#report").await;
    assert_eq!(
        report,
        "Some tasks did not finish. Ended within the grace: 1. Ended after they were cancelled: 1. Aborted: 1."
    );
    assert!(
        text(&mut browser, "#abandoned")
            .await
            .starts_with("stubborn was aborted after")
    );

    click_and_see(
        &mut browser,
        "quick",
        &[["welcome-mail", "refused"], ["audit-log", "refused"]],
    )
    .await;
    assert!(
        text(&mut browser, "#verdict b")
            .await
            .contains("2 tasks were refused")
    );
    let caption = text(&mut browser, "#see").await;
    assert!(
        !caption.contains("ran beside each other") && caption.contains("shut down"),
        "{caption}"
    );

    browser.click("#restart").await;
    browser.until("document.body.dataset.supervisor === 'open' && document.querySelector('#sum').dataset.added === '0'").await;
    click(&mut browser, "quick").await;
    let figures = figures(&mut browser).await;
    assert_eq!(
        (&figures["succeeded"], &figures["balanced"]),
        (&json!(2), &json!(true)),
        "{figures}"
    );
    browser.close().await;
}

#[tokio::test]
async fn a_websocket_and_shutdowns_with_a_stream_and_a_fallback() {
    let Some((_server, mut browser)) = tour("tour-scenes").await else {
        return;
    };
    click_and_see(
        &mut browser,
        "socket",
        &[["count-visit", "succeeded"], ["conversation", "succeeded"]],
    )
    .await;
    in_order(
        &mut browser,
        &[
            "[data-what=over][data-end=Complete]",
            "[data-what=ended][data-task=conversation]",
        ],
    )
    .await;
    assert!(
        text(&mut browser, "#see")
            .await
            .contains("over at the upgrade")
    );

    click_and_see(&mut browser, "feed", &[["save-position", "succeeded"]]).await;
    let steps = [
        "[data-what=closing]",
        "[data-what=over][data-end=Complete]",
        "[data-what=started]",
        "[data-what=shutdown]",
    ];
    in_order(&mut browser, &steps).await;
    let report = text(&mut browser, "#report").await;
    assert!(report.starts_with("No task was lost."), "{report}");

    // The next scene that ends with a shutdown starts a new supervisor first.
    click_and_see(
        &mut browser,
        "fallback",
        &[["mail", "fell_back"], ["audit-log", "succeeded"]],
    )
    .await;
    assert!(
        text(&mut browser, "#see")
            .await
            .contains("its fallback ran")
    );

    // A shut-down supervisor refuses the conversation, and the socket closes.
    click(&mut browser, "socket").await;
    let states = browser.ask("[...document.querySelectorAll('.lane[data-kind=task]')].map(lane => lane.dataset.state)").await;
    assert_eq!(states, json!(["refused"]));
    browser.close().await;
}

#[tokio::test]
async fn the_page_shows_the_source_that_runs_and_logs_each_run_apart() {
    let file = include_str!("../../../examples/tour/demos.rs");
    let Some((_server, mut browser)) = tour("tour-source").await else {
        return;
    };
    let all = demos(&mut browser).await;
    assert_eq!(all.len(), 15);
    for demo in &all {
        let source = browser
            .ask(&format!(
                "fetch('/source/{demo}').then(answer => answer.text())"
            ))
            .await;
        let source = source.as_str().expect("source is text").to_owned();
        assert!(
            source.starts_with(&format!("async fn {demo}("))
                && source.contains("tasks: BackgroundTasks"),
            "{source}"
        );
        for function in source.split("\n\n") {
            assert!(
                function.contains("fn ") && file.contains(function.trim_end()),
                "{demo}: {function}"
            );
        }
        browser.click(&format!("nav [data-demo={demo}]")).await;
        done(&mut browser, demo).await;
        browser
            .until(&format!(
                "document.querySelector('#code').textContent === {source:?}"
            ))
            .await;
    }
    let runs = browser
        .ask("[...document.querySelectorAll('#log h3')].map(title => title.textContent)")
        .await;
    let runs = runs.as_array().expect("a list");
    assert_eq!(
        (runs.len(), &runs[15]),
        (16, &json!("Run 1: Quick answer")),
        "{runs:?}"
    );
    let sorted = "[...document.querySelectorAll('#log ol')].every(run => run.children.length > 0
        && [...run.children].every((entry, place) => place === 0 || run.children[place - 1].at <= entry.at))";
    assert_eq!(
        browser.ask(sorted).await,
        true,
        "each run is sorted by time"
    );
    browser.close().await;
}
