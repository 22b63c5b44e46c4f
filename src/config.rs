//! The checked settings.
//!
//! [`Config::load`] reads every setting before it fails, so that the operator sees all mistakes at once. It never
//! repeats a secret value.

mod host_address;
mod hosts;
pub mod own_address;
mod reader;
pub mod settings;
mod store;

use std::time::Duration;

use http::{HeaderName, request::Parts};
use sha2::{Digest as _, Sha256};

pub use crate::api::body::{BodyLimit, BodyLimits};
use crate::{
    api::{
        allowed_hosts::AllowedHosts,
        auth::{AdminToken, ApiKeys},
        cors::Origins,
    },
    cache::{CacheMode, CacheModes, CacheSharing},
    config::settings::{Deployment, Settings},
    fleet::{BackendHost, HostName, Policy},
    platform::Timeouts,
    session::HistoryLimits,
};
pub use reader::SettingsReader;
pub(crate) use reader::duration;
pub use store::{DataConfig, RedisConfig, StoreConfig};

/// The least memory budget of a process whose memory is not limited, in bytes.
pub(crate) const MACHINE_BUDGET: u64 = 256 << 20;
/// The memory budget of a Spin instance, in bytes.
const INSTANCE_BUDGET: u64 = 64 << 20;
/// The least memory budget that is derived from a limit, in bytes: some bodies of usual size.
const LEAST_BUDGET: u64 = 8 << 20;
/// How many times `HEALTH_TIMEOUT` a look in the background may take.
const PATIENT_LOOK: u32 = 3;
/// What the process needs besides the store and bodies, in bytes.
const PROCESS: u64 = 48 << 20;

/// The checked settings. [`Config::load`] makes them, from wherever an embedder keeps its settings; where it keeps none,
/// `&|_: &str| None` gives each its default. Every field may be changed before a service is made of them.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// The hosts, and how requests are given to them.
    pub fleet: FleetConfig,
    /// The response cache.
    pub cache: CacheConfig,
    /// The sessions.
    pub sessions: SessionConfig,
    /// The time limits.
    pub timeouts: TimeoutConfig,
    /// Who may ask for what, and how much a request may bring.
    pub access: AccessConfig,
    /// Where state is kept.
    pub store: StoreConfig,
}

/// The hosts, and how requests are given to them.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FleetConfig {
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
    /// What tells this process from another one with the same settings, in the mark of what it asks hosts. 0 where many
    /// short-lived instances are one service.
    pub hop_seed: u64,
}

/// The response cache.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CacheConfig {
    /// Which requests the cache may answer.
    pub modes: CacheModes,
    /// Which callers share cached answers.
    pub sharing: CacheSharing,
    /// How long a cached answer is kept.
    pub ttl: Duration,
    /// The largest answer that the cache keeps, in bytes.
    pub max_entry: u64,
    /// The pause after each event of a stream from the cache; `None` for none.
    pub replay_pause: Option<Duration>,
    /// How long the answer to a request with an `Idempotency-Key` is kept.
    pub idempotency_ttl: Duration,
}

/// The sessions.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SessionConfig {
    /// How long a session is kept after its last use.
    pub ttl: Duration,
    /// The longest time to live that a client may ask for.
    pub ttl_max: Duration,
    /// Whether a turn of a session fails when the session store is down.
    pub is_required: bool,
    /// How much history is put before a request's messages.
    pub history: HistoryLimits,
}

/// The time limits.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TimeoutConfig {
    /// The timeouts of an upstream call whose answer is streamed.
    pub upstream: Timeouts,
    /// The time limit of an answer in one piece.
    pub total: Duration,
    /// The time limit for what only the client can do, such as sending its body.
    pub client: Duration,
    /// The time limit of each host's probe in `/health`.
    pub health: Duration,
}

