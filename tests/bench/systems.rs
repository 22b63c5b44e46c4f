//! What is measured: each system with how it is started and what it is asked.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use paddock_tests::{
    redis_server::RedisServer,
    spin::{SpinApp, manifest::Manifest},
};
use tempfile::TempDir;

use crate::{
    load::{Question, Target},
    process::{self, Processes},
    report,
};

/// The word that makes this program the upstream.
pub(crate) const UPSTREAM: &str = "upstream";
/// The word that makes this program serve the component.
pub(crate) const COMPONENT: &str = "component";

/// The names that aims are checked by.
pub(crate) const DIRECT: &str = "upstream direct";
pub(crate) const NGINX: &str = "nginx";
pub(crate) const MISS: &str = "host-shim miss, embedded";
pub(crate) const HIT: &str = "host-shim hit, embedded";
pub(crate) const HIT_REDIS: &str = "host-shim hit, Redis";
pub(crate) const ALIVE: &str = "host-shim `/livez` beside 4 clients with 18 MiB each";

/// One system under measurement.
#[derive(Debug)]
pub(crate) struct System {
    pub(crate) name: &'static str,
    /// Whether it is the earlier binary that the others are compared with.
    pub(crate) is_baseline: bool,
    pub(crate) target: Target,
    /// What other clients ask it while it is measured.
    pub(crate) beside: Option<Target>,
    pub(crate) processes: Arc<Processes>,
}

/// A started system and where it listens.
type Started = Result<(Arc<Processes>, SocketAddr)>;

/// All of them, running.
#[derive(Debug)]
pub(crate) struct Systems {
    pub(crate) all: Vec<System>,
    nginx: Option<String>,
    _redis: Arc<RedisServer>,
    _upstream: Arc<Processes>,
    _files: TempDir,
}

impl Systems {
    /// Starts every system whose name holds `only`, those of `host-shim` with the `baseline` beside it as well.
    pub(crate) fn start(host_shim: &Path, baseline: Option<&Path>, only: &str) -> Result<Self> {
        let files = tempfile::tempdir()?;
        let redis = RedisServer::shared()?;
        let (upstream, upstream_address) = Processes::again(&[UPSTREAM.to_owned()])?;
        let upstream = Arc::new(upstream);
        let nginx = nginx_version();
        let mut all = Vec::new();
        let mut add = |name: &'static str, is_baseline, question, start: &dyn Fn() -> Started| {
            if !name.contains(only) {
                return Ok(());
            }
            let (processes, address) = start().with_context(|| name)?;
            let beside = (name == ALIVE).then(|| Target::new(address, Question::Large));
            let target = Target::new(address, question);
            all.push(System { name, is_baseline, target, beside, processes });
            anyhow::Ok(())
        };
        add(DIRECT, false, Question::Ollama, &|| Ok((Arc::clone(&upstream), upstream_address)))?;
        if nginx.is_some() {
            add(NGINX, false, Question::Ollama, &|| start_nginx(files.path(), upstream_address, "off"))?;
            add("nginx, access log on", false, Question::Ollama, &|| {
                start_nginx(files.path(), upstream_address, "/dev/null")
            })?;
        } else {
            report::say("nginx is not on the PATH: its rows are left out");
        }
        let prefix =
            |name: &str| format!("paddock-bench-{}-{}", std::process::id(), name.replace([' ', ','], "-"));
        let shim = |binary: &Path, name: &str, with_redis: bool| {
            let address = process::free_address()?;
            let mut command = Command::new(binary);
            command.env_clear().env("LISTEN", address.to_string());
            // The others limit nothing: what waits in a queue says nothing of how fast it is passed on.
            command.env("OLLAMA_HOSTS", format!("http://{upstream_address};parallel=64"));
            if with_redis {
                command.env("REDIS_URL", redis.url().as_str()).env("REDIS_PREFIX", prefix(name));
            }
            Ok((Arc::new(Processes::start(&mut command, address)?), address))
        };
        let binaries = [(Some(host_shim), false), (baseline, true)];
        for (name, question, with_redis) in [
            ("host-shim relay", Question::Ollama, false),
            (MISS, Question::New, false),
            ("host-shim miss, Redis", Question::New, true),
            (HIT, Question::Repeated, false),
            (HIT_REDIS, Question::Repeated, true),
            (ALIVE, Question::Alive, false),
        ] {
            for (binary, is_baseline) in binaries {
                let Some(binary) = binary else { continue };
                let words = format!("{name} {is_baseline}");
                add(name, is_baseline, question, &|| shim(binary, &words, with_redis))?;
            }
        }
        let component = |name: &str| {
            let url = redis.url();
            let variables = [
                COMPONENT.to_owned(),
                format!("ollama_host=http://{upstream_address}"),
                "host_parallel=64".to_owned(),
                format!("redis_host={}", url.host_str().unwrap_or("127.0.0.1")),
                format!("redis_port={}", url.port().unwrap_or(6379)),
                format!("redis_username={}", url.username()),
                format!("redis_password={}", url.password().unwrap_or_default()),
                format!("redis_db={}", url.path().trim_start_matches('/')),
                format!("redis_prefix={}", prefix(name)),
            ];
            let (processes, address) = Processes::again(&variables)?;
            Ok((Arc::new(processes), address))
        };
        add("component relay", false, Question::Ollama, &|| component("component-relay"))?;
        add("component miss, Redis", false, Question::New, &|| component("component-miss"))?;
        add("component hit, Redis", false, Question::Repeated, &|| component("component-hit"))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        for system in &all {
            runtime.block_on(system.target.prime()).with_context(|| system.name)?;
        }
        Ok(Self { all, nginx, _redis: redis, _upstream: upstream, _files: files })
    }

    /// What a reader must know of the run.
    pub(crate) fn stats(&self, host_shim: &Path) -> Result<HostStats> {
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Ok(HostStats {
            processor: model.map_or("unknown", |(_, name)| name.trim()).to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            nginx: self.nginx.clone(),
            binary: fs::metadata(host_shim)?.len(),
        })
    }
}

