//! The code in the guide is the code of this package.

use std::{fs, path::Path};

#[test]
fn each_block_of_the_guide_is_in_a_file_of_this_package() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = fs::read_to_string(package.join("../../jobs/docs/other-queues.md"));
    let guide = guide.expect("the guide is there");
    let mut files = Vec::new();
    for entry in fs::read_dir(package.join("src")).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        if path.is_file() {
            files.push(fs::read_to_string(path).expect("it is text"));
        }
    }
    let blocks = guide.split("```rust\n").skip(1);
    let blocks: Vec<&str> = blocks
        .map(|rest| rest.split("```").next().expect("it ends"))
        .collect();
    assert!(blocks.len() >= 8, "{}", blocks.len());
    for block in blocks {
        let is_here = files.iter().any(|file| file.contains(block));
        assert!(is_here, "in no file:\n{block}");
    }
}