/// Who may ask for what, and how much a request may bring.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AccessConfig {
    /// The limits of request bodies.
    pub body_limits: BodyLimits,
    /// The bytes of request bodies that the process, or the Spin instance, holds at once. Natively an unset budget is left
    /// to the host, which knows the machine: see [`memory_budget_of`]; without it there are 256 MiB.
    pub memory_budget: Option<u64>,
    /// Whether `/health` answers 200 even when no host answers.
    pub health_always_ok: bool,
    /// The keys that open the service.
    pub api_keys: ApiKeys,
    /// The key that may manage models and purge the cache.
    pub admin_token: AdminToken,
    /// Whether every caller may manage models.
    pub allow_model_management: bool,
    /// The host names that are allowed beside addresses and local names.
    pub allowed_hosts: AllowedHosts,
    /// Whether only this machine can connect. No setting says so: an embedder that listens on a loopback address does.
    pub is_loopback: bool,
    /// The machine's own name, which is allowed as local names are. An embedder that knows it says so.
    pub machine_name: Option<String>,
    /// The allowed origins of web pages.
    pub origins: Origins,
    /// The trusted header that identifies the caller.
    pub caller_header: Option<HeaderName>,
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
        // Mistakes are listed in the order in which the settings are read here.
        let fleet = FleetConfig::read(&mut reader);
        let cache = CacheConfig::read(&mut reader);
        let sessions = SessionConfig::read(&mut reader);
        let body_limits = body_limits(&mut reader);
        let timeouts = TimeoutConfig::read(&mut reader);
        let access = AccessConfig::read(&mut reader, body_limits);
        let store = StoreConfig::read(&mut reader, &access.body_limits, &cache);
        let config = Self { fleet, cache, sessions, timeouts, access, store };
        reader.finish(config).map(|(config, warnings)| Loaded { config, warnings })
    }

    /// The timeouts of an upstream call whose answer comes in one piece.
    pub(crate) fn whole_limits(&self) -> Timeouts {
        let limit = self.timeouts.total;
        Timeouts { first_byte: limit, between_bytes: limit, total: Some(limit), ..self.timeouts.upstream }
    }

    /// The timeouts of a look in the background, for which nobody waits: a host with many models on a slow disk takes long
    /// for its list.
    pub(crate) fn watch_limits(&self) -> Timeouts {
        let limit = self.timeouts.health * PATIENT_LOOK;
        Timeouts { first_byte: limit, between_bytes: limit, total: Some(limit), ..self.probe_limits() }
    }

    /// The timeouts of a probe of one host, which must answer within [`TimeoutConfig::health`].
    pub(crate) fn probe_limits(&self) -> Timeouts {
        let limit = self.timeouts.health;
        Timeouts {
            connect: self.fleet.probe_connect_timeout.min(limit),
            first_byte: limit,
            between_bytes: limit,
            total: Some(limit),
        }
    }

    /// The number of the service in the mark of what it asks hosts. All instances of one deployment have the same, and two
    /// deployments with the same hosts seldom do: they differ in where they keep state. Hosts see it, so no secret is in it.
    pub(crate) fn hop_id(&self) -> u64 {
        let (fleet, store) = (&self.fleet, &self.store);
        let mut digest = Sha256::new_with_prefix(fleet.hop_seed.to_be_bytes());
        // Each part has its length before it, so that no two lists of parts are the same bytes.
        let mut mix = |part: &[u8]| {
            digest.update(part.len().to_be_bytes());
            digest.update(part);
        };
        for host in &fleet.hosts {
            mix(host.url().as_bytes());
        }
        mix(b"names");
        for name in &fleet.names {
            mix(name.host.as_bytes());
            mix(&name.port.to_be_bytes());
        }
        mix(b"store");
        mix(store.redis_prefix.as_bytes());
        for url in store.redis.iter().flat_map(|redis| &redis.urls) {
            // The password stands before the address.
            let address = url.rsplit_once('@').or_else(|| url.split_once("://"));
            mix(address.map_or(url.as_str(), |(_, address)| address).as_bytes());
        }
        digest.finalize().iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte))
    }
}

impl FleetConfig {
    fn read(reader: &mut SettingsReader<'_, impl Settings>) -> Self {
        let (hosts, names) = hosts::read(reader);
        Self {
            hosts,
            names,
            policy: reader.parsed("LB_POLICY", Policy::parse).unwrap_or(Policy::Auto),
            queue_limit: reader.number("QUEUE_LIMIT"),
            queue_timeout: reader.duration("QUEUE_TIMEOUT"),
            hung_after: reader.duration("HUNG_AFTER"),
            probe_interval: match reader.form() {
                Deployment::Native => reader.duration("PROBE_INTERVAL"),
                Deployment::Spin => Duration::ZERO,
            },
            probe_connect_timeout: reader.duration("PROBE_CONNECT_TIMEOUT"),
            default_model: reader.text("DEFAULT_MODEL"),
            hop_seed: 0,
        }
    }
}

impl CacheConfig {
    fn read(reader: &mut SettingsReader<'_, impl Settings>) -> Self {
        Self {
            modes: cache_modes(reader),
            sharing: reader.parsed("CACHE_SCOPE", CacheSharing::parse).unwrap_or_default(),
            ttl: reader.duration("CACHE_TTL"),
            max_entry: reader.bytes("CACHE_MAX_ENTRY"),
            replay_pause: Some(reader.duration("CACHE_REPLAY_PAUSE")).filter(|pause| !pause.is_zero()),
            idempotency_ttl: reader.duration("IDEMPOTENCY_TTL"),
        }
    }
}

impl SessionConfig {
    fn read(reader: &mut SettingsReader<'_, impl Settings>) -> Self {
        Self {
            ttl: reader.duration("SESSION_TTL"),
            ttl_max: reader.duration("SESSION_TTL_MAX"),
            is_required: reader.flag("SESSION_REQUIRED"),
            history: HistoryLimits {
                messages: reader.number("HISTORY_MAX_MESSAGES"),
                bytes: usize::try_from(reader.bytes("HISTORY_MAX_BYTES")).unwrap_or(usize::MAX),
                // The limit in tokens depends on the model and is computed for each request.
                tokens: usize::MAX,
            },
        }
    }
}

