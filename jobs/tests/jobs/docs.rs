//! The code of the Markdown pages is code of the examples, which are built and run.

use std::{fs, path::Path};

fn folder(name: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let files = fs::read_dir(folder)
        .expect("it exists")
        .map(|file| file.expect("a file").path());
    let files = files.filter(|path| path.is_file());
    files
        .map(|path| {
            (
                path.display().to_string(),
                fs::read_to_string(path).expect("text"),
            )
        })
        .collect()
}

/// Without white space and last commas, as rustfmt breaks lines by their indentation.
fn dense(text: &str) -> String {
    let dense: String = text.split_whitespace().collect();
    dense.replace(",)", ")").replace(",}", "}")
}

#[test]
fn code_blocks_are_parts_of_examples() {
    let examples = folder("examples");
    let mut pages = folder("docs");
    // The code of this page is in another package, whose tests check it.
    pages.retain(|(path, _)| !path.ends_with("other-queues.md"));
    pages.extend(
        folder(".")
            .into_iter()
            .filter(|(path, _)| path.ends_with("README.md")),
    );
    let mut blocks = 0;
    for (path, page) in &pages {
        for block in page.split("```rust\n").skip(1) {
            let block = block.split("```").next().expect("it ends");
            let wanted = dense(block);
            let found = examples
                .iter()
                .any(|(_, example)| dense(example).contains(&wanted));
            assert!(found, "{path}: not in any example:\n{block}");
            blocks += 1;
        }
    }
    assert!(blocks >= 5, "{blocks} blocks in {} pages", pages.len());
}
