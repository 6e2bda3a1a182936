//! The invariants of ARCHITECTURE.md that no compiler holds, as rules over the text of `src/`.
//!
//! A rule that a change breaks is to be kept or to be changed here, with its reason; the lists are the rules.

use std::{collections::BTreeSet, fs, path::Path};

/// The way of the data: a file imports stations to its right only. The one way back is a task's own, by `context.rs`.
const STATIONS: &[&str] = &["layer", "service", "future", "body", "lease", "release", "runner", "job", "supervisor", "task"];

/// Plain data, which knows of no station.
const DATA: &[&str] = &["end", "error", "exchange", "name", "order", "outcome", "progress", "stats", "when", "moment"];

/// Adaptors, which nothing imports.
const RIM: &[&str] = &["axum", "sent_axum", "sent_tonic", "tonic", "tower"];

/// What is done in these files only, and why.
const PLACES: &[(&str, &[&str], &str)] = &[
    (
        "End::",
        &["end", "exchange", "lease", "models", "models_sent", "progress", "sent_connection", "sent_tail", "when"],
        "one place judges an end; the lease, the timer and a connection that dies know theirs, and models expect one",
    ),
    ("ResponseEnd::new(", &["tasks"], "an end is told by its registry"),
    ("note_end(", &["exchange", "release"], "an end is noted where it releases"),
    ("Lease::open(", &["service"], "a lease is opened with its request"),
    ("Batch::new(", &["release"], "one place releases"),
    ("tokio::spawn(", &["runner"], "one place starts tasks"),
    ("runtime.spawn(", &["release", "runner"], "a batch is one tokio task; the other is the timer of `release_after`"),
    ("spawn_blocking(", &["job"], "one place starts blocking tasks"),
    ("Handle::current(", &[], "it panics without a runtime, and a body may be dropped there"),
    ("catch_unwind(", &["panics"], "one place turns panics into values"),
    ("thread_local!", &["current", "parked", "sent_connection", "spare"], "there is no other global state"),
    ("background_loom", &["lib", "sync"], "the code is the same with and without loom"),
    ("loom::", &["models", "models_books", "models_sent", "sync"], "as above"),
    (
        "feature = ",
        &["error", "guide", "lib", "log", "meter", "tail"],
        "a feature is a module, or a shim of the log and the meter, or a guide whose code needs it; call sites carry no `cfg`",
    ),
];

/// The most lines of code that a file may have; its documentation is not counted.
const LINES: usize = 300;

/// The widest that a line may be, in characters, unless it is a row of a table. `cargo fmt` does not look at comments.
const WIDTH: usize = 130;

struct Source {
    name: String,
    text: String,
}

impl Source {
    fn code(&self) -> impl Iterator<Item = &str> {
        self.text.lines().filter(|line| !line.trim_start().starts_with("//"))
    }

