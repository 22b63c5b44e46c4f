//! The checked settings.
//!
//! [`Config::load`] reads every setting before it fails, so that the operator sees all mistakes at once. It never
//! repeats a secret value.

mod host_address;
mod hosts;
mod reader;
pub mod settings;

use std::time::Duration;

use http::HeaderName;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

pub use crate::api::body::{BodyLimit, BodyLimits};
use crate::{
    api::{auth::ApiKeys, cors::Origins},
    cache::{CacheMode, CacheModes, CacheSharing},
    config::settings::{Deployment, Settings},
    fleet::{BackendHost, HostName, Policy},
    platform::Timeouts,
    session::HistoryLimits,
    store::StoreTimeouts,
};
pub use reader::SettingsReader;
pub(crate) use reader::duration;

/// The checked settings.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// The backend hosts with an address of their own; at least one, unless there are host names.
    pub hosts: Vec<BackendHost>,
    /// Host names whose addresses are all hosts; native only. A [`Roster`](crate::fleet::Roster) makes one list of
    /// both.
    pub names: Vec<HostName>,
    /// The order in which hosts are tried.
    pub policy: Policy,
    /// The most requests that may wait for a slot.
    pub queue_limit: usize,
    /// The longest time that a request waits for a slot.
    pub queue_timeout: Duration,
    /// The least time without a first byte of a loaded model after which a host may count as hung.
    pub hung_after: Duration,
    /// The pause between two background probes of a host.
    pub probe_interval: Duration,
    /// The limit for connecting to a host for a probe.
    pub probe_connect_timeout: Duration,
    /// The model of requests that name none.
    pub default_model: String,
    /// Which requests the cache may answer.
    pub cache_modes: CacheModes,
    /// Which callers share cached answers.
    pub cache_scope: CacheSharing,
    /// How long a cached answer is kept.
    pub cache_ttl: Duration,
    /// The largest answer that the cache keeps, in bytes.
    pub cache_max_entry: u64,
    /// The pause after each event of a stream from the cache; `None` for none.
    pub cache_replay_pause: Option<Duration>,
    /// How long the answer to a request with an `Idempotency-Key` is kept.
    pub idempotency_ttl: Duration,
    /// How long a session is kept after its last use.
    pub session_ttl: Duration,
    /// Whether a turn of a session fails when the session store is down.
    pub session_required: bool,
    /// How much history is put before a request's messages.
    pub history: HistoryLimits,
    /// The limits of request bodies.
    pub body_limits: BodyLimits,
    /// The timeouts of an upstream call whose answer is streamed.
    pub limits: Timeouts,
    /// The time limit of an answer in one piece.
    pub total_timeout: Duration,
    /// The time limit for what only the client can do, such as sending its body.
    pub client_timeout: Duration,
    /// The time limit of each host's probe in `/health`.
    pub health_timeout: Duration,
    /// Whether `/health` answers 200 even when no host answers.
    pub health_always_ok: bool,
    /// The keys that open the service.
    pub api_keys: ApiKeys,
    /// The key that may manage models and purge the cache.
    pub admin_token: ApiKeys,
    /// Whether every caller may manage models.
    pub allow_model_management: bool,
    /// The allowed origins of web pages.
    pub origins: Origins,
    /// The trusted header that identifies the caller.
    pub caller_header: Option<HeaderName>,
    /// The Redis settings, if Redis is used.
    pub redis: Option<RedisConfig>,
    /// The prefix of every Redis key.
    pub redis_prefix: String,
    /// The memory limit of the embedded store, in bytes.
    pub memory_limit: u64,
    /// The settings of the store on disk, if it is used.
    pub data: Option<DataConfig>,
}

/// The embedded store on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DataConfig {
    /// The directory of the database.
    pub directory: String,
    /// The disk space that it may take, in bytes.
    pub limit: u64,
}

/// The address of Redis, and its time limits.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisConfig {
    /// `redis://` or `rediss://` with credentials and database: the server, or nodes of the cluster.
    pub urls: Vec<String>,
    /// Whether the servers are a Redis Cluster; natively only.
    pub is_cluster: bool,
    /// A file with the only certificates that may vouch for a server with TLS; native only.
    pub ca_file: Option<String>,
    /// How many replicas must have a turn before it is acknowledged.
    pub wait_replicas: u32,
    /// The time limits.
    pub limits: StoreTimeouts,
}

