//! The table, and whether the aims are met.

use std::{io::Write as _, time::Duration};

use anyhow::Result;

use crate::{
    load::Measurement,
    systems::{ALIVE, DIRECT, HIT, HIT_REDIS, HostStats, MISS, NGINX, System},
};

const MIB: f64 = 1024.0 * 1024.0;

/// What was measured of one system.
#[derive(Debug)]
pub(crate) struct Row {
    name: &'static str,
    is_baseline: bool,
    /// Resident memory before the first request, in bytes.
    idle: u64,
    /// Resident memory after the last round.
    pub(crate) loaded: u64,
    /// The rounds for each number of clients.
    pub(crate) cells: Vec<Vec<Measurement>>,
}

/// The rounds of one system with one number of clients, summed up.
#[derive(Debug, Clone, Copy)]
struct Summary {
    /// Requests a second: the median of the rounds.
    rate: f64,
    p50: f64,
    p99: f64,
    /// Processor time a request.
    cpu: f64,
    /// How far the fastest round is from the slowest, as a part of the median.
    spread: f64,
}

impl Row {
    pub(crate) fn new(system: &System, numbers_of_clients: usize) -> Self {
        let cells = (0..numbers_of_clients).map(|_| Vec::new()).collect();
        Self {
            name: system.name,
            is_baseline: system.is_baseline,
            idle: system.processes.idle,
            loaded: 0,
            cells,
        }
    }

    /// The summary for the smallest or the largest number of clients, by place.
    fn summary(&self, place: usize) -> Option<Summary> {
        self.cells.get(place).filter(|rounds| !rounds.is_empty()).map(|rounds| Summary::of(rounds))
    }
}

