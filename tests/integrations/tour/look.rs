//! Everybody can use the page of the tour: in light and dark, on a phone, without a mouse, without
//! motion.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::{browser::Browser, click, demos, done, figures, palette::with_palette, tour};

/// Returns the contrast of each colour of words and marks with the background of the card. WCAG
/// asks for 4.5 for text.
const CONTRAST: &str = "(() => {
    const style = getComputedStyle(document.documentElement), pen = document.createElement('canvas').getContext('2d');
    const light = name => {
        pen.fillStyle = style.getPropertyValue(name);
        pen.fillRect(0, 0, 1, 1);
        const [red, green, blue] = [...pen.getImageData(0, 0, 1, 1).data].map(part => {
            const share = part / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05;
    };
    const card = light('--card');
    return ['ink', 'soft', 'client', 'server', 'run', 'good', 'bad', 'odd', 'late', 'calm'].map(name => {
        const word = light(`--${name}`);
        return [name, Math.max(card, word) / Math.min(card, word)];
    });
})()";

/// The scenes that differ in what they draw.
const DRAWN: [&str; 10] = [
    "abort", "fail", "blocking", "burst", "limit", "unique", "context", "slow", "socket",
    "fallback",
];

/// The folder for pictures, if pictures are asked for.
fn pictures() -> Option<PathBuf> {
    env::var_os("TOUR_SCREENSHOTS").map(PathBuf::from)
}

/// Leaves a picture, if pictures are asked for.
async fn picture(browser: &mut Browser, name: &str) {
    if let Some(folder) = pictures() {
        let picture = photograph(browser).await;
        fs::create_dir_all(&folder).expect("the folder can be made");
        fs::write(folder.join(name).with_extension("png"), picture).expect("it can be written");
    }
}

/// Returns a picture of the page, as PNG.
async fn photograph(browser: &mut Browser) -> Vec<u8> {
    figures(browser).await;
    browser.ask("scrollTo(0, 0)").await;
    let answer = browser
        .call(
            "Page.captureScreenshot",
            json!({ "format": "png", "captureBeyondViewport": true }),
        )
        .await;
    BASE64_STANDARD
        .decode(answer["data"].as_str().expect("a picture is text"))
        .expect("it is base64")
}

#[tokio::test]
async fn it_can_be_read_in_light_and_dark_and_on_a_phone() {
    let Some((_server, mut browser)) = tour("tour-look").await else {
        return;
    };
    // Each scene has a picture. Without pictures a part of the scenes is enough.
    let shown = match pictures() {
        Some(_) => demos(&mut browser).await,
        None => DRAWN.map(str::to_owned).to_vec(),
    };
    let mut backgrounds = Vec::new();
    for scheme in ["light", "dark"] {
        browser
            .prefer(&[
                ("prefers-color-scheme", scheme),
                ("prefers-reduced-motion", "no-preference"),
            ])
            .await;
        backgrounds.push(
            browser
                .ask("getComputedStyle(document.body).backgroundColor")
                .await,
        );
        let colours = browser.ask(CONTRAST).await;
        let dim = colours
            .as_array()
            .expect("a list")
            .iter()
            .find(|colour| colour[1].as_f64().is_none_or(|is| is < 4.5));
        assert_eq!(dim, None, "in {scheme}");
        // The last scene has shut the supervisor down.
        browser
            .ask("fetch('/restart', { method: 'POST' }).then(() => true)")
            .await;
        for demo in shown.iter().map(String::as_str) {
            browser.resize(1280, 1080).await;
            click(&mut browser, demo).await;
            picture(&mut browser, &format!("{demo}-{scheme}")).await;
            browser.resize(360, 740).await;
            let (wide, view) = (
                browser.ask("document.documentElement.scrollWidth").await,
                browser.ask("innerWidth").await,
            );
            assert_eq!(
                (wide, view),
                (json!(360), json!(360)),
                "{demo} is wider than a phone"
            );
            let cut_off = "[...document.querySelectorAll('nav button')].filter(button => {
                const box = button.getBoundingClientRect();
                return box.left < 0 || box.right > innerWidth || button.scrollWidth > button.clientWidth;
            }).length";
            assert_eq!(browser.ask(cut_off).await, 0, "no button is cut off");
            click(&mut browser, demo).await;
            let lane =
                "document.querySelector('.lane').getBoundingClientRect().bottom <= innerHeight";
            assert_eq!(
                browser.ask(lane).await,
                true,
                "{demo}: who has tapped a button on a phone sees what comes of it"
            );
            picture(&mut browser, &format!("{demo}-{scheme}-phone")).await;
        }
    }
    assert_ne!(backgrounds[0], backgrounds[1]);
    let foreign = "performance.getEntriesByType('resource').filter(entry => !entry.name.startsWith(location.origin)).length";
    assert_eq!(
        browser.ask(foreign).await,
        0,
        "it loads nothing from elsewhere"
    );
    browser.close().await;
}

