//! `make bench`: measures the service beside its neighbours, all in one run, and prints one Markdown table.
//!
//! Every system runs in processes of its own, so that the processor time read for it is its own. Rounds go over all
//! systems in turn: what disturbs the machine for a while disturbs them alike. All of them share the machine's cores
//! with the stand-in upstream and the load generator.

mod http1;
mod load;
mod process;
mod report;
mod systems;
mod upstream;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};

use crate::{
    load::{Load, Measurement},
    report::Row,
    systems::{System, Systems},
};

/// Each system is measured this often with each number of clients.
const ROUNDS: usize = 5;
/// How long one measurement takes.
const MEASURED: Duration = Duration::from_millis(800);
/// How long requests go on before one.
const WARM_UP: Duration = Duration::from_millis(200);
/// Keep-alive connections, each with one request outstanding.
const CLIENTS: [usize; 2] = [1, 16];
/// How many clients ask something else beside what is measured.
const BESIDE: usize = 4;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).filter(|word| *word != "--bench").collect();
    let outcome = match arguments.as_slice() {
        [systems::UPSTREAM] => upstream::serve(),
        [systems::COMPONENT, variables @ ..] => systems::serve_component(variables),
        options => Options::parse(options).and_then(|options| run(&options)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

struct Options<'a> {
    host_shim: PathBuf,
    /// An earlier binary, which is measured in the same run.
    baseline: Option<PathBuf>,
    rounds: usize,
    /// Measures only systems whose name holds it.
    only: &'a str,
}

impl<'a> Options<'a> {
    fn parse(arguments: &[&'a str]) -> Result<Self> {
        let mut options = Self { host_shim: PathBuf::new(), baseline: None, rounds: ROUNDS, only: "" };
        for pair in arguments.chunks(2) {
            match pair {
                ["--host-shim", path] => options.host_shim = PathBuf::from(path),
                ["--baseline", path] => options.baseline = Some(PathBuf::from(path)),
                ["--rounds", count] => options.rounds = count.parse().context("--rounds takes a number")?,
                ["--only", word] => options.only = word,
                _ => bail!(
                    "options: --host-shim PATH, --baseline PATH, --rounds NUMBER, --only PART-OF-A-NAME"
                ),
            }
        }
        if !options.host_shim.is_file() {
            bail!("--host-shim must name the release binary; `make bench` does that");
        }
        if options.baseline.as_ref().is_some_and(|path| !path.is_file()) {
            bail!("--baseline must name a release binary of an earlier version");
        }
        Ok(options)
    }
}

fn run(options: &Options<'_>) -> Result<()> {
    let systems = Systems::start(&options.host_shim, options.baseline.as_deref(), options.only)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut rows: Vec<_> = systems.all.iter().map(|system| Row::new(system, CLIENTS.len())).collect();
    for round in 1..=options.rounds {
        report::say(&format!("round {round} of {}", options.rounds));
        for (row, system) in rows.iter_mut().zip(&systems.all) {
            for (clients, cell) in CLIENTS.into_iter().zip(&mut row.cells) {
                let measured = runtime.block_on(measure(system, clients));
                cell.push(measured.with_context(|| format!("{} with {clients} clients", system.name))?);
            }
        }
    }
    for (row, system) in rows.iter_mut().zip(&systems.all) {
        row.loaded = system.processes.resident()?;
    }
    report::print(&rows, &systems.stats(&options.host_shim)?, &CLIENTS)
}

async fn measure(system: &System, clients: usize) -> Result<Measurement> {
    let load = Load { clients, warm_up: WARM_UP, measured: MEASURED };
    // On a thread of its own, so that what it costs to send large bodies does not delay the clients that are measured.
    let beside = system.beside.clone().map(|target| {
        std::thread::spawn(move || {
            let load = Load { clients: BESIDE, warm_up: Duration::ZERO, measured: WARM_UP + MEASURED };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(load.run(&target, || Ok(Duration::ZERO)))
        })
    });
    let measured = load.run(&system.target, || system.processes.cpu()).await;
    if let Some(thread) = beside {
        thread.join().map_err(|_| anyhow::anyhow!("the thread beside failed"))?.context("beside it")?;
    }
    measured
}
