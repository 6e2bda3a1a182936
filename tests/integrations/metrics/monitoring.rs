//! The alerts and the dashboard in `docs/` use metrics, labels and outcomes that the Prometheus
//! page has.
//!
//! `promtool` checks that Prometheus accepts the alerts, and which alerts fire. Without `promtool`
//! these checks are skipped, unless `TOWER_BACKGROUND_NO_SKIP` is set.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::Value;
use tower_background::describe_metrics;

use super::one_of_each;

/// What Prometheus knows besides names, of which the alerts and the dashboard make use.
const WORDS: &[&str] = &[
    "by",
    "histogram_quantile",
    "increase",
    "label_values",
    "offset",
    "or",
    "rate",
    "sum",
    "unless",
];

/// The labels that Prometheus adds to each series, and the one of a histogram's buckets.
const ADDED: &[&str] = &["instance", "job", "le"];

/// A page for Prometheus: its series, each with its labels and their values.
struct Page(BTreeMap<String, BTreeMap<String, BTreeSet<String>>>);

impl Page {
    /// The page of a service whose tasks have ended in each way.
    async fn new() -> Self {
        let recorder = PrometheusBuilder::new()
            .set_buckets(&[1.0])
            .expect("there is a bucket")
            .build_recorder();
        let _guard = metrics::set_default_local_recorder(&recorder);
        describe_metrics();
        one_of_each().await;

        let page = recorder.handle().render();
        let mut series = BTreeMap::<_, BTreeMap<_, BTreeSet<_>>>::new();
        for line in page
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            let (line, _) = line.rsplit_once(' ').expect("a line ends with a number");
            let (name, labels) = line.split_once('{').unwrap_or((line, ""));
            let series = series.entry(name.to_owned()).or_default();
            for label in labels
                .trim_end_matches('}')
                .split(',')
                .filter(|label| !label.is_empty())
            {
                let (label, value) = label.split_once('=').expect("a label has a value");
                series
                    .entry(label.to_owned())
                    .or_default()
                    .insert(value.trim_matches('"').to_owned());
            }
        }
        Self(series)
    }

    /// Checks that there is all that is asked for.
    fn answers(&self, query: &str) {
        let (mut names, mut outcomes) = (BTreeSet::new(), BTreeSet::new());
        for (at, part) in query.split('"').enumerate() {
            if at % 2 == 0 {
                names.extend(words(part));
            } else if !part.starts_with('$') {
                outcomes.extend(part.split('|').map(str::to_owned));
            }
        }
        names.retain(|name| !WORDS.contains(&name.as_str()));
        let series: Vec<_> = names.iter().filter_map(|name| self.0.get(name)).collect();
        assert!(!series.is_empty(), "there is no such figure: {query}");
        names.retain(|name| !self.0.contains_key(name));
        names.retain(|name| !ADDED.contains(&name.as_str()));
        names.retain(|name| series.iter().any(|labels| !labels.contains_key(name)));
        assert_eq!(names, BTreeSet::new(), "no figure and no label: {query}");
        let known: BTreeSet<_> = series
            .iter()
            .filter_map(|labels| labels.get("outcome"))
            .flatten()
            .cloned()
            .collect();
        assert!(
            outcomes.is_subset(&known),
            "{outcomes:?} of {known:?}: {query}"
        );
    }
}

/// The words of a query; its numbers, times and variables are none.
fn words(query: &str) -> impl Iterator<Item = String> + '_ {
    query
        .split(|character: char| !character.is_alphanumeric() && !"_$.".contains(character))
        .filter(|word| word.starts_with(|first: char| first.is_alphabetic()))
        .map(str::to_owned)
}

/// The values under `key`, wherever it is.
fn under<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| under(value, key, found)),
        Value::Object(fields) => {
            found.extend(fields.get(key).and_then(Value::as_str));
            fields.values().for_each(|value| under(value, key, found));
        }
        _ => {}
    }
}

#[tokio::test(start_paused = true)]
async fn the_dashboard_asks_for_what_there_is() {
    let page = Page::new().await;
    let dashboard: Value =
        serde_json::from_str(include_str!("../../../docs/dashboard.json")).expect("it is JSON");
    let (mut queries, mut variables, mut legends) = (Vec::new(), Vec::new(), Vec::new());
    under(&dashboard, "expr", &mut queries);
    under(&dashboard, "definition", &mut variables);
    under(&dashboard, "legendFormat", &mut legends);
    assert!(
        queries.len() > 6 && variables.len() == 3,
        "{queries:?}, {variables:?}"
    );
    queries
        .iter()
        .chain(&variables)
        .for_each(|query| page.answers(query));

    assert_eq!(queries.len(), legends.len());
    for (query, legend) in queries.iter().zip(legends) {
        for label in legend
            .split("{{")
            .skip(1)
            .filter_map(|rest| rest.split("}}").next())
        {
            assert!(
                words(query).any(|word| word == label),
                "{legend} of {query}"
            );
        }
    }

    let asked: BTreeSet<_> = queries.iter().flat_map(|query| words(query)).collect();
    for figure in page.0.keys() {
        let name = figure
            .trim_end_matches("_bucket")
            .trim_end_matches("_sum")
            .trim_end_matches("_count");
        assert!(
            asked.iter().any(|word| word.starts_with(name)),
            "the dashboard does not show {figure}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_alerts_ask_for_what_there_is() {
    let page = Page::new().await;
    let text = include_str!("../../../docs/prometheus-alerts.yml");
    let alerts: Vec<_> = text.split("- alert: ").skip(1).collect();
    assert_eq!(alerts.len(), 6);
    for alert in alerts {
        let (_, query) = alert
            .split_once("expr: ")
            .expect("an alert has an expression");
        let query = query.trim_start_matches(">-");
        let end = ["\n        for:", "\n        labels:"]
            .into_iter()
            .filter_map(|next| query.find(next))
            .min();
        let query = &query[..end.expect("something comes after it")];
        page.answers(query);
        for label in alert
            .split("$labels.")
            .skip(1)
            .filter_map(|rest| rest.split(' ').next())
        {
            assert!(
                label == "instance" || words(query).any(|word| word == label),
                "{label}: {alert}"
            );
        }
    }
}

#[test]
fn the_alerts_fire_when_they_should() {
    let promtool = |arguments: &[&str]| {
        Command::new("promtool")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(arguments)
            .output()
    };
    if promtool(&["--version"]).is_err() {
        assert!(
            std::env::var_os("TOWER_BACKGROUND_NO_SKIP").is_none(),
            "there is no promtool"
        );
        eprintln!("skipped: no promtool");
        return;
    }
    for arguments in [
        ["check", "rules", "docs/prometheus-alerts.yml"],
        ["test", "rules", "tests/prometheus-alerts.yml"],
    ] {
        let output = promtool(&arguments).expect("it is there");
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