/// The machine and the programs.
#[derive(Debug)]
pub(crate) struct HostStats {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) nginx: Option<String>,
    /// The size of the native binary in bytes.
    pub(crate) binary: u64,
}

/// The version of the nginx on the `PATH`, if there is one.
fn nginx_version() -> Option<String> {
    let output = Command::new("nginx").arg("-v").output().ok()?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    Some(words.trim().trim_start_matches("nginx version: ").to_owned())
}

/// nginx as a plain reverse proxy that keeps its connections on both sides.
fn start_nginx(files: &Path, upstream: SocketAddr, access_log: &str) -> Started {
    let address = process::free_address()?;
    let directory = files.join(address.port().to_string());
    fs::create_dir(&directory)?;
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {};\n", directory.join(kind).display()))
        .concat();
    let config = format!(
        "daemon off;
worker_processes auto;
pid {pid};
events {{ worker_connections 512; }}
http {{
    {temporary}
    access_log {access_log};
    keepalive_requests 1000000000;
    upstream ollama {{ server {upstream}; keepalive 64; keepalive_requests 1000000000; }}
    server {{
        listen {address};
        location / {{ proxy_pass http://ollama; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}
    }}
}}
",
        pid = directory.join("pid").display(),
    );
    let path: PathBuf = directory.join("nginx.conf");
    fs::write(&path, config)?;
    let mut command = Command::new("nginx");
    command.arg("-e").arg(directory.join("error.log")).arg("-p").arg(&directory).arg("-c").arg(&path);
    Ok((Arc::new(Processes::start(&mut command, address)?), address))
}

/// Serves the components in wasmtime as Spin does, until the parent ends.
pub(crate) fn serve_component(variables: &[&str]) -> Result<()> {
    let mut app = SpinApp::from_manifest(Manifest::workspace_path());
    for variable in variables {
        let (name, value) = variable.split_once('=').context("a variable is NAME=VALUE")?;
        app = app.variable(name, value);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let app = runtime.block_on(app.start())?;
    process::announce(app.address())?;
    process::wait_for_parent();
    if app.traps("chat") > 0 {
        report::say(&app.logs());
    }
    Ok(())
}
