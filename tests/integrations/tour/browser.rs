//! A headless Chromium, driven through its `DevTools` protocol. It acts as a user does, and reads
//! the page.

use std::{env, fs, path::PathBuf, process::Stdio};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStderr, Command},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

use crate::common::soon;

const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// A root's container has no sandbox to offer, and a test has nothing to look up on the network.
const FLAGS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
    "about:blank",
];

/// One page. The browser ends with [`close`](Self::close), or is killed when this is dropped.
pub(crate) struct Browser {
    process: Child,
    /// What Chromium has to say; it would stop if nobody took it.
    _said: Lines<BufReader<ChildStderr>>,
    profile: PathBuf,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: Option<String>,
    calls: u64,
}

impl Browser {
    /// Starts a browser with an empty profile, if there is one on this machine.
    pub(crate) async fn start(profile: &str) -> Option<Self> {
        let path = env::var_os("PATH")?;
        let program = env::split_paths(&path)
            .flat_map(|folder| NAMES.map(|name| folder.join(name)))
            .find(|file| file.is_file())?;
        let profile = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("{profile}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&profile);
        let mut process = Command::new(program)
            .arg(format!("--user-data-dir={}", profile.display()))
            .args(FLAGS)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the browser can be run");
        let mut said = BufReader::new(process.stderr.take().expect("it is piped")).lines();
        let address = soon(devtools(&mut said)).await;
        let config = WebSocketConfig::default()
            .max_message_size(None)
            .max_frame_size(None);
        let (socket, _) = connect_async_with_config(address, Some(config), false)
            .await
            .expect("the browser listens");
        let mut browser = Self {
            process,
            _said: said,
            profile,
            socket,
            session: None,
            calls: 0,
        };
        let target = browser
            .call("Target.createTarget", json!({ "url": "about:blank" }))
            .await;
        let attached = browser
            .call(
                "Target.attachToTarget",
                json!({ "targetId": target["targetId"], "flatten": true }),
            )
            .await;
        browser.session = Some(
            attached["sessionId"]
                .as_str()
                .expect("a session has a name")
                .to_owned(),
        );
        browser.call("Runtime.enable", json!({})).await;
        browser.call("Page.enable", json!({})).await;
        Some(browser)
    }

    /// Calls a method of the protocol. Fails if there was an error on the page.
    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let mut call = json!({ "id": self.calls, "method": method, "params": params });
        if let Some(session) = &self.session {
            call["sessionId"] = json!(session);
        }
        self.socket
            .send(Message::text(call.to_string()))
            .await
            .expect("the browser listens");
        loop {
            let message = soon(self.socket.next())
                .await
                .expect("the browser is there")
                .expect("it speaks");
            let Message::Text(text) = message else {
                continue;
            };
            let answer: Value = serde_json::from_str(&text).expect("it speaks JSON");
            assert_ne!(answer["method"], "Runtime.exceptionThrown", "{answer:#}");
            if answer["id"] == json!(self.calls) {
                assert!(answer["error"].is_null(), "{method}: {answer:#}");
                return answer["result"].clone();
            }
        }
    }

    /// What an expression comes to on the page; a promise is awaited.
    pub(crate) async fn ask(&mut self, expression: &str) -> Value {
        let params =
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", params).await;
        assert!(
            answer["exceptionDetails"].is_null(),
            "{expression}: {answer:#}"
        );
        answer["result"]["value"].clone()
    }

    /// Waits until an expression holds, which is looked at whenever the page changes.
    pub(crate) async fn until(&mut self, expression: &str) {
        self.ask(&format!(
            "new Promise(resolve => {{
                const look = () => {{ if ({expression}) {{ changes.disconnect(); resolve(true); }} }};
                const changes = new MutationObserver(look);
                changes.observe(document, {{ subtree: true, childList: true, attributes: true, characterData: true }});
                look();
            }})"
        ))
        .await;
    }

    pub(crate) async fn open(&mut self, address: &str) {
        self.call("Page.navigate", json!({ "url": address })).await;
        self.ask("document.readyState === 'complete' || new Promise(resolve => addEventListener('load', () => resolve(true)))")
            .await;
    }

    /// Clicks in the middle of an element, as a mouse does: what covers it gets the click.
    pub(crate) async fn click(&mut self, selector: &str) {
        let place = self
            .ask(&format!(
                "(() => {{
                    const element = document.querySelector({selector:?});
                    element.scrollIntoView({{ block: 'center', behavior: 'instant' }});
                    const box = element.getBoundingClientRect();
                    return {{ x: box.x + box.width / 2, y: box.y + box.height / 2 }};
                }})()"
            ))
            .await;
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({ "type": kind, "x": place["x"], "y": place["y"], "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", event).await;
        }
    }

    /// Presses a key, and lets it go.
    pub(crate) async fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            _ => panic!("no such key"),
        };
        let event = |kind: &str| json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
        let mut down = event("keyDown");
        if !text.is_empty() {
            down["text"] = json!(text);
        }
        self.call("Input.dispatchKeyEvent", down).await;
        self.call("Input.dispatchKeyEvent", event("keyUp")).await;
    }

    /// What the user prefers, as `prefers-color-scheme: dark`.
    pub(crate) async fn prefer(&mut self, preferences: &[(&str, &str)]) {
        let features: Vec<_> = preferences
            .iter()
            .map(|(name, value)| json!({ "name": name, "value": value }))
            .collect();
        self.call(
            "Emulation.setEmulatedMedia",
            json!({ "features": features }),
        )
        .await;
    }

    pub(crate) async fn resize(&mut self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// Ends the browser, and removes what it has left.
    pub(crate) async fn close(mut self) {
        self.session = None;
        self.call("Browser.close", json!({})).await;
        soon(self.process.wait())
            .await
            .expect("it can be waited for");
        // A process of the browser may still write into the folder, which is one for temporary
        // files.
        let _ = fs::remove_dir_all(&self.profile);
    }
}

/// The address that the browser tells among other things.
async fn devtools<R: AsyncRead + Unpin>(said: &mut Lines<BufReader<R>>) -> String {
    while let Some(line) = said.next_line().await.expect("it prints text") {
        if let Some((_, address)) = line.split_once("DevTools listening on ") {
            return address.to_owned();
        }
    }
    panic!("the browser ended before it listened");
}
