//! Writes what the benches have measured on this machine into the documentation.
//!
//! Run the benches first, for example `cargo bench --bench cost`, and then `cargo run --example
//! plot`. It copies each table of `target/figures` between its markers in `README.md` and
//! `docs/performance.md`, and draws `docs/cost.svg`.

#![expect(clippy::cast_precision_loss, reason = "the numbers are small")]

use std::{error::Error, fmt::Write, fs, path::Path};

/// The classes of the style sheet, the ways in the file, and their names in the legend.
const WAYS: [(&str, &str, &str); 6] = [
    ("bare", "bare", "bare service"),
    ("spawn", "tokio::spawn", "tokio::spawn"),
    ("tracker", "TaskTracker::spawn", "TaskTracker"),
    ("plain", "hand-written, plain", "hand-written, plain"),
    (
        "same",
        "hand-written, same promises",
        "hand-written, same promises",
    ),
    ("layer", "layer", "BackgroundLayer"),
];
const PANELS: [(&str, &str); 4] = [
    ("ready", "Tasks that are ready, current-thread runtime"),
    (
        "waiting once",
        "Tasks that wait once, current-thread runtime",
    ),
    ("ready, 2 workers", "Tasks that are ready, 2 workers"),
    ("waiting once, 2 workers", "Tasks that wait once, 2 workers"),
];
const TASKS: [u32; 4] = [0, 1, 4, 16];

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 520.0;
const PANEL: (f64, f64) = (WIDTH / 2.0, 210.0);
/// Where the panels begin, below the title and the legend.
const TOP: f64 = 76.0;
/// The height of the highest bar. Its label stands above it.
const BARS: f64 = 120.0;

