//! Reads where state is kept: in Redis, on disk, or in memory alone.
//!
//! It never repeats a credential of an address.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    BodyLimits, CacheConfig, SettingsReader,
    settings::{Deployment, Settings},
};
use crate::store::StoreTimeouts;

/// What the longest reply of Redis holds beside the body of a request: the answer to it, and what else its session has.
const REPLY_ROOM: u64 = 24 << 20;

/// Where state is kept.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StoreConfig {
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
    /// The most bytes of answers; `None` for what the server's memory suggests.
    pub cache_limit: Option<u64>,
    /// The longest reply that is read, in bytes. Whatever is longer was not stored by Paddock.
    pub reply_limit: u64,
    /// The time limits.
    pub limits: StoreTimeouts,
}

impl std::fmt::Debug for RedisConfig {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("RedisConfig").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl StoreConfig {
    pub(super) fn read(
        reader: &mut SettingsReader<'_, impl Settings>,
        bodies: &BodyLimits,
        cache: &CacheConfig,
    ) -> Self {
        Self {
            redis: redis(reader, reply_limit(bodies, cache)),
            redis_prefix: reader.text("REDIS_PREFIX"),
            memory_limit: match reader.form() {
                Deployment::Native => reader.bytes("MEMORY_LIMIT"),
                Deployment::Spin => 0,
            },
            data: data(reader),
        }
    }
}

/// The longest reply: a turn whose question and answer are as long as they may be with the rest of its session, or what
/// follows of an answer that two replicas share, of which twice the longest entry of the cache is kept.
fn reply_limit(bodies: &BodyLimits, cache: &CacheConfig) -> u64 {
    let BodyLimits { chat, ollama, openai, anthropic, other } = bodies;
    let body = [chat, ollama, openai, anthropic, other].map(|limit| limit.bytes).into_iter().max();
    body.unwrap_or_default().max(cache.max_entry.saturating_mul(2)).saturating_add(REPLY_ROOM)
}

fn redis(reader: &mut SettingsReader<'_, impl Settings>, reply_limit: u64) -> Option<RedisConfig> {
    let limits =
        StoreTimeouts { ask: reader.duration("REDIS_TIMEOUT"), keep: reader.duration("REDIS_WRITE_TIMEOUT") };
    if reader.text("REDIS_PREFIX").contains(['{', '}']) {
        reader.problem("REDIS_PREFIX", "must hold no braces, which would part keys that belong together");
    }
    let wait_replicas = reader.number("SESSION_WAIT_REPLICAS");
    let cache_limit = reader.is_set("REDIS_CACHE_LIMIT").then(|| reader.bytes("REDIS_CACHE_LIMIT"));
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
    Some(RedisConfig { urls, is_cluster, ca_file, wait_replicas, cache_limit, reply_limit, limits })
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
