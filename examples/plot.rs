//! Draws `docs/cost.svg` from what the benches have measured on this machine.
//!
//! Run `cargo bench --bench allocations --bench cost --bench load --bench scale`, which takes a
//! quarter of an hour, and then `cargo run --example plot`. Every bar shows a number from
//! `target/figures`, and its label is that number.

use std::{collections::HashMap, error::Error, fmt::Write, fs, path::Path};

const WIDTH: f64 = 860.0;
/// Where the panels begin, below the title and the legend.
const TOP: f64 = 74.0;
const PANEL: (f64, f64) = (WIDTH / 2.0, 220.0);
const MARGIN: f64 = 20.0;
/// The height of the highest bar; its label stands above it.
const BARS: f64 = 112.0;

/// The classes of the style sheet, and what they stand for.
const LEGEND: [(&str, &str); 4] = [
    ("spawn", "tokio::spawn in the handler"),
    ("hand", "a plain hand-written layer"),
    ("layer", "this crate"),
    ("queued", "this crate, queued tasks"),
];

const STYLE: &str = "
    svg { color: #1f2328; font: 12px system-ui, sans-serif; }
    text { fill: currentColor; }
    .title { font-size: 16px; font-weight: 600; }
    .panel { font-weight: 600; }
    .small { font-size: 10px; }
    .faint { opacity: 0.7; }
    line { stroke: currentColor; }
    .one { stroke-dasharray: 3 3; opacity: 0.4; }
    .spawn { fill: #bf8700; }
    .hand { fill: #8c959f; }
    .layer { fill: #0969da; }
    .queued { fill: #8250df; }
    @media (prefers-color-scheme: dark) {
        svg { color: #e6edf3; }
        .spawn { fill: #d29922; }
        .hand { fill: #7d8590; }
        .layer { fill: #4493f8; }
        .queued { fill: #a371f7; }
    }
";

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let allocations = Figures::read(root, "allocations")?;
    let cost = Figures::read(root, "cost")?;
    let load = Figures::read(root, "load")?;
    let scale = Figures::read(root, "scale")?;

    let panels = [
        against_plain("Allocations of a request", "allocations", &allocations),
        against_plain("Instructions of a request", "instructions", &cost),
        against_plain("Nanoseconds of a request", "nanoseconds", &cost),
        memory(&scale),
        servers(&load),
        threads(&scale),
    ];
    let rows = f64::from(u32::try_from(panels.len().div_ceil(2))?);
    let height = TOP + rows * PANEL.1 + 24.0;

    let mut svg = String::new();
    writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">"#
    )?;
    writeln!(
        svg,
        "<title>What a task costs</title>\n<style>{STYLE}</style>"
    )?;
    text(
        &mut svg,
        "title",
        (MARGIN, 28.0),
        "What a task costs, beyond the service alone",
    )?;
    let mut x = MARGIN;
    for (class, name) in LEGEND {
        writeln!(
            svg,
            r#"<rect class="{class}" x="{x}" y="43" width="11" height="11"/>"#
        )?;
        text(&mut svg, "", (x + 17.0, 53.0), name)?;
        x += 210.0;
    }
    let places = (0..).flat_map(|row| {
        [0, 1].map(|column| (f64::from(column) * PANEL.0, TOP + f64::from(row) * PANEL.1))
    });
    for (panel, place) in panels.iter().zip(places) {
        panel.draw(&mut svg, place)?;
    }
    text(
        &mut svg,
        "small faint",
        (MARGIN, height - 10.0),
        &format!("{}. Measured on {}.", cost.machine, cost.date),
    )?;
    svg.push_str("</svg>\n");

    let file = root.join("docs/cost.svg");
    fs::create_dir_all(root.join("docs"))?;
    fs::write(&file, svg)?;
    println!("{} is drawn", file.display());
    Ok(())
}

/// What one bench has measured: the quantity, the way, and the number of tasks or threads.
struct Figures {
    date: String,
    machine: String,
    by_name: HashMap<(String, String, usize), f64>,
}

impl Figures {
    fn read(root: &Path, bench: &str) -> Result<Self, Box<dyn Error>> {
        let file = root
            .join("target/figures")
            .join(bench)
            .with_extension("tsv");
        let text = fs::read_to_string(file)
            .map_err(|error| format!("`cargo bench --bench {bench}` comes first: {error}"))?;
        let (first, rest) = text
            .split_once('\t')
            .and_then(|(date, rest)| Some((date, rest.split_once('\n')?)))
            .ok_or("no date")?;
        let (machine, rows) = rest;
        let mut by_name = HashMap::new();
        for row in rows.lines() {
            let [what, way, at, figure] = row.split('\t').collect::<Vec<_>>()[..] else {
                return Err(format!("{row:?} is no figure").into());
            };
            by_name.insert(
                (what.to_owned(), way.to_owned(), at.parse()?),
                figure.parse()?,
            );
        }
        Ok(Self {
            date: first.to_owned(),
            machine: machine.to_owned(),
            by_name,
        })
    }

    /// Returns a number, or NaN if it was not measured.
    fn get(&self, what: &str, way: &str, at: usize) -> f64 {
        self.by_name
            .get(&(what.to_owned(), way.to_owned(), at))
            .copied()
            .unwrap_or(f64::NAN)
    }
}

/// Groups of bars.
struct Panel {
    title: String,
    /// What a bar as high as the dashed line means, if there is one.
    one: Option<&'static str>,
    groups: Vec<Group>,
}

struct Group {
    name: String,
    bars: Vec<Bar>,
}

struct Bar {
    class: &'static str,
    height: f64,
    label: String,
}

impl Bar {
    fn new(class: &'static str, height: f64, label: String) -> Self {
        Self {
            class,
            height,
            label,
        }
    }
}

/// The bars are relative to the plain hand-written layer, because sixteen tasks would dwarf the
/// others. The labels are absolute.
fn against_plain(title: &str, what: &str, figures: &Figures) -> Panel {
    let groups = [0, 1, 4, 16].map(|tasks| {
        let plain = figures.get(what, "hand-written, plain", tasks);
        let ways = [
            ("spawn", "tokio::spawn"),
            ("hand", "hand-written, plain"),
            ("layer", "layer"),
        ];
        let bars = ways.map(|(class, way)| {
            let figure = figures.get(what, way, tasks);
            Bar::new(class, figure / plain, grouped(figure))
        });
        Group {
            name: tasks_of(tasks),
            bars: bars.into(),
        }
    });
    Panel {
        title: title.to_owned(),
        one: Some("hand-written, plain"),
        groups: groups.into(),
    }
}

fn memory(figures: &Figures) -> Panel {
    let ways = [
        ("hand", "deferred, hand-written"),
        ("layer", "deferred, layer"),
        ("queued", "queued, a request each"),
    ];
    let groups = [1_000, 10_000, 100_000, 1_000_000].map(|pending| {
        let bars = ways.map(|(class, way)| {
            let bytes = figures.get("bytes", way, pending);
            Bar::new(class, bytes, grouped(bytes))
        });
        Group {
            name: format!("{} pending", grouped_whole(pending)),
            bars: bars.into(),
        }
    });
    Panel {
        title: "Bytes for a pending task and its open response".to_owned(),
        one: None,
        groups: groups.into(),
    }
}

/// Shows CPU time, because on a busy machine the requests per second say more about the machine. It
/// is a ratio of rounds that ran one after the other.
fn servers(figures: &Figures) -> Panel {
    let servers = [("axum", 0), ("axum", 1), ("tonic", 0), ("tonic", 1)];
    let groups = servers.map(|(server, tasks)| {
        let bars = [
            ("spawn", "without"),
            ("hand", "hand-written, plain"),
            ("layer", "layer"),
        ]
        .map(|(class, way)| {
            let ratio = figures.get(&format!("{server} cpu ratio"), way, tasks);
            Bar::new(class, ratio, format!("{ratio:.2}"))
        });
        Group {
            name: format!("{server}, {}", tasks_of(tasks)),
            bars: bars.into(),
        }
    });
    Panel {
        title: "A server's CPU time for a request".to_owned(),
        one: Some("without a layer"),
        groups: groups.into(),
    }
}

fn threads(figures: &Figures) -> Panel {
    let groups = [1, 2, 4, 8].map(|workers| {
        let bars = [
            ("hand", "hand-written, plain", 0),
            ("layer", "layer", 0),
            ("hand", "hand-written, plain", 1),
            ("layer", "layer", 1),
        ];
        let bars = bars.map(|(class, way, tasks)| {
            let ratio = figures.get(&format!("ratio with {tasks}"), way, workers);
            Bar::new(class, ratio, format!("{ratio:.2}"))
        });
        Group {
            name: format!(
                "{workers} {}",
                if workers == 1 { "thread" } else { "threads" }
            ),
            bars: bars.into(),
        }
    });
    Panel {
        title: "Throughput with 0, then 1 task".to_owned(),
        one: Some("without a layer"),
        groups: groups.into(),
    }
}

impl Panel {
    fn draw(&self, svg: &mut String, (x, y): (f64, f64)) -> Result<(), Box<dyn Error>> {
        let (left, right) = (x + MARGIN, x + PANEL.0 - MARGIN);
        let bottom = y + PANEL.1 - 34.0;
        let heights = self
            .groups
            .iter()
            .flat_map(|group| &group.bars)
            .map(|bar| bar.height);
        let highest = heights
            .filter(|height| height.is_finite())
            .fold(if self.one.is_some() { 1.0 } else { 0.0 }, f64::max);
        text(svg, "panel", (left, y + 16.0), &self.title)?;
        let width = (right - left) / f64::from(u32::try_from(self.groups.len())?);
        for (number, group) in (0..).map(f64::from).zip(&self.groups) {
            let bar_width = (width - 16.0) / f64::from(u32::try_from(group.bars.len())?);
            for (place, bar) in (0..).map(f64::from).zip(&group.bars) {
                let x = left + number * width + 8.0 + place * bar_width;
                let height = if bar.height.is_finite() {
                    bar.height.max(0.0) / highest * BARS
                } else {
                    0.0
                };
                let top = bottom - height;
                let class = bar.class;
                writeln!(
                    svg,
                    r#"<rect class="{class}" x="{:.1}" y="{top:.1}" width="{:.1}" height="{height:.1}"/>"#,
                    x + 1.5,
                    bar_width - 3.0
                )?;
                let (x, top) = (x + bar_width / 2.0 + 3.5, top - 4.0);
                writeln!(
                    svg,
                    r#"<text class="small" transform="translate({x:.1} {top:.1}) rotate(-90)">{}</text>"#,
                    bar.label
                )?;
            }
            let middle = left + (number + 0.5) * width;
            let name = &group.name;
            writeln!(
                svg,
                r#"<text class="small" x="{middle:.1}" y="{:.1}" text-anchor="middle">{name}</text>"#,
                bottom + 14.0
            )?;
        }
        writeln!(
            svg,
            r#"<line x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>"#
        )?;
        if let Some(one) = self.one {
            let at = bottom - BARS / highest;
            writeln!(
                svg,
                r#"<line class="one" x1="{left}" y1="{at:.1}" x2="{right}" y2="{at:.1}"/>"#
            )?;
            writeln!(
                svg,
                r#"<text class="small faint" x="{right}" y="{:.1}" text-anchor="end">dashed: {one}</text>"#,
                y + 16.0
            )?;
        }
        Ok(())
    }
}

fn text(
    svg: &mut String,
    class: &str,
    (x, y): (f64, f64),
    text: &str,
) -> Result<(), Box<dyn Error>> {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    Ok(writeln!(
        svg,
        r#"<text class="{class}" x="{x}" y="{y}">{text}</text>"#
    )?)
}

fn tasks_of(tasks: usize) -> String {
    format!("{tasks} {}", if tasks == 1 { "task" } else { "tasks" })
}

/// Rounds a number, and puts commas between its thousands.
fn grouped(figure: f64) -> String {
    let rounded = format!("{figure:.0}");
    rounded
        .parse()
        .map_or_else(|_| rounded.replace("NaN", "?"), grouped_whole)
}

fn grouped_whole(figure: usize) -> String {
    let digits = figure.to_string();
    let groups: Vec<_> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(String::from_utf8_lossy)
        .collect();
    groups.join(",")
}