const STYLE: &str = "
    svg { color: #1f2328; background: #ffffff; font: 12px system-ui, sans-serif; }
    text { fill: currentColor; }
    line { stroke: currentColor; }
    .title { font-size: 16px; font-weight: 600; }
    .panel { font-weight: 600; }
    .small { font-size: 8px; }
    .bare { fill: #d0d7de; } .spawn { fill: #bf8700; } .tracker { fill: #d4a72c; }
    .plain { fill: #8c959f; } .same { fill: #57606a; } .layer { fill: #0969da; }
    @media (prefers-color-scheme: dark) {
        svg { color: #e6edf3; background: #0d1117; }
        .bare { fill: #30363d; } .spawn { fill: #9e6a03; } .tracker { fill: #d29922; }
        .plain { fill: #6e7681; } .same { fill: #b1bac4; } .layer { fill: #4493f8; }
    }
";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for page in ["README.md", "docs/performance.md"] {
        let page = root.join(page);
        let text = fs::read_to_string(&page)?;
        fs::write(&page, with_tables(&text, root)?)?;
    }
    let numbers = fs::read_to_string(root.join("target/figures/cost.tsv"))
        .map_err(|error| format!("run `cargo bench --bench cost` first: {error}"))?;
    fs::write(root.join("docs/cost.svg"), plot(&numbers)?)?;
    Ok(())
}

/// Replaces each table between `<!-- table NAME -->` and `<!-- end -->` that was measured.
fn with_tables(page: &str, root: &Path) -> Result<String> {
    let mut parts = page.split("<!-- table ");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once(" -->\n").ok_or("a marker has no end")?;
        let (old, rest) = rest
            .split_once("<!-- end -->")
            .ok_or("a table has no end")?;
        let file = root.join("target/figures").join(name).with_extension("md");
        let table = match fs::read_to_string(file) {
            Ok(table) => format!("\n{table}\n"),
            Err(_) => old.to_owned(),
        };
        write!(text, "<!-- table {name} -->\n{table}<!-- end -->{rest}")?;
    }
    Ok(text)
}

fn plot(numbers: &str) -> Result<String> {
    let (origin, rows) = numbers.split_once('\n').ok_or("the file is empty")?;
    let (date, machine) = origin.split_once('\t').ok_or("no machine")?;
    let rows: Vec<Vec<_>> = rows.lines().map(|row| row.split('\t').collect()).collect();
    // The bare service is measured without a task only, and tasks that wait are at least one.
    let time = |setting: &str, way: &str, tasks: u32| -> Option<f64> {
        let tasks = tasks.to_string();
        let row = rows.iter().find(|row| row[..3] == [setting, way, &*tasks]);
        row?[3].parse().ok()
    };

    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">
<title>The time of one request, for each of its tasks</title>
<style>{STYLE}</style>
"#
    );
    let title = "Microseconds of one request, divided by its number of tasks";
    text(&mut svg, "title", "start", (20.0, 28.0), title)?;
    let mut x = 20.0;
    for (class, _, name) in &WAYS {
        bar(&mut svg, class, (x, 54.0), 11.0, 11.0)?;
        text(&mut svg, "", "start", (x + 17.0, 54.0), name)?;
        x += 40.0 + 7.0 * name.len() as f64;
    }
    for (number, (setting, title)) in PANELS.into_iter().enumerate() {
        let (column, row) = ((number % 2) as f64, (number / 2) as f64);
        let (left, top) = (column * PANEL.0 + 20.0, TOP + row * PANEL.1);
        let bottom = top + PANEL.1 - 34.0;
        let width = PANEL.0 - 40.0;
        let mut groups = Vec::new();
        for tasks in TASKS {
            let bars = WAYS.iter().filter_map(|(class, way, _)| {
                Some((*class, time(setting, way, tasks)? / f64::from(tasks.max(1))))
            });
            groups.push((tasks, bars.collect::<Vec<_>>()));
        }
        let all = groups.iter().flat_map(|(_, bars)| bars);
        let highest = all.map(|(_, time)| *time).fold(1.0, f64::max);
        text(&mut svg, "panel", "start", (left, top + 16.0), title)?;
        writeln!(
            svg,
            r#"<line x1="{left}" y1="{bottom}" x2="{}" y2="{bottom}"/>"#,
            left + width
        )?;
        let bar_width = (width / 4.0 - 8.0) / 6.0;
        for (group, (tasks, bars)) in groups.into_iter().enumerate() {
            let start = left + group as f64 * width / 4.0;
            for (place, (class, time)) in bars.into_iter().enumerate() {
                let (x, height) = (start + place as f64 * bar_width, time / highest * BARS);
                bar(&mut svg, class, (x + 0.5, bottom), bar_width - 1.0, height)?;
                let label = (x + bar_width / 2.0, bottom - height - 4.0);
                text(
                    &mut svg,
                    "small",
                    "middle",
                    label,
                    &format!("{:.2}", time / 1e3),
                )?;
            }
            let name = match tasks {
                0 => "no task".to_owned(),
                1 => "1 task".to_owned(),
                _ => format!("{tasks} tasks"),
            };
            let middle = (start + bar_width * 3.0, bottom + 15.0);
            text(&mut svg, "small", "middle", middle, &name)?;
        }
    }
    let origin = format!("Lower is better. Measured on {date}, {machine}.");
    text(&mut svg, "small", "start", (20.0, HEIGHT - 12.0), &origin)?;
    svg.push_str("</svg>\n");
    Ok(svg)
}

/// Draws a rectangle that stands on a point.
fn bar(svg: &mut String, class: &str, (x, y): (f64, f64), width: f64, height: f64) -> Result<()> {
    let top = y - height;
    Ok(writeln!(
        svg,
        r#"<rect class="{class}" x="{x:.1}" y="{top:.1}" width="{width:.1}" height="{height:.1}"/>"#
    )?)
}

fn text(svg: &mut String, class: &str, anchor: &str, (x, y): (f64, f64), text: &str) -> Result<()> {
    Ok(writeln!(
        svg,
        r#"<text class="{class}" text-anchor="{anchor}" x="{x:.1}" y="{y:.1}">{text}</text>"#
    )?)
}
