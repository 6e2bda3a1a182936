//! What the README shows as an example's output is what the example prints. Its code is compiled with the documentation.

mod support;

/// The block of the README that follows the line with `command`, without the fence.
fn block(command: &str) -> String {
    let readme = include_str!("../README.md");
    let (_, rest) = readme.split_once(&format!("```console\n$ {command}\n")).expect("the README shows the command");
    rest.split("```").next().expect("the block has an end").to_owned()
}

#[tokio::test]
async fn spawn_or_layer() {
    let shown = block("cargo run --example spawn_or_layer --features axum");
    let printed = support::output("spawn_or_layer", "axum").await;
    assert_eq!(printed, shown);
}