    /// Whether the code has this, and not as the end of a longer name.
    fn has(&self, needle: &str) -> bool {
        self.code().any(|line| {
            line.match_indices(needle)
                .any(|(at, _)| !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_'))
        })
    }

    /// The modules of this crate that the code names.
    fn imports(&self) -> BTreeSet<String> {
        let code: String = self.code().collect();
        code.split("crate::").skip(1).flat_map(first_names).collect()
    }
}

/// The first name of a path, or of each path of a group: `a::b` gives `a`, `{a::b, c::{d, e}}` gives `a` and `c`.
fn first_names(path: &str) -> Vec<String> {
    let Some(group) = path.strip_prefix('{') else { return vec![first_name(path)] };
    let mut names = Vec::new();
    let mut depth = 0;
    let mut start = 0;
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(first_name(&group[start..at]));
                start = at + 1;
                if character == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn first_name(path: &str) -> String {
    path.trim_start().chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}

fn sources() -> Vec<Source> {
    let mut sources: Vec<_> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
        .expect("the sources are there")
        .map(|entry| {
            let path = entry.expect("the folder can be read").path();
            let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
            Source { name, text: fs::read_to_string(&path).expect("a source is text") }
        })
        .collect();
    sources.sort_by(|one, other| one.name.cmp(&other.name));
    sources
}

fn source(name: &str) -> Source {
    sources().into_iter().find(|source| source.name == name).unwrap_or_else(|| panic!("there is no src/{name}.rs"))
}

#[test]
fn data_goes_one_way() {
    for (at, station) in STATIONS.iter().enumerate() {
        let imports = source(station).imports();
        for left in &STATIONS[..at] {
            assert!(!imports.contains(*left), "src/{station}.rs imports `{left}`, which stands to its left");
        }
    }
}

#[test]
fn data_knows_no_station() {
    for data in DATA {
        let imports = source(data).imports();
        let station = STATIONS.iter().find(|station| imports.contains(**station));
        assert_eq!(station, None, "src/{data}.rs is plain data and imports a station");
    }
}

#[test]
fn adaptors_stand_at_the_rim() {
    for source in sources() {
        for rim in RIM {
            assert!(!source.imports().contains(*rim), "src/{}.rs imports the adaptor `{rim}`", source.name);
        }
    }
}

#[test]
fn things_are_done_in_their_places() {
    for (needle, places, why) in PLACES {
        let found: Vec<_> = sources().into_iter().filter(|source| source.has(needle)).map(|source| source.name).collect();
        assert_eq!(found, *places, "`{needle}`: {why}");
    }
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    for source in sources() {
        assert!(source.text.starts_with("//! "), "src/{}.rs does not open with what it is for", source.name);
        let lines = source.code().count();
        assert!(lines <= LINES, "src/{}.rs has {lines} lines of code", source.name);
        let wide = source.text.lines().find(|line| line.chars().count() > WIDTH && !line.ends_with(" |"));
        assert_eq!(wide, None, "src/{}.rs has a line that is too wide", source.name);
    }
}

/// What loom is to see comes from `sync.rs`; the rest of the standard library's, as `Arc`, is one step to it.
#[test]
fn what_threads_share_is_modelled() {
    for source in sources() {
        if ["sync", "models", "models_books", "models_sent"].contains(&source.name.as_str()) {
            continue;
        }
        let code: String = source.code().collect();
        for path in ["std::sync::", "std::{", "tokio::sync::", "tokio::{"] {
            for import in code.split(path).skip(1).filter_map(|rest| rest.split(';').next()) {
                let names: BTreeSet<_> = import.split(|character: char| !character.is_alphanumeric()).collect();
                let found = ["Mutex", "RwLock", "Condvar", "Notify", "atomic"].into_iter().find(|name| names.contains(name));
                assert_eq!(found, None, "src/{}.rs imports this past `sync.rs`", source.name);
            }
        }
    }
}

#[test]
fn unsafe_code_is_forbidden() {
    let manifest = include_str!("../Cargo.toml");
    assert!(manifest.lines().any(|line| line == "unsafe_code = \"forbid\""));
}

#[test]
fn features_are_told() {
    let manifest = include_str!("../Cargo.toml");
    let (_, features) = manifest.split_once("\n[features]\n").expect("there are features");
    let features: BTreeSet<_> = features
        .lines()
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once(" = "))
        .map(|(feature, _)| feature)
        .filter(|feature| !feature.starts_with('#') && *feature != "default")
        .collect();
    let told = |text: &'static str| -> BTreeSet<_> {
        text.lines()
            .map(|line| line.trim_start_matches("//! "))
            .skip_while(|line| !line.starts_with("| feature |"))
            .skip(2)
            .map_while(|row| row.strip_prefix("| `"))
            .filter_map(|row| row.split_once('`'))
            .map(|(feature, _)| feature)
            .collect()
    };
    assert_eq!(told(include_str!("../src/lib.rs")), features, "the table of the crate's documentation");
    assert_eq!(told(include_str!("../README.md")), features, "the table of the README");
}

/// Clippy knows in which release a function became stable, and not in which one a form of the language did.
#[test]
fn no_syntax_is_newer_than_the_oldest_rust() {
    for source in sources() {
        let code: String = source.code().flat_map(|line| [line.trim(), " "]).collect();
        let chain = |head: &&str| head.contains(" && ");
        for condition in ["if let ", "while let "] {
            let found = code.split(condition).skip(1).filter_map(|rest| rest.split(" {").next()).find(chain);
            assert_eq!(found, None, "src/{}.rs has a chain of `{condition}`, of Rust 1.88", source.name);
        }
        assert!(!code.contains(" && let "), "src/{}.rs has a chain of `let`, of Rust 1.88", source.name);
    }
}

/// What stands in backticks in this column of the table with this header.
fn rows<'a>(page: &'a str, header: &str, column: usize) -> Vec<&'a str> {
    page.split(header)
        .skip(1)
        .flat_map(|table| table.lines().skip(2).take_while(|line| line.starts_with('|')))
        .filter_map(|row| row.split('|').nth(column)?.trim().strip_prefix('`')?.split('`').next())
        .collect()
}

#[test]
fn the_code_map_is_whole() {
    let page = include_str!("../ARCHITECTURE.md");
    let mut named = rows(page, "| file | what it is |", 1);
    named.sort_unstable();
    let files: Vec<_> = sources().into_iter().map(|source| format!("{}.rs", source.name)).collect();
    assert_eq!(named, files, "the code map of ARCHITECTURE.md");

    let named: BTreeSet<_> = rows(page, "| what | test |", 2).into_iter().collect();
    let (mut tests, mut is_test) = (BTreeSet::new(), false);
    for line in include_str!("tidy.rs").lines() {
        if is_test {
            tests.extend(line.strip_prefix("fn ").and_then(|line| line.split('(').next()));
        }
        is_test = line == "#[test]";
    }
    assert_eq!(named, tests, "the invariants of ARCHITECTURE.md");
}
