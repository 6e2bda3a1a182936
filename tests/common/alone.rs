//! Runs a test in a separate process. A deadlock, an abort or a stack overflow then fails this test
//! and no other test. The process allocates only what this test needs.

use std::{env, process::Stdio, time::Duration};

use tokio::{process::Command, runtime::Runtime};

/// Set in the process that runs the body of the test.
const CHILD: &str = "TOWER_BACKGROUND_ALONE";

/// Longer than a test waits for an event, so that the test can say which event did not come.
const PATIENCE: Duration = Duration::from_secs(100);

/// Runs the body of the test with this path in a separate process. Fails if the process fails or
/// does not end.
pub fn run_alone(path: &str, body: impl FnOnce()) {
    if env::var_os(CHILD).is_some() {
        return body();
    }
    let (_, test) = path
        .split_once("::")
        .expect("the path starts with the crate");
    let output = one_thread().block_on(async {
        let child = Command::new(env::current_exe().expect("a test knows its file"))
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, "1")
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let ended = tokio::time::timeout(PATIENCE, child).await;
        ended
            .expect("the process of the test should end")
            .expect("the process of the test can be run")
    });
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(
        output.status.success(),
        "the process of the test ended with {}\n{out}\n{err}",
        output.status
    );
    assert!(
        out.contains("1 passed"),
        "the process ran another test\n{out}"
    );
}

/// `alone!(test, body)`: runs the body of this test in a separate process.
macro_rules! alone {
    ($test:ident, $body:expr) => {
        crate::common::run_alone(concat!(module_path!(), "::", stringify!($test)), $body)
    };
}
pub(crate) use alone;

/// A runtime on the thread of the test.
pub fn one_thread() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be built")
}

/// A runtime with so many workers, none of which is the thread of the test.
pub fn workers(count: usize) -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(count)
        .enable_all()
        .build()
        .expect("a runtime can be built")
}
