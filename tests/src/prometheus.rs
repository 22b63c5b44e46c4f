//! Metrics as Prometheus reads them, by its own Python parser: what we would write here could share our mistakes.
//!
//! The interpreter is `PADDOCK_PYTHON`, else that of the environment which `make test` has left, else `python3`; it must
//! have the package `prometheus-client`.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::{artifacts::workspace, gateway::Gateway};

fn python() -> PathBuf {
    let named = std::env::var_os("PADDOCK_PYTHON").filter(|path| !path.is_empty()).map(PathBuf::from);
    let left = Some(workspace().join("target/venv/bin/python")).filter(|path| path.exists());
    named.or(left).unwrap_or_else(|| "python3".into())
}

/// A family of series.
#[derive(Debug, Deserialize)]
pub struct Family {
    /// `counter`, `gauge` or `histogram`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its series.
    pub samples: Vec<Sample>,
}

/// One series.
#[derive(Debug, Deserialize)]
pub struct Sample {
    /// Its name, with the suffix that a counter or a histogram has.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// Everything that one scrape gave.
#[derive(Debug)]
pub struct Scrape(pub BTreeMap<String, Family>);

impl Scrape {
    /// Asks a gateway.
    pub async fn of(gateway: &dyn Gateway) -> Result<Self> {
        let reply = gateway.get("/metrics").await?;
        ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
        let text = reply.text();
        tokio::task::spawn_blocking(move || Self::parse(&text)).await?
    }

    /// Reads a text as Prometheus does.
    pub fn parse(text: &str) -> Result<Self> {
        let python = python();
        let mut parser = Command::new(&python)
            .arg(workspace().join("tests/metrics/parse.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("the tests need Python ('{}' does not start)", python.display()))?;
        // A parser that fails early does not read it all; what it says matters then.
        parser.stdin.take().context("no input")?.write_all(text.as_bytes()).ok();
        let output = parser.wait_with_output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            !errors.contains("No module named 'prometheus_client'"),
            "the tests need a Python with prometheus-client: name one in PADDOCK_PYTHON, as 'make test' does"
        );
        ensure!(output.status.success(), "{errors}\nof the text:\n{text}");
        Ok(Self(serde_json::from_slice(&output.stdout)?))
    }

    /// The sum of all series of that name that have these labels; 0 when there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.samples(name)
            .filter(|sample| {
                labels.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|it| it == value))
            })
            .map(|sample| sample.value)
            .sum()
    }

    /// The same sum where it is whole, as all but sums of seconds are.
    #[expect(clippy::cast_possible_truncation, reason = "the counters of a test are small")]
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> i64 {
        self.sum(name, labels).round() as i64
    }

    /// The values that a label has in the series of that name.
    pub fn label_values(&self, name: &str, label: &str) -> Vec<String> {
        let mut values: Vec<_> =
            self.samples(name).filter_map(|sample| sample.labels.get(label).cloned()).collect();
        values.sort();
        values.dedup();
        values
    }

    fn samples(&self, name: &str) -> impl Iterator<Item = &Sample> {
        self.0.values().flat_map(|family| &family.samples).filter(move |sample| sample.name == name)
    }
}