impl TimeoutConfig {
    fn read(reader: &mut SettingsReader<'_, impl Settings>) -> Self {
        Self {
            upstream: Timeouts {
                connect: reader.duration("CONNECT_TIMEOUT"),
                first_byte: reader.duration("FIRST_BYTE_TIMEOUT"),
                between_bytes: reader.duration("BETWEEN_BYTES_TIMEOUT"),
                total: None,
            },
            total: reader.duration("TOTAL_TIMEOUT"),
            client: reader.duration("CLIENT_TIMEOUT"),
            health: reader.duration("HEALTH_TIMEOUT"),
        }
    }
}

impl AccessConfig {
    /// Whether callers can be verified: they show keys, or a proxy names them. Which caller is, its `CallerId` knows.
    pub(crate) fn verifies_callers(&self) -> bool {
        !self.api_keys.is_open() || self.caller_header.is_some()
    }

    fn read(reader: &mut SettingsReader<'_, impl Settings>, body_limits: BodyLimits) -> Self {
        Self {
            body_limits,
            memory_budget: memory_budget(reader),
            health_always_ok: match reader.form() {
                Deployment::Native => reader.flag("HEALTH_ALWAYS_200"),
                Deployment::Spin => reader.flag("HEALTH_ALWAYS_OK"),
            },
            api_keys: api_keys(reader),
            admin_token: admin_token(reader),
            allow_model_management: reader.flag("ALLOW_MODEL_MANAGEMENT"),
            allowed_hosts: reader.parsed("ALLOWED_HOSTS", AllowedHosts::parse).unwrap_or_default(),
            is_loopback: false,
            machine_name: None,
            origins: reader.parsed("CORS_ALLOW_ORIGINS", Origins::parse).unwrap_or_default(),
            caller_header: reader.parsed("CALLER_HEADER", |name| {
                let fault = |_| "must be the name of a header, such as x-forwarded-user".to_owned();
                HeaderName::try_from(name).map_err(fault)
            }),
        }
    }
}

impl AccessConfig {
    /// Whether the client may address the service by the names that its request holds. Without the setting they matter
    /// where only this machine can connect and no key is needed: there a web page, whose name can be made to lead here,
    /// would get in as nobody else outside could.
    pub(crate) fn allows_host(&self, parts: &Parts) -> bool {
        let is_checked = self.allowed_hosts.is_set() || self.is_loopback && self.api_keys.is_open();
        !is_checked || self.allowed_hosts.allow(parts, self.machine_name.as_deref())
    }
}

/// The API keys. A list without a key would open the service to everybody, which a list of unset variables must not do.
/// An empty text is no list: it means unset, as for every other setting.
fn api_keys(reader: &mut SettingsReader<'_, impl Settings>) -> ApiKeys {
    let keys = ApiKeys::parse(&reader.text("API_KEYS"));
    if keys.is_open() && reader.raw("API_KEYS").is_some_and(|list| !list.is_empty()) {
        reader.problem(
            "API_KEYS",
            "holds no key, only commas or blanks; set a key, or leave it unset to open the service",
        );
    }
    keys
}

/// The admin token. Whoever sets one wants a guard, so a blank one is a mistake; on Spin a variable that is not set is
/// empty.
fn admin_token(reader: &mut SettingsReader<'_, impl Settings>) -> AdminToken {
    let is_native = reader.form() == Deployment::Native;
    let token = AdminToken::parse(&reader.text("ADMIN_TOKEN"));
    let is_blank = |token: &String| token.trim().is_empty() && (is_native || !token.is_empty());
    if reader.raw("ADMIN_TOKEN").as_ref().is_some_and(is_blank) {
        reader.problem("ADMIN_TOKEN", "holds no token; set one, or leave it unset");
    }
    token
}

fn memory_budget(reader: &mut SettingsReader<'_, impl Settings>) -> Option<u64> {
    if reader.is_changed("MEMORY_BUDGET") {
        return Some(reader.bytes("MEMORY_BUDGET"));
    }
    Some(INSTANCE_BUDGET).filter(|_| reader.form() == Deployment::Spin)
}

/// The memory budget of a process that may use `limit` bytes, if that is limited, on a machine with `total` bytes, and
/// gives `store` bytes to the embedded store: half of what the limit leaves, else a quarter of the machine.
///
/// The other half is for reading what is held, for connections and for replies.
pub fn memory_budget_of(limit: Option<u64>, total: u64, store: u64) -> u64 {
    match limit.filter(|limit| *limit < total) {
        Some(limit) => (limit.saturating_sub(store).saturating_sub(PROCESS) / 2).max(LEAST_BUDGET),
        None => (total / 4).max(MACHINE_BUDGET),
    }
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

#[cfg(test)]
mod tests;
