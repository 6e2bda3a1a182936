//! The matrix as tables in Markdown.

use crate::{
    case::{Case, run},
    servers::{SERVERS, Server},
};

/// Formats rows of cells. The first row is the header.
fn markdown(rows: &[Vec<String>]) -> String {
    let line = |row: &Vec<String>| format!("| {} |\n", row.join(" | "));
    let header = line(&rows[0]);
    let rule = "|---".repeat(rows[0].len());
    let body: String = rows[1..].iter().map(line).collect();
    format!("{header}{rule}|\n{body}")
}

/// Runs the whole matrix, and returns it as a table.
///
/// # Panics
///
/// If something is not in order.
pub async fn table() -> String {
    let cases = Case::ALL.map(|case| case.name().to_owned());
    let mut rows = vec![[vec!["server".to_owned()], cases.to_vec()].concat()];
    for server in SERVERS {
        let mut row = vec![server.name.to_owned()];
        for case in Case::ALL {
            row.push(run(server, case).await);
        }
        rows.push(row);
    }
    markdown(&rows)
}

/// Returns the groups of servers with their protocols, as the main README names them.
#[must_use]
pub fn groups() -> Vec<String> {
    SERVERS
        .chunk_by(|a, b| a.group == b.group)
        .map(|group| format!("{} ({})", group[0].group, protocols(group, |_| true)))
        .collect()
}

/// Returns which cases run on which groups of servers, as a table.
#[must_use]
pub fn short_table() -> String {
    let header = [
        "server",
        "protocols",
        "success, stream, failure, abort",
        "shutdown: stream",
        "upload",
        "WebSocket",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for group in SERVERS.chunk_by(|a, b| a.group == b.group) {
        let all = protocols(group, |_| true);
        let mut row = vec![group[0].group.to_owned(), all.clone()];
        row.extend(COLUMNS.map(|cases| {
            let can = |server: &Server| cases.iter().all(|case| case.is_possible(server));
            match protocols(group, can) {
                none if none.is_empty() => "-".to_owned(),
                some if some == all => "yes".to_owned(),
                some => some,
            }
        }));
        rows.push(row);
    }
    markdown(&rows)
}

/// The cases of each column of the short table.
const COLUMNS: [&[Case]; 4] = [
    &[Case::Success, Case::Stream, Case::Fails, Case::Leaves],
    &[Case::StreamAtShutdown],
    &[Case::UploadAtShutdown],
    &[Case::SocketAtShutdown],
];

/// The names of the protocols of these servers, each once.
fn protocols(servers: &[Server], can: impl Fn(&Server) -> bool) -> String {
    let servers = servers.iter().filter(|server| can(server));
    let mut names: Vec<_> = servers.map(|server| server.protocol.name()).collect();
    names.dedup();
    names.join(", ")
}
