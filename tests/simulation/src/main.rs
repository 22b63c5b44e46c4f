//! `make simulate`: plays the scenarios against each policy, prints a table a scenario and draws `docs/simulation.svg`.

use std::{fs, io::Write as _};

use anyhow::{Context as _, Result, bail};
use paddock_simulation::{
    chart, figures, policies,
    report::{self, Section},
    scenarios,
};

/// Each figure is the median of as many runs, with other traffic each.
const SEEDS: u64 = 20;
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/simulation.svg");

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let (mut seeds, mut only, mut policy) = (SEEDS, None, None);
    for option in arguments.chunks(2) {
        match option {
            ["--only", name] => only = Some(*name),
            ["--policy", name] => policy = Some(*name),
            ["--seeds", count] => seeds = count.parse().context("--seeds takes a number")?,
            _ => bail!("options, which draw no chart: --only SCENARIO, --policy NAME, --seeds NUMBER"),
        }
    }
    let contenders =
        policies::ALL.iter().filter(|contender| policy.is_none_or(|name| name == contender.name));
    let mut sections = Vec::new();
    for scenario in scenarios::ALL.iter().filter(|scenario| only.is_none_or(|name| name == scenario.name)) {
        let row = |contender: &policies::Contender| {
            let figures = figures::measure(scenario, contender, seeds);
            Ok((contender.name, figures.with_context(|| format!("{} in {}", contender.name, scenario.name))?))
        };
        let section = Section { scenario, rows: contenders.clone().map(row).collect::<Result<_>>()? };
        report::write(&mut std::io::stdout().lock(), &section)?;
        sections.push(section);
    }
    if arguments.is_empty() {
        fs::write(CHART, chart::draw(&sections)?).context(CHART)?;
        writeln!(
            std::io::stdout(),
            "Each figure is the median of {seeds} runs. Times are those to the first token, of the requests that got one."
        )?;
    }
    Ok(())
}