#[tokio::test]
async fn it_needs_no_mouse_and_no_motion() {
    let Some((_server, mut browser)) = tour("tour-keys").await else {
        return;
    };
    browser
        .prefer(&[("prefers-reduced-motion", "reduce")])
        .await;
    let all = demos(&mut browser).await;
    assert_eq!(all.len(), 15);
    for demo in &all {
        browser.press("Tab").await;
        let focused = browser.ask("document.activeElement.dataset.demo").await;
        assert_eq!(focused, demo.as_str());
        assert_ne!(
            browser
                .ask("getComputedStyle(document.activeElement).outlineStyle")
                .await,
            "none",
            "it shows where it is"
        );
        if focused == "panic" {
            browser.press("Enter").await;
            done(&mut browser, "panic").await;
            assert_eq!(browser.ask("document.getAnimations().length").await, 0);
        }
    }
    for region in ["code", "log"] {
        browser.press("Tab").await;
        assert_eq!(
            browser.ask("document.activeElement.id").await,
            region,
            "what scrolls can be scrolled by keys"
        );
    }

    let tree = browser.call("Accessibility.getFullAXTree", json!({})).await;
    let nodes = tree["nodes"].as_array().expect("a tree has nodes");
    let named = |role: &str| -> Vec<&Value> {
        nodes
            .iter()
            .filter(|node| node["role"]["value"] == role)
            .map(|node| &node["name"]["value"])
            .collect()
    };
    let buttons = named("button");
    assert_eq!(buttons.len(), all.len(), "{buttons:?}");
    assert!(
        buttons
            .iter()
            .all(|name| name.as_str().is_some_and(|name| !name.is_empty())),
        "{buttons:?}"
    );
    assert_eq!(named("log").len(), 1);
    assert_eq!(
        browser.ask("document.querySelector('#log').ariaLive").await,
        "polite"
    );

    // The keys alone shut the supervisor down and start a new one.
    browser
        .ask("document.querySelector('nav [data-demo=fallback]').focus()")
        .await;
    browser.press("Tab").await;
    browser.press("Enter").await;
    done(&mut browser, "shutdown").await;
    browser
        .ask("document.querySelector('#restart').focus()")
        .await;
    browser.press("Enter").await;
    browser
        .until("document.body.dataset.supervisor === 'open'")
        .await;
    assert_eq!(
        browser.ask("document.activeElement.dataset.demo").await,
        "shutdown",
        "the focus is back"
    );
    browser.close().await;
}

#[tokio::test]
#[ignore = "writes docs/tour.png"]
async fn picture_of_the_readme() {
    let Some((_server, mut browser)) = tour("tour-picture").await else {
        panic!("there is no chromium")
    };
    browser
        .prefer(&[
            ("prefers-color-scheme", "light"),
            ("prefers-reduced-motion", "reduce"),
        ])
        .await;
    browser.resize(1265, 1135).await;
    click(&mut browser, "fail").await;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tour.png");
    let picture = with_palette(&photograph(&mut browser).await);
    fs::write(file, picture).expect("the picture can be written");
    browser.close().await;
}