impl Summary {
    fn of(rounds: &[Measurement]) -> Self {
        let rate = |round: &Measurement| number(round.latencies.len()) / round.elapsed.as_secs_f64();
        let mut rates: Vec<_> = rounds.iter().map(rate).collect();
        rates.sort_by(f64::total_cmp);
        let median = rates.get(rates.len() / 2).copied().unwrap_or_default();
        let spread = rates.last().zip(rates.first()).map_or(0.0, |(fast, slow)| (fast - slow) / median);
        let mut latencies: Vec<_> = rounds.iter().flat_map(|round| &round.latencies).copied().collect();
        latencies.sort_unstable();
        let cpu: Duration = rounds.iter().map(|round| round.cpu).sum();
        let percentile = |percent: usize| {
            let place = (latencies.len() * percent / 100).min(latencies.len().saturating_sub(1));
            latencies.get(place).map_or(0.0, |nanoseconds| f64::from(*nanoseconds) / 1e3)
        };
        Self {
            rate: median,
            p50: percentile(50),
            p99: percentile(99),
            cpu: cpu.as_secs_f64() * 1e6 / number(latencies.len()),
            spread,
        }
    }
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Tells the operator how far we are.
pub(crate) fn say(words: &str) {
    // Nobody may be listening.
    writeln!(std::io::stderr(), "bench: {words}").ok();
}

/// Prints the table and the aims.
pub(crate) fn print(rows: &[Row], stats: &HostStats, clients: &[usize]) -> Result<()> {
    let mut output = std::io::stdout().lock();
    let HostStats { processor, cores, kernel, nginx, binary } = stats;
    let nginx = nginx.as_ref().map_or_else(String::new, |version| format!(", {version}"));
    writeln!(output, "\n{processor}, {cores} cores, Linux {kernel}{nginx}\n")?;
    write!(output, "| |")?;
    for count in clients {
        write!(
            output,
            " {count} client{}: req/s | p50 µs | p99 µs | CPU µs |",
            if *count == 1 { "" } else { "s" }
        )?;
    }
    writeln!(output, " idle MiB | loaded MiB |")?;
    writeln!(output, "|---|{}--:|--:|", "--:|--:|--:|--:|".repeat(clients.len()))?;
    for row in rows {
        write!(output, "| {}{} |", row.name, if row.is_baseline { ", baseline" } else { "" })?;
        for place in 0..clients.len() {
            match row.summary(place) {
                Some(Summary { rate, p50, p99, cpu, .. }) => {
                    write!(output, " {rate:.0} | {p50:.0} | {p99:.0} | {cpu:.1} |")?;
                }
                None => write!(output, " | | | |")?,
            }
        }
        writeln!(output, " {:.1} | {:.1} |", bytes(row.idle) / MIB, bytes(row.loaded) / MIB)?;
    }
    let spreads = rows.iter().flat_map(|row| (0..clients.len()).filter_map(|place| row.summary(place)));
    let rounds = rows.iter().flat_map(|row| &row.cells).map(Vec::len).max().unwrap_or_default();
    let spread = spreads.map(|summary| summary.spread).fold(0.0, f64::max);
    writeln!(
        output,
        "\nRates are medians of {rounds} rounds (they differ by up to {:.0} %); all share the cores with the stand-in upstream and \
         the load generator. CPU is that of the system alone, without Redis. Every request is logged, host-shim's to \
         /dev/null.\n",
        spread * 100.0
    )?;
    compare(&mut output, rows, clients)?;
    for aim in aims(rows, *binary) {
        writeln!(output, "- {aim}")?;
    }
    Ok(())
}

/// Prints what each system that was measured beside its baseline costs in parts of it: for each round the rate and the
/// processor time of a request, of which the median stands before the lowest and the highest.
fn compare(output: &mut impl std::io::Write, rows: &[Row], clients: &[usize]) -> Result<()> {
    for pair in rows.windows(2) {
        let [now, before] = pair else { continue };
        let name = now.name;
        if now.is_baseline || !before.is_baseline {
            continue;
        }
        for ((count, now), before) in clients.iter().zip(&now.cells).zip(&before.cells) {
            let ratios = |of: &dyn Fn(&Summary) -> f64| {
                let rounds = now.iter().zip(before).map(|(now, before)| {
                    of(&Summary::of(std::slice::from_ref(now)))
                        / of(&Summary::of(std::slice::from_ref(before)))
                });
                let mut ratios: Vec<_> = rounds.collect();
                ratios.sort_by(f64::total_cmp);
                let at = |place: usize| ratios.get(place).copied().unwrap_or_default();
                format!(
                    "{:.2} ({:.2} to {:.2})",
                    at(ratios.len() / 2),
                    at(0),
                    at(ratios.len().saturating_sub(1))
                )
            };
            let (rate, cpu) = (ratios(&|summary| summary.rate), ratios(&|summary| summary.cpu));
            writeln!(output, "- {name} beside its baseline, {count} clients: rate {rate}, CPU {cpu}")?;
        }
    }
    writeln!(output)?;
    Ok(())
}

fn bytes(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Each aim whose systems were measured, with what was measured.
fn aims(rows: &[Row], binary: u64) -> Vec<String> {
    let row = |name: &str| rows.iter().find(|row| row.name == name && !row.is_baseline);
    let one = |name: &str| row(name)?.summary(0);
    let many = |name: &str| row(name)?.summary(1);
    let verdict = |met: bool| if met { "met" } else { "MISSED" };
    let at_least = |what: &str, found: f64, aim: f64, digits: usize| {
        format!("{what}: {found:.digits$}, aim at least {aim:.digits$}: {}", verdict(found >= aim))
    };
    let at_most = |what: &str, found: f64, aim: f64| {
        format!("{what}: {found:.1}, aim at most {aim:.1}: {}", verdict(found <= aim))
    };
    let mut aims = Vec::new();
    for (summary, words) in [
        (&one as &dyn Fn(&str) -> Option<Summary>, "miss beside nginx, rate at 1 client"),
        (&many, "miss beside nginx, rate at 16 clients"),
    ] {
        if let (Some(miss), Some(nginx)) = (summary(MISS), summary(NGINX)) {
            aims.push(at_least(words, miss.rate / nginx.rate, 0.7, 2));
        }
    }
    if let (Some(miss), Some(direct)) = (one(MISS), one(DIRECT)) {
        aims.push(at_most("µs that a miss adds at 1 client (p50)", miss.p50 - direct.p50, 60.0));
    }
    if let Some(hit) = many(HIT_REDIS) {
        aims.push(at_least("hits a second with Redis, 16 clients", hit.rate, 35_000.0, 0));
    }
    if let Some(hit) = many(HIT) {
        aims.push(at_least("hits a second embedded, 16 clients", hit.rate, 60_000.0, 0));
    }
    if let Some(alive) = many(ALIVE) {
        aims.push(at_most("ms that `/livez` takes beside large bodies (p99)", alive.p99 / 1e3, 2000.0));
    }
    if let Some(shim) = row(MISS).or_else(|| row(HIT)) {
        aims.push(at_most("idle memory of host-shim in MiB", bytes(shim.idle) / MIB, 8.0));
    }
    aims.push(at_most("binary of host-shim in MiB", bytes(binary) / MIB, 12.0));
    aims
}
