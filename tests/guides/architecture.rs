//! The rules for the folders of `src/`: a file imports only from folders to the left of its own,
//! and files of one folder import each other without circles.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The folders from left to right. A folder may import from any folder in an earlier row.
const ORDER: [&[&str]; 9] = [
    &["util", "error"],
    &["response"],
    &["task"],
    &["supervisor"],
    &["registry"],
    &["middleware"],
    &["sent"],
    &["integrations"],
    &["lib", "guide"],
];

/// A source file: its folder, or its own name if it lies in `src/`, the name of the file, and its
/// code.
struct File {
    folder: String,
    name: String,
    code: String,
}

/// Reads all source files, without comments.
fn files() -> Vec<File> {
    let mut files = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the folder can be read") {
            let path = entry.expect("the entry can be read").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).expect("a source file is text");
            let code = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect::<Vec<_>>()
                .join("\n");
            let name = path
                .file_stem()
                .expect("a file has a name")
                .to_string_lossy()
                .into_owned();
            let folder_name = folder
                .file_name()
                .expect("a folder has a name")
                .to_string_lossy()
                .into_owned();
            let folder = if folder_name == "src" {
                name.clone()
            } else {
                folder_name
            };
            files.push(File { folder, name, code });
        }
    }
    assert!(files.len() > 20, "the sources should be found");
    files
}

/// Returns the names after this prefix, such as `b` and `c` in `use a::{b::X, c}` after `a::`.
fn names_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (start, _) in code.match_indices(prefix) {
        let rest = &code[start + prefix.len()..];
        let name = |text: &str| {
            text.trim_start()
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
                .map(str::to_owned)
        };
        let Some(list) = rest.strip_prefix('{') else {
            names.extend(name(rest));
            continue;
        };
        // The items of the list that lie in no inner braces.
        let (mut depth, mut item) = (0, 0);
        for (at, byte) in list.bytes().enumerate() {
            if depth == 0 && matches!(byte, b',' | b'}') {
                names.extend(name(&list[item..at]));
                item = at + 1;
            }
            match byte {
                b'{' => depth += 1,
                b'}' if depth == 0 => break,
                b'}' => depth -= 1,
                _ => {}
            }
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn row(folder: &str) -> Option<usize> {
    ORDER.iter().position(|row| row.contains(&folder))
}

#[test]
fn imports_go_to_the_left() {
    let mut wrong = Vec::new();
    for File { folder, name, code } in files() {
        let own = row(&folder)
            .unwrap_or_else(|| panic!("{folder}/{name} has no place in the order of the folders"));
        let code = code
            .split("\n#[cfg(test)]\nmod tests")
            .next()
            .unwrap_or_default();
        for imported in names_after(code, "crate::") {
            // A name that is no folder is an item of the root, which stands right of all.
            let is_left = row(&imported).is_some_and(|imported| imported < own);
            if !is_left && imported != folder && folder != "lib" {
                wrong.push(format!("{folder}/{name}: {imported}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "these files import from folders that do not stand left of theirs: {wrong:#?}"
    );
}

#[test]
fn files_of_a_folder_have_no_circles() {
    let files = files();
    let mut imports = BTreeMap::<_, BTreeSet<_>>::new();
    for File { folder, name, code } in files.iter().filter(|file| file.name != "mod") {
        let mut imported = names_after(code, "super::");
        imported.append(&mut names_after(code, &format!("crate::{folder}::")));
        imported.retain(|imported| {
            files
                .iter()
                .any(|file| file.folder == *folder && file.name == *imported && file.name != *name)
        });
        imports.insert((folder.clone(), name.clone()), imported);
    }
    let mut circles = Vec::new();
    for (folder, start) in imports.keys() {
        let mut reached = BTreeSet::new();
        let mut next = vec![start];
        while let Some(name) = next.pop() {
            for imported in &imports[&(folder.clone(), name.clone())] {
                if imported == start {
                    circles.push(format!("{folder}/{start}, imported by {name}"));
                }
                if reached.insert(imported) {
                    next.push(imported);
                }
            }
        }
    }
    assert!(
        circles.is_empty(),
        "these files are in circles of imports: {circles:#?}"
    );
}

#[test]
fn a_mod_file_has_no_logic() {
    for File { folder, code, .. } in files().iter().filter(|file| file.name == "mod") {
        for statement in code.split_inclusive(';').map(str::trim) {
            let item = statement
                .lines()
                .find(|line| !line.trim_start().starts_with("#["))
                .unwrap_or_default();
            let item = item
                .trim_start_matches("pub(crate) ")
                .trim_start_matches("pub(super) ")
                .trim_start_matches("pub ");
            let is_allowed =
                item.is_empty() || item.starts_with("mod ") || item.starts_with("use ");
            assert!(is_allowed, "{folder}/mod.rs has `{statement}`");
        }
    }
}

#[test]
fn little_is_public_in_the_crate_and_little_lies_in_the_root() {
    let files = files();
    let public: usize = files
        .iter()
        .map(|file| file.code.matches("pub(crate)").count())
        .sum();
    assert!(
        public < 215,
        "`pub(crate)` is used {public} times: make items private, or `pub(super)`"
    );
    let root = files.iter().filter(|file| file.folder == file.name).count();
    assert!(root <= 8, "{root} files lie in `src/` itself");
}

#[test]
fn names_are_found_in_lists() {
    let code =
        "use crate::{a::{X, y::Z}, b,\n    c::D};\nfn f() { crate::e::f(); crate::g::<u8>() }";
    let names: Vec<_> = names_after(code, "crate::").into_iter().collect();
    assert_eq!(names, ["a", "b", "c", "e", "g"]);
}
