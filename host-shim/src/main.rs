//! `host-shim`: Paddock as one native binary.
//!
//! It moves bytes between sockets and the core, and gives the core a clock, settings and randomness. It makes no
//! decisions: routing, caching, error mapping and counting are in the core.

#![forbid(unsafe_code)]

mod clock;
mod command_line;
mod demo;
mod half_close;
mod healthcheck;
mod log;
mod machine;
mod platform;
mod redis_client;
mod resolver;
mod server;
mod startup;
mod store;
mod timed_body;
mod upstream;

use std::{
    future::{Future, poll_fn},
    io,
    net::IpAddr,
    process::ExitCode,
    task::Poll,
};

use anyhow::{Context as _, anyhow};
use clap::ArgMatches;
use paddock::{
    Config,
    config::{Loaded, settings::Deployment},
};
use tokio::{net::TcpListener, signal::unix, task::JoinSet};

use crate::{
    platform::{NativePlatform, NativeService},
    resolver::Resolver,
    server::Server,
};

fn main() -> ExitCode {
    let matches = command_line::command().get_matches();
    let outcome = match matches.subcommand() {
        Some(("healthcheck", options)) => healthcheck::run(&matches, options),
        _ => serve(&matches),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write as _;
            // Logging may not be initialised, so the error goes to standard error.
            let _ = writeln!(std::io::stderr(), "host-shim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(matches: &ArgMatches) -> anyhow::Result<()> {
    let settings = command_line::settings(matches);
    let loaded = Config::load(&settings, Deployment::Native);
    let native = command_line::NativeSettings::load(&settings);
    let (Loaded { config, warnings }, native) = match (loaded, native) {
        (Ok(loaded), Ok(native)) => (loaded, native),
        (loaded, native) => {
            let problems = [loaded.err(), native.err()].into_iter().flatten().flatten();
            let list: Vec<_> = problems.map(|problem| format!("\n  - {problem}")).collect();
            return Err(anyhow!("the settings do not hold:{}", list.concat()));
        }
    };
    log::init(native.log_format);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    let outcome = runtime.block_on(run(config, native, matches.get_flag("demo")));
    // A hanging name lookup must not keep the process alive.
    runtime.shutdown_background();
    outcome
}

async fn run(mut config: Config, native: command_line::NativeSettings, demo: bool) -> anyhow::Result<()> {
    // TLS to Redis uses the crypto provider of the process.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let demo = if demo {
        let demo = demo::start(&config.fleet.default_model).await?;
        config.fleet.hosts = vec![demo.host()?];
        config.fleet.names.clear();
        Some(demo)
    } else {
        None
    };
    let store = config.store.memory_limit;
    config.access.memory_budget = config.access.memory_budget.or_else(|| machine::memory_budget(store));
    tracing::info!(bytes = config.access.memory_budget, "memory for request bodies, MEMORY_BUDGET");
    let service = NativePlatform::service(config)?;
    let resolver = Resolver::new(service.clone(), resolver::look_up);
    resolver.resolve().await;
    let listener = TcpListener::bind(&native.listen)
        .await
        .with_context(|| format!("cannot listen on {}; set LISTEN to another address", native.listen))?;
    let address = listener.local_addr()?;
    let signals = Signals::new()?;
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
    startup::announce(&service, demo.is_some());

    let server = Server::new(service.clone());
    let background = watch(&service, resolver);
    server.serve(listener, signals.stop()).await;
    drop(background);
    tracing::info!(limit_seconds = native.drain_timeout.as_secs_f64(), "draining open requests");
    let drained = tokio::time::timeout(native.drain_timeout, async {
        server.drain().await;
        service.platform().tasks().close();
        service.platform().tasks().wait().await;
    });
    let drained = drained.await;
    service.store().close().await;
    if drained.is_ok() {
        tracing::info!("stopped");
    } else {
        tracing::warn!("stopped with requests still open");
    }
    Ok(())
}

/// Probes the hosts and resolves host names in the background, until the result is dropped.
fn watch<L, F>(service: &NativeService, resolver: Resolver<L>) -> JoinSet<()>
where
    L: Fn(String, u16) -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
{
    let service = service.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { service.watch().await });
    tasks.spawn(async move { resolver.keep().await });
    tasks
}

/// The signals that stop the service.
struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| unix::signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: listen(unix::SignalKind::terminate())?,
            interrupt: listen(unix::SignalKind::interrupt())?,
        })
    }

    async fn stop(mut self) {
        poll_fn(|context| {
            let stop =
                self.terminate.poll_recv(context).is_ready() || self.interrupt.poll_recv(context).is_ready();
            if stop { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}