impl std::fmt::Debug for RedisConfig {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("RedisConfig").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// A configuration with warnings for the operator.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The checked settings.
    pub config: Config,
    /// The settings that were ignored and why, one sentence each.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads and checks every setting.
    ///
    /// # Errors
    /// One sentence per mistake, all of them.
    pub fn load(settings: &impl Settings, form: Deployment) -> Result<Loaded, Vec<String>> {
        let mut reader = SettingsReader::new(settings, form);
        let (hosts, names) = hosts::read(&mut reader);
        let config = Self {
            hosts,
            names,
            policy: reader.parsed("LB_POLICY", Policy::parse).unwrap_or(Policy::Auto),
            queue_limit: reader.number("QUEUE_LIMIT"),
            queue_timeout: reader.duration("QUEUE_TIMEOUT"),
            hung_after: reader.duration("HUNG_AFTER"),
            probe_interval: match form {
                Deployment::Native => reader.duration("PROBE_INTERVAL"),
                Deployment::Spin => Duration::ZERO,
            },
            probe_connect_timeout: reader.duration("PROBE_CONNECT_TIMEOUT"),
            default_model: reader.text("DEFAULT_MODEL"),
            cache_modes: cache_modes(&mut reader),
            cache_scope: reader.parsed("CACHE_SCOPE", CacheSharing::parse).unwrap_or_default(),
            cache_ttl: reader.duration("CACHE_TTL"),
            cache_max_entry: reader.bytes("CACHE_MAX_ENTRY"),
            cache_replay_pause: Some(reader.duration("CACHE_REPLAY_PAUSE")).filter(|pause| !pause.is_zero()),
            idempotency_ttl: reader.duration("IDEMPOTENCY_TTL"),
            session_ttl: reader.duration("SESSION_TTL"),
            session_required: reader.flag("SESSION_REQUIRED"),
            history: HistoryLimits {
                messages: reader.number("HISTORY_MAX_MESSAGES"),
                bytes: usize::try_from(reader.bytes("HISTORY_MAX_BYTES")).unwrap_or(usize::MAX),
                // The limit in tokens depends on the model and is computed for each request.
                tokens: usize::MAX,
            },
            body_limits: body_limits(&mut reader),
            limits: Timeouts {
                connect: reader.duration("CONNECT_TIMEOUT"),
                first_byte: reader.duration("FIRST_BYTE_TIMEOUT"),
                between_bytes: reader.duration("BETWEEN_BYTES_TIMEOUT"),
                total: None,
            },
            total_timeout: reader.duration("TOTAL_TIMEOUT"),
            client_timeout: reader.duration("CLIENT_TIMEOUT"),
            health_timeout: reader.duration("HEALTH_TIMEOUT"),
            health_always_ok: match form {
                Deployment::Native => reader.flag("HEALTH_ALWAYS_200"),
                Deployment::Spin => reader.flag("HEALTH_ALWAYS_OK"),
            },
            api_keys: ApiKeys::parse(&reader.text("API_KEYS")),
            admin_token: ApiKeys::parse(&reader.text("ADMIN_TOKEN")),
            allow_model_management: reader.flag("ALLOW_MODEL_MANAGEMENT"),
            origins: reader.parsed("CORS_ALLOW_ORIGINS", Origins::parse).unwrap_or_default(),
            caller_header: reader.parsed("CALLER_HEADER", |name| {
                let fault = |_| "must be the name of a header, such as x-forwarded-user".to_owned();
                HeaderName::try_from(name).map_err(fault)
            }),
            redis: redis(&mut reader),
            redis_prefix: reader.text("REDIS_PREFIX"),
            memory_limit: match form {
                Deployment::Native => reader.bytes("MEMORY_LIMIT"),
                Deployment::Spin => 0,
            },
            data: data(&mut reader),
        };
        reader.finish(config).map(|(config, warnings)| Loaded { config, warnings })
    }

    /// The timeouts of an upstream call whose answer comes in one piece.
    pub(crate) fn whole_limits(&self) -> Timeouts {
        let limit = self.total_timeout;
        Timeouts { first_byte: limit, between_bytes: limit, total: Some(limit), ..self.limits }
    }

    /// The timeouts of a probe of one host, which must answer within [`Config::health_timeout`].
    pub(crate) fn probe_limits(&self) -> Timeouts {
        let limit = self.health_timeout;
        Timeouts {
            connect: self.probe_connect_timeout.min(limit),
            first_byte: limit,
            between_bytes: limit,
            total: Some(limit),
        }
    }
}

fn data(reader: &mut SettingsReader<'_, impl Settings>) -> Option<DataConfig> {
    if reader.form() == Deployment::Spin {
        return None;
    }
    let limit = reader.bytes("DATA_LIMIT");
    if !reader.is_set("DATA_DIR") {
        return None;
    }
    for name in ["REDIS_URL", "REDIS_HOST"] {
        if reader.is_set(name) {
            reader.warning(format!("DATA_DIR is ignored because {name} is set: state is kept in Redis"));
            return None;
        }
    }
    Some(DataConfig { directory: reader.text("DATA_DIR"), limit })
}

fn body_limits(reader: &mut SettingsReader<'_, impl Settings>) -> BodyLimits {
    let other = BodyLimit { setting: "BODY_LIMIT", bytes: reader.bytes("BODY_LIMIT") };
    let mut limit = |setting: &'static str| {
        // Changing only the general limit changes the limit of every body.
        let is_general = reader.is_changed("BODY_LIMIT") && !reader.is_changed(setting);
        let setting = if is_general { "BODY_LIMIT" } else { setting };
        let bytes = if setting == "BODY_LIMIT" { other.bytes } else { reader.bytes(setting) };
        BodyLimit { setting, bytes }
    };
    BodyLimits {
        chat: limit("CHAT_BODY_LIMIT"),
        ollama: limit("API_BODY_LIMIT"),
        openai: limit("OPENAI_BODY_LIMIT"),
        anthropic: limit("ANTHROPIC_BODY_LIMIT"),
        other,
    }
}

