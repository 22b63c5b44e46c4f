//! Spin in a test: runs the application of `spin.toml` behind a real socket, with its real components, as `spin up` would.
//! Must never make a component's life easier than Spin does; the files below cite the rules.

mod engine;
mod host;
mod instances;
pub mod manifest;
pub mod outbound;
mod redis;
pub mod routes;
mod trigger;
pub mod variables;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;

pub use self::engine::{build_components, component_imports};
use self::host::ComponentConfig;
use self::instances::{Counters, Dispatcher, Factory, Reuse};
use self::manifest::{Component, Manifest};
use self::outbound::AllowedHosts;
use self::trigger::Trigger;
use self::variables::{Template, Values};

/// What to run and how.
#[derive(Debug)]
#[must_use]
pub struct SpinAppBuilder {
    manifest: PathBuf,
    build: bool,
    variables: Values,
    reuse: Reuse,
}

impl SpinAppBuilder {
    /// Gives an application variable a value, as `spin up --variable` does.
    pub fn variable(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// How many requests an instance serves before it is replaced; 128 unless given.
    pub fn max_instance_reuse(mut self, requests: usize) -> Self {
        self.reuse.max_requests = requests;
        self
    }

    /// How many requests without response head an instance has at once; 16 unless given.
    pub fn max_instance_concurrent_reuse(mut self, requests: usize) -> Self {
        self.reuse.max_concurrent = requests;
        self
    }

    /// How long an instance without work is kept; a second unless given.
    pub fn idle_instance_timeout(mut self, after: Duration) -> Self {
        self.reuse.idle_timeout = after;
        self
    }

    /// Serves all requests of a component in one instance, kept until it traps. Spin itself promises no such thing: it
    /// starts another instance whenever the first is busy computing.
    pub fn single_instance(mut self) -> Self {
        self.reuse.single = true;
        self
    }

    /// Builds and compiles the components if need be, and serves.
    pub async fn start(self) -> Result<SpinApp> {
        tokio::task::spawn_blocking(move || self.start_blocking()).await?
    }

    fn start_blocking(self) -> Result<SpinApp> {
        let manifest = Manifest::load(&self.manifest)?;
        let values = manifest.resolve(&self.variables)?;
        if self.build {
            build_components()?;
        }
        // The runtime is the application's own, so that ending it cuts every stream at once, as Spin's end does.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let mut components = BTreeMap::new();
        let mut dispatchers = BTreeMap::new();
        for (id, component) in &manifest.components {
            let config = Arc::new(configure(id, component, &values)?);
            let counters = Arc::<Counters>::default();
            let wasm = engine::source_path(&self.manifest, &component.source);
            let service = engine::load(&wasm).with_context(|| format!("component {id:?}"))?;
            let factory = Factory {
                service,
                component: Arc::clone(&config),
                reuse: self.reuse,
                counters: Arc::clone(&counters),
            };
            dispatchers.insert(id.clone(), Dispatcher::new(factory, &runtime));
            components.insert(id.clone(), (config, counters));
        }
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)))?;
        let address = listener.local_addr()?;
        runtime.spawn(Trigger { manifest, components: dispatchers }.serve(listener));
        Ok(SpinApp { address, url: format!("http://{address}"), components, runtime: Some(runtime) })
    }
}

fn configure(id: &str, component: &Component, values: &Values) -> Result<ComponentConfig> {
    let mut variables = Values::new();
    for (name, template) in &component.variables {
        variables.insert(name.clone(), Template::parse(template)?.resolve(values)?);
    }
    Ok(ComponentConfig {
        id: id.to_owned(),
        variables,
        environment: component.environment.clone(),
        allowed_hosts: AllowedHosts::resolve(&component.allowed_outbound_hosts, values),
        log: MemoryOutputPipe::new(usize::MAX),
    })
}

/// A running application. Dropping it ends it at once, without waiting for streams, and shows the components' output if
/// the test is failing.
#[derive(Debug)]
pub struct SpinApp {
    address: SocketAddr,
    url: String,
    components: BTreeMap<String, (Arc<ComponentConfig>, Arc<Counters>)>,
    runtime: Option<Runtime>,
}

impl SpinApp {
    /// This repository's application, its components built first.
    pub fn builder() -> SpinAppBuilder {
        SpinAppBuilder { build: true, ..Self::from_manifest(Manifest::workspace_path()) }
    }

    /// The application of another manifest, its components taken as they are.
    pub fn from_manifest(path: impl AsRef<Path>) -> SpinAppBuilder {
        let manifest = path.as_ref().to_owned();
        SpinAppBuilder { manifest, build: false, variables: Values::new(), reuse: Reuse::default() }
    }

    /// The base URL, without trailing slash.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The listening address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many instances of a component were made so far.
    pub fn instances(&self, component: &str) -> usize {
        self.components.get(component).map_or(0, |(_, counters)| counters.created.load(Ordering::Relaxed))
    }

    /// How many instances of a component ended by a trap, or failed to start.
    pub fn traps(&self, component: &str) -> usize {
        self.components.get(component).map_or(0, |(_, counters)| counters.trapped.load(Ordering::Relaxed))
    }

    /// What the components wrote to standard output and error, and why instances ended, line by line under the
    /// component's id.
    pub fn logs(&self) -> String {
        let mut logs = String::new();
        for (id, (config, counters)) in &self.components {
            let written = config.log.contents();
            let written = String::from_utf8_lossy(&written);
            let errors = counters.errors.lock().unwrap_or_else(PoisonError::into_inner);
            for line in written.lines().chain(errors.iter().flat_map(|error| error.lines())) {
                logs.extend([id.as_str(), "| ", line, "\n"]);
            }
        }
        logs
    }
}

impl Drop for SpinApp {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        if std::thread::panicking() {
            show(&self.logs());
        }
    }
}

#[expect(clippy::print_stderr, reason = "the test runner keeps standard error with the failing test")]
fn show(logs: &str) {
    eprintln!("--- components' output ---\n{logs}--- end of the components' output ---");
}
