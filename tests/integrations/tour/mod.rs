//! The tour's page does what it says: in a real browser, every button is clicked and what the page then shows is compared with
//! what must have happened. Times are never looked at.
//!
//! Skipped where there is no Chromium, unless `TOWER_BACKGROUND_NO_SKIP` is set. With `TOUR_SCREENSHOTS`, the name of a
//! folder, it leaves pictures there.

mod browser;
mod look;

use serde_json::{Value, json};
use tokio::process::Child;

use crate::common::start;
use browser::Browser;

/// The page in a browser, and the server that it is from. `None` without a browser, which is told.
async fn tour(name: &str) -> Option<(Child, Browser)> {
    let Some(mut browser) = Browser::start(name).await else {
        assert!(std::env::var_os("TOWER_BACKGROUND_NO_SKIP").is_none(), "there is no chromium");
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
    browser.until(&format!("document.body.dataset.demo === {demo:?} && document.body.dataset.run === 'done'")).await;
}

async fn click(browser: &mut Browser, demo: &str) {
    browser.ask("document.querySelector('#log').textContent = ''").await;
    browser.click(&format!("nav [data-demo={demo}]")).await;
    done(browser, demo).await;
}

/// What the lanes are of, and where they stand.
async fn lanes(browser: &mut Browser) -> Value {
    browser
        .ask("[...document.querySelectorAll('.lane')].map(lane => [lane.querySelector('b').textContent, lane.dataset.state])")
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

async fn text(browser: &mut Browser, selector: &str) -> String {
    let text = browser.ask(&format!("document.querySelector({selector:?}).innerText")).await;
    text.as_str().expect("it is text").to_owned()
}

/// The supervisor's figures, when nothing is pending any more.
async fn figures(browser: &mut Browser) -> Value {
    let none = "name => document.querySelector(`[data-stat=${name}] dd`).textContent === '0'";
    browser.until(&format!("['deferred', 'queued', 'running'].every({none})")).await;
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
    let Some((_server, mut browser)) = tour("tour-first").await else { return };
    click(&mut browser, "quick").await;
    let expected =
        json!([["Client", "answered"], ["Response", "over"], ["welcome-mail", "succeeded"], ["audit-log", "succeeded"]]);
    assert_eq!(lanes(&mut browser).await, expected);
    in_order(&mut browser, &["[data-what=sent]", "[data-what=head]", "[data-what=last]"]).await;
    for task in ["welcome-mail", "audit-log"] {
        let of = |what: &str| format!("[data-what={what}][data-task={task}]");
        in_order(&mut browser, &[&of("added"), "[data-what=over][data-end=Complete]", &of("started"), &of("ended")]).await;
    }
    assert!(text(&mut browser, "#verdict").await.contains("The work took"));
    assert!(text(&mut browser, "#code").await.starts_with("async fn quick(tasks: Tour)"));

    click(&mut browser, "stream").await;
    assert_eq!(lanes(&mut browser).await, json!([["Client", "answered"], ["Response", "over"], ["count-usage", "succeeded"]]));
    in_order(&mut browser, &["[data-what=sent]", "[data-what=head]", "[data-what=last]"]).await;
    in_order(&mut browser, &["[data-what=added]", "[data-what=over]", "[data-what=started]"]).await;

    click(&mut browser, "slow").await;
    assert_eq!(lanes(&mut browser).await, json!([["Client", "answered"], ["Response", "over"], ["count-download", "succeeded"]]));
    let socket = |what: &str| format!("[data-where=socket][data-what={what}]");
    in_order(&mut browser, &[&socket("sent"), &socket("head"), "[data-what=over]", "[data-what=ended]"]).await;
    in_order(&mut browser, &["[data-what=over]", &socket("last")]).await;
    assert!(
        !text(&mut browser, "#verdict").await.contains('-'),
        "a task that was done before the last byte took no time after it"
    );
    browser.close().await;
}

#[tokio::test]
async fn what_goes_wrong_is_told_and_stays_where_it_is() {
    let Some((_server, mut browser)) = tour("tour-wrong").await else { return };
    click(&mut browser, "abort").await;
    let expected = json!([["Client", "left"], ["Response", "over"], ["receipt", "skipped"], ["clean-up", "succeeded"]]);
    assert_eq!(lanes(&mut browser).await, expected);
    in_order(&mut browser, &["[data-what=head]", "[data-what=left]"]).await;
    in_order(&mut browser, &["[data-what=over][data-end=Interrupted]", "[data-what=started][data-task=clean-up]"]).await;

    click(&mut browser, "fail").await;
    let tasks = [["webhook", "failed"], ["report", "timed_out"], ["audit-log", "succeeded"]];
    assert_eq!(lanes(&mut browser).await, json!([["Client", "answered"], ["Response", "over"], tasks[0], tasks[1], tasks[2]]));
    assert!(text(&mut browser, "#log [data-outcome=failed]").await.ends_with("webhook failed: no such host"));

    click(&mut browser, "panic").await;
    let expected = json!([["Client", "answered"], ["Response", "over"], ["thumbnail", "panicked"], ["audit-log", "succeeded"]]);
    assert_eq!(lanes(&mut browser).await, expected);
    assert!(text(&mut browser, "#log [data-outcome=panicked]").await.ends_with("thumbnail panicked: the image has no pixels"));

    let figures = figures(&mut browser).await;
    let ended = ["succeeded", "failed", "panicked", "timed_out", "skipped"].map(|name| figures[name].as_u64());
    assert_eq!(ended, [Some(5), Some(1), Some(1), Some(1), Some(1)], "{figures}");
    assert_eq!(figures["balanced"], true);
    browser.close().await;
}

#[tokio::test]
async fn limits_make_tasks_wait_and_then_the_door_closes() {
    let Some((_server, mut browser)) = tour("tour-limits").await else { return };
    click(&mut browser, "blocking").await;
    let tasks = [["hash-password", "succeeded"], ["zip-files", "succeeded"], ["audit-log", "succeeded"]];
    assert_eq!(lanes(&mut browser).await, json!([["Client", "answered"], ["Response", "over"], tasks[0], tasks[1], tasks[2]]));
    in_order(&mut browser, &["[data-what=started][data-task=hash-password]", "[data-what=started][data-task=zip-files]"]).await;

    // A machine that is slow enough could work tasks off while the burst still comes.
    for _ in 0..5 {
        let before = figures(&mut browser).await["succeeded"].as_u64().expect("a figure is a number");
        click(&mut browser, "burst").await;
        let after = figures(&mut browser).await["succeeded"].as_u64().expect("a figure is a number");
        let count = |state: &str| format!("document.querySelectorAll('.lane[data-state={state}]').length");
        let done = browser.ask(&count("succeeded")).await.as_u64().expect("a count is a number");
        let shed = browser.ask(&count("shed")).await.as_u64().expect("a count is a number");
        assert_eq!((done + shed, after - before), (12, done));
        assert!(done >= 8, "there was room for 8, and {done} were let in");
        if shed > 0 {
            assert!(text(&mut browser, "#verdict").await.starts_with(&format!("{done} of 12 answered, {shed} turned away")));
            return browser.close().await;
        }
    }
    panic!("no burst was turned away from a full supervisor");
}

#[tokio::test]
async fn a_shutdown_is_reported_and_the_tour_goes_on_after_it() {
    let Some((_server, mut browser)) = tour("tour-shutdown").await else { return };
    click(&mut browser, "shutdown").await;
    let tasks = [["short", "succeeded"], ["polite", "succeeded"], ["stubborn", "aborted"]];
    assert_eq!(lanes(&mut browser).await, json!([["Client", "answered"], ["Response", "over"], tasks[0], tasks[1], tasks[2]]));
    let report = text(&mut browser, "#report").await;
    assert_eq!(report, "Not all came to its end. 1 ended within the grace, 1 when told to, 1 dropped.");
    assert!(text(&mut browser, "#abandoned").await.starts_with("stubborn was dropped after"));
    assert_eq!(browser.ask("document.activeElement.id").await, "restart", "the button is gone, and the focus with it");

    click(&mut browser, "quick").await;
    let expected = json!([["Client", "answered"], ["Response", "over"], ["welcome-mail", "refused"], ["audit-log", "refused"]]);
    assert_eq!(lanes(&mut browser).await, expected);

    browser.click("#restart").await;
    browser.until("document.body.dataset.supervisor === 'open' && document.querySelector('#sum').dataset.added === '0'").await;
    click(&mut browser, "quick").await;
    let figures = figures(&mut browser).await;
    assert_eq!((&figures["succeeded"], &figures["balanced"]), (&json!(2), &json!(true)), "{figures}");
    browser.close().await;
}