fn cache_modes(reader: &mut SettingsReader<'_, impl Settings>) -> CacheModes {
    let general = reader.parsed("CACHE_MODE", CacheMode::parse).unwrap_or_default();
    let models = reader.parsed("CACHE_MODELS", CacheModes::parse_models).unwrap_or_default();
    if reader.flag("CACHE_ENABLED") {
        CacheModes::new(general, models)
    } else {
        CacheModes::new(CacheMode::Off, Vec::new())
    }
}

fn redis(reader: &mut SettingsReader<'_, impl Settings>) -> Option<RedisConfig> {
    let limits =
        StoreTimeouts { ask: reader.duration("REDIS_TIMEOUT"), keep: reader.duration("REDIS_WRITE_TIMEOUT") };
    if reader.text("REDIS_PREFIX").contains(['{', '}']) {
        reader.problem("REDIS_PREFIX", "must hold no braces, which would part keys that belong together");
    }
    let wait_replicas = reader.number("SESSION_WAIT_REPLICAS");
    let is_native = reader.form() == Deployment::Native;
    let is_cluster = is_native && reader.flag("REDIS_CLUSTER");
    let ca_file = Some(reader.text("REDIS_CA_FILE")).filter(|path| is_native && !path.is_empty());
    let urls = if is_native && reader.is_set("REDIS_URL") {
        redis_urls(reader, is_cluster)
    } else {
        vec![redis_from_parts(reader)?]
    };
    if is_cluster && urls.iter().any(|url| !matches!(database(url), "" | "0")) {
        reader.problem(
            "REDIS_CLUSTER",
            "must be false for a database other than 0, the only one a cluster has",
        );
    }
    if ca_file.is_some() && !urls.iter().all(|url| url.starts_with("rediss://")) {
        reader.problem("REDIS_CA_FILE", "is for TLS: the address must begin with rediss://");
    }
    Some(RedisConfig { urls, is_cluster, ca_file, wait_replicas, limits })
}

fn redis_urls(reader: &mut SettingsReader<'_, impl Settings>, is_cluster: bool) -> Vec<String> {
    let text = reader.text("REDIS_URL");
    let urls: Vec<_> = text.split(',').map(|url| url.trim().to_owned()).collect();
    if !urls.iter().all(|url| ["redis://", "rediss://"].iter().any(|scheme| url.starts_with(scheme))) {
        reader.problem("REDIS_URL", "must begin with redis:// or rediss://; a comma in a password is %2C");
    } else if urls.len() > 1 && !is_cluster {
        reader.problem("REDIS_URL", "may name several nodes of a cluster only: set REDIS_CLUSTER=true");
    }
    if reader.is_set("REDIS_HOST") {
        reader.warning("REDIS_HOST is ignored because REDIS_URL is set".to_owned());
    }
    urls
}

/// The database number in a URL, as text.
fn database(url: &str) -> &str {
    let (_, rest) = url.split_once("://").unwrap_or_default();
    let (_, path) = rest.rsplit_once('@').unwrap_or(("", rest)).1.split_once('/').unwrap_or_default();
    path.split('?').next().unwrap_or_default()
}

/// The URL made of the single settings, which Spin needs because its outbound rules accept no credentials.
fn redis_from_parts(reader: &mut SettingsReader<'_, impl Settings>) -> Option<String> {
    let scheme = reader.text("REDIS_SCHEME");
    if !["redis", "rediss"].contains(&scheme.as_str()) {
        reader.problem("REDIS_SCHEME", "must be redis or rediss");
    }
    // Kubernetes gives every pod the address of each service; a service named redis sets a variable of this name.
    let port = if reader.text("REDIS_PORT").starts_with("tcp://") {
        reader.warning(
            "REDIS_PORT is ignored: tcp://... comes from Kubernetes, not from you; the port is 6379"
                .to_owned(),
        );
        6379
    } else {
        reader.port("REDIS_PORT")
    };
    let database: u32 = reader.number("REDIS_DB");
    let user = reader.text("REDIS_USERNAME");
    let password = reader.text("REDIS_PASSWORD");
    let host = reader.text("REDIS_HOST");
    if host.is_empty() {
        // A Spin component without this variable does not use Redis.
        if reader.form() == Deployment::Spin && reader.is_given("REDIS_HOST") {
            reader.problem(
                "REDIS_HOST",
                "must not be empty on Spin, which then denies every outbound call; without Redis keep 127.0.0.1",
            );
        }
        return None;
    }
    if host.contains(['/', '@', ' ']) || host.contains("://") {
        reader.problem("REDIS_HOST", "must be a name or an address without scheme, port or credentials");
    }
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let credentials = if password.is_empty() && user.is_empty() {
        String::new()
    } else {
        format!("{}:{}@", encode(&user), encode(&password))
    };
    let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host };
    Some(format!("{scheme}://{credentials}{host}:{port}/{database}"))
}

#[cfg(test)]
mod tests;
