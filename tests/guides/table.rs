//! Reads the tables of Markdown files.

/// The cells of one row, without the spaces around them.
pub(crate) type Row = Vec<String>;

/// Returns the rows of the table whose header begins with this cell.
pub(crate) fn table(markdown: &str, first_header: &str) -> Vec<Row> {
    let header = format!("| {first_header} |");
    let rows: Vec<Row> = markdown
        .lines()
        .skip_while(|line| !line.starts_with(&header))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            line.trim_matches('|')
                .split('|')
                .map(|cell| cell.trim().to_owned())
                .collect()
        })
        .collect();
    assert!(!rows.is_empty(), "there is no table {first_header:?}");
    rows
}
