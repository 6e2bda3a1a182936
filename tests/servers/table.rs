//! Reads the table of `tests/README.md`, and checks that the table and the tests name the same
//! cases.

use std::collections::{BTreeMap, BTreeSet};

use crate::common::{Seen, Server, soon};

const README: &str = include_str!("../README.md");
const SOURCES: &[&str] = &[
    include_str!("grpc.rs"),
    include_str!("http1.rs"),
    include_str!("http1_cut.rs"),
    include_str!("http2.rs"),
    include_str!("http2_cut.rs"),
    include_str!("http2_failures.rs"),
    include_str!("layers.rs"),
];

/// The cells that are not empty, by case and protocol.
fn cells() -> BTreeMap<(&'static str, &'static str), &'static str> {
    let mut rows = README
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim));
    let protocols: Vec<_> = rows.next().expect("the table has a head").skip(1).collect();
    rows.skip(1)
        .flat_map(|mut row| {
            let case = row.next().expect("a row has a first cell");
            protocols
                .iter()
                .zip(row)
                .map(move |(protocol, cell)| ((case, *protocol), cell))
                .collect::<Vec<_>>()
        })
        .filter(|(_, cell)| !cell.is_empty())
        .collect()
}

/// Checks that the response of this case ended once and as the table says, and that all tasks are
/// counted.
pub(crate) async fn check(server: &Server, protocol: &'static str, case: &'static str) -> Seen {
    ends(server, protocol, case, 1).await.remove(0)
}

/// Checks the same for a case with a request for each of these paths, in alphabetical order.
pub(crate) async fn check_each(
    server: &Server,
    protocol: &'static str,
    case: &'static str,
    paths: &[&str],
) {
    let ends = ends(server, protocol, case, paths.len()).await;
    let mut ended: Vec<_> = ends.iter().map(|seen| seen.end.path()).collect();
    // Tasks of different requests start in any order.
    ended.sort_unstable();
    assert_eq!(
        ended, paths,
        "{case:?} over {protocol}: one end for each request"
    );
}

async fn ends(
    server: &Server,
    protocol: &'static str,
    case: &'static str,
    requests: usize,
) -> Vec<Seen> {
    let cells = cells();
    let cell = cells
        .get(&(case, protocol))
        .copied()
        .unwrap_or_else(|| panic!("no cell for {case:?} over {protocol}"));
    let mut ends = Vec::new();
    for _ in 0..requests {
        let seen = server.witness.next().await;
        assert_eq!(seen.cell(), cell, "{case:?} over {protocol}: {seen:?}");
        ends.push(seen);
    }
    soon(server.supervisor.idle()).await;
    server.witness.nothing_else().await;
    let (stats, requests) = (server.supervisor.stats(), requests as u64);
    assert_eq!(
        (stats.added(), stats.succeeded),
        (requests, requests),
        "{case:?} over {protocol}: {stats:?}"
    );
    ends
}

/// Returns all sources, with each call on one line.
fn sources() -> String {
    let words: Vec<_> = SOURCES
        .iter()
        .flat_map(|source| source.split_whitespace())
        .collect();
    words.join(" ").replace("( ", "(")
}

#[test]
fn every_cell_has_a_test_and_every_test_a_cell() {
    let sources = sources();
    let calls = |call| sources.split(call).skip(1);
    let first = |text: &str| text.split('"').next().map(str::to_owned).expect("a string");
    let mut tested = BTreeSet::new();
    for call in ["check(&server, \"", "check_each(&server, \""] {
        for rest in calls(call) {
            let (protocol, rest) = rest
                .split_once("\", \"")
                .expect("a call names its protocol and its case");
            tested.insert((first(rest), first(protocol)));
        }
    }
    for rest in calls("check_both(\"") {
        tested.insert((first(rest), "HTTP/1.1".to_owned()));
        tested.insert((first(rest), "HTTP/2".to_owned()));
    }
    let table = cells().into_keys();
    let expected: BTreeSet<_> = table
        .map(|(case, protocol)| (case.to_owned(), protocol.to_owned()))
        .collect();
    assert_eq!(expected, tested);
}
