//! `host-shim`: Paddock as one native binary.
//!
//! It moves bytes between sockets and the core, and gives the core a clock, settings and randomness. It makes no
//! decisions: routing, caching, error mapping and counting are in the core.

#![forbid(unsafe_code)]

mod clock;
mod command_line;
mod connections;
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

use std::{future::Future, io, net::IpAddr, pin::pin, process::ExitCode, time::Duration};

use anyhow::{Context as _, anyhow};
use clap::ArgMatches;
use paddock::{
    Config,
    config::{Loaded, settings::Deployment},
};
use tokio::{signal::unix, task::JoinSet};

use crate::{
    connections::Connections,
    platform::{NativePlatform, NativeService},
    resolver::Resolver,
    server::Server,
};

/// How long clients may take to read that their time is over.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// The same where the operator has no patience left.
const SHORT_LAST_WORDS: Duration = Duration::from_millis(250);

fn main() -> ExitCode {
    let matches = command_line::command().get_matches();
    let outcome = match matches.subcommand() {
        Some(("healthcheck", options)) => healthcheck::run(&matches, options).map(|()| ExitCode::SUCCESS),
        _ => serve(&matches),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            use std::io::Write as _;
            // Logging may not be initialised, so the error goes to standard error.
            let _ = writeln!(std::io::stderr(), "host-shim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
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

async fn run(
    mut config: Config,
    native: command_line::NativeSettings,
    demo: bool,
) -> anyhow::Result<ExitCode> {
    // TLS to hosts uses the crypto provider of the process.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let demo = if demo {
        let demo = demo::start(&config.fleet.default_model).await?;
        config.fleet.hosts = vec![demo.host()?];
        config.fleet.names.clear();
        Some(demo)
    } else {
        None
    };
    let store = if config.store.redis.is_some() { 0 } else { config.store.memory_limit };
    config.access.memory_budget = config.access.memory_budget.or_else(|| machine::memory_budget(store));
    tracing::info!(bytes = config.access.memory_budget, "memory for request bodies, MEMORY_BUDGET");
    let descriptors = connections::raise_descriptor_limit();
    let limit = native.max_connections.unwrap_or_else(|| connections::usual_limit(descriptors));
    let room = Connections::new(limit);
    let listener = server::listen(&native.listen)
        .await
        .with_context(|| format!("cannot listen on {}; set LISTEN to another address", native.listen))?;
    let address = listener.local_addr()?;
    if let Some(host) = startup::own_host(&config, address).await {
        return Err(anyhow!(
            "the settings do not hold:\n  - OLLAMA_HOST or OLLAMA_HOSTS names {host}, where this service itself listens \
             (LISTEN is {}): name the address of Ollama, which usually is http://127.0.0.1:11434, or listen elsewhere",
            native.listen
        ));
    }
    config.access.is_loopback = address.ip().to_canonical().is_loopback();
    config.access.machine_name = machine_name();
    let service = NativePlatform::service(config)?;
    let resolver = Resolver::new(service.clone(), resolver::look_up);
    resolver.resolve().await;
    let mut signals = Signals::new()?;
    startup::announce(&service, address, demo.is_some());

    let server = Server::new(service.clone(), room);
    let background = watch(&service, resolver);
    server.serve(listener, signals.stop()).await;
    drop(background);
    let code = drain(&service, server, native.drain_timeout, &mut signals).await;
    service.store().close().await;
    Ok(code)
}

/// Lets open requests finish, until the limit or a second signal. Those that are still open then are told that their time
/// is over, and the exit status says that there were some.
async fn drain(service: &NativeService, server: Server, limit: Duration, signals: &mut Signals) -> ExitCode {
    tracing::info!(limit_seconds = limit.as_secs_f64(), "draining open requests");
    let mut drained = pin!(async {
        server.drain().await;
        service.platform().tasks().close();
        service.platform().tasks().wait().await;
    });
    let last_words = tokio::select! {
        biased;
        () = drained.as_mut() => {
            tracing::info!("stopped");
            return ExitCode::SUCCESS;
        }
        () = tokio::time::sleep(limit) => LAST_WORDS,
        () = signals.stop() => SHORT_LAST_WORDS,
    };
    service.give_up();
    // What this waits for is told to clients and logged by the core; its own end is no news.
    let _ = tokio::time::timeout(last_words, drained).await;
    tracing::warn!("stopped with requests still open");
    ExitCode::FAILURE
}

/// This machine's own name, as far as it is text.
fn machine_name() -> Option<String> {
    let name = hostname::get().ok()?.into_string().ok()?;
    Some(name).filter(|name| !name.is_empty())
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
    hangup: unix::Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| unix::signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: listen(unix::SignalKind::terminate())?,
            interrupt: listen(unix::SignalKind::interrupt())?,
            hangup: listen(unix::SignalKind::hangup())?,
        })
    }

    /// Resolves with the next signal to stop. SIGHUP is none: it asks services to read their settings again, or comes with
    /// the end of a terminal.
    async fn stop(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    tracing::warn!("SIGHUP is ignored: settings are read at the start alone");
                }
            }
        }
    }
}
