//! Every cell of the table in the README of this folder, by a real server and a real client.
//!
//! `TOWER_BACKGROUND_ROUNDS` says how often each cell runs. It is 1 by default.

use std::env;

use tokio::task::JoinSet;
use tower_background_matrix::{Case, SERVERS, Server, groups, run, short_table};

const README: &str = include_str!("../README.md");
const MAIN_README: &str = include_str!("../../README.md");

/// The cells of each row of the table.
fn rows() -> Vec<Vec<&'static str>> {
    let header = "| server | success |";
    let lines = README.lines().skip_while(|line| !line.starts_with(header));
    let lines = lines.take_while(|line| line.starts_with('|'));
    let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim).collect();
    lines.map(cells).collect()
}

/// Runs the cells of one server, one after the other.
async fn check(server: &'static Server, row: &[&str], rounds: usize) {
    assert_eq!(row[0], server.name);
    for (case, expected) in Case::ALL.into_iter().zip(&row[1..]) {
        for round in 1..=rounds {
            let what = format!("{server:?}, {case:?}, round {round}");
            let cell = tokio::spawn(run(server, case)).await;
            let cell = cell.unwrap_or_else(|panic| panic!("{what}: {panic}"));
            assert_eq!(cell, *expected, "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_cell() {
    let rounds = env::var("TOWER_BACKGROUND_ROUNDS");
    let rounds = rounds.map_or(1, |rounds| rounds.parse().expect("a number of rounds"));
    let rows = rows();
    let cases = Case::ALL.map(Case::name);
    assert_eq!(rows[0][1..], cases, "the columns are the cases");
    assert_eq!(rows.len(), 2 + SERVERS.len(), "the rows are the servers");
    // All servers at once, so that they disturb each other.
    let mut running = JoinSet::new();
    for (server, row) in SERVERS.iter().zip(rows.into_iter().skip(2)) {
        running.spawn(async move { check(server, &row, rounds).await });
    }
    running.join_all().await;
}

#[test]
fn the_short_table_is_in_the_readme() {
    let table = short_table();
    assert!(
        README.contains(&table),
        "the README should have this table:\n{table}"
    );
}

#[test]
fn the_main_readme_names_the_servers() {
    let words: Vec<_> = MAIN_README.split_whitespace().collect();
    let text = words.join(" ");
    for group in groups() {
        assert!(text.contains(&group), "the README should name {group}");
    }
}
