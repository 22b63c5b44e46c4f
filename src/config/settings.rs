//! The table of settings: the name in both deployments, the default and the meaning.
//!
//! It is the only source: the native flags and their help, the checks in [`mod@crate::config`], the README's table and
//! the variables of `spin.toml` are all checked against it by tests.

use serde::Serialize;

/// The two ways to deploy the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Deployment {
    /// The binary `host-shim`: settings are environment variables and flags.
    Native,
    /// Spin components: settings are variables, in lower case.
    Spin,
}

impl Deployment {
    /// The word used in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Spin => "spin",
        }
    }
}

/// The deployments in which a setting exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// In both deployments.
    Both,
    /// In `host-shim` only.
    Native,
    /// On Spin only.
    Spin,
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The environment variable; the Spin variable is its lower case, the flag its kebab case.
    pub name: &'static str,
    /// The value when the setting is unset or empty; an empty default means none.
    pub default: &'static str,
    /// The deployments in which it exists.
    pub scope: Availability,
    /// Whether its value may be a secret, which must never be repeated.
    pub secret: bool,
    /// Its meaning, in one sentence.
    pub help: &'static str,
}

const fn setting(
    name: &'static str,
    default: &'static str,
    scope: Availability,
    help: &'static str,
) -> Setting {
    Setting { name, default, scope, secret: false, help }
}

const fn secret(name: &'static str, scope: Availability, help: &'static str) -> Setting {
    Setting { name, default: "", scope, secret: true, help }
}

/// Every setting, in the order of the README's table.
pub const SETTINGS: &[Setting] = &[
    setting(
        "OLLAMA_HOSTS",
        "",
        Availability::Native,
        "Ollama hosts, comma-separated, each with ;weight=N and ;parallel=N if wanted; dns+http://name:port is every address of the name; wins over OLLAMA_HOST",
    ),
    setting(
        "OLLAMA_HOST",
        "http://127.0.0.1:11434",
        Availability::Both,
        "The Ollama host: host, host:port or URL; on Spin scheme://name:port",
    ),
    setting("OLLAMA_HOST2", "", Availability::Spin, "A second Ollama host: scheme://name:port"),
    setting("OLLAMA_HOST3", "", Availability::Spin, "A third Ollama host"),
    setting("OLLAMA_HOST4", "", Availability::Spin, "A fourth Ollama host"),
    setting("OLLAMA_HOST5", "", Availability::Spin, "A fifth Ollama host"),
    setting("OLLAMA_HOST6", "", Availability::Spin, "A sixth Ollama host"),
    setting("OLLAMA_HOST7", "", Availability::Spin, "A seventh Ollama host"),
    setting("OLLAMA_HOST8", "", Availability::Spin, "An eighth Ollama host"),
    setting(
        "OLLAMA_WEIGHTS",
        "",
        Availability::Spin,
        "The hosts' shares of the requests, as 3,1,0; natively ;weight=3 behind a host; 0 drains it",
    ),
    setting("DEFAULT_MODEL", "llama3.2", Availability::Both, "The model when a request names none"),
    setting(
        "LB_POLICY",
        "auto",
        Availability::Both,
        "How hosts are chosen: auto, round_robin, random, least_outstanding, p2c or affinity",
    ),
    setting(
        "HOST_PARALLEL",
        "4",
        Availability::Both,
        "Requests in flight on a host for each model, at most; natively ;parallel=8 behind a host is for that one",
    ),
    setting("QUEUE_LIMIT", "256", Availability::Both, "Requests that wait for a place, at most"),
    setting(
        "QUEUE_TIMEOUT",
        "300",
        Availability::Both,
        "How long a request waits for a place until it gets 503",
    ),
    setting(
        "HUNG_AFTER",
        "10",
        Availability::Both,
        "The least time without a first byte of a loaded model after which a host may count as hung",
    ),
    setting(
        "PROBE_INTERVAL",
        "2",
        Availability::Native,
        "The pause between two looks at what the hosts have",
    ),
    setting(
        "PROBE_CONNECT_TIMEOUT",
        "1",
        Availability::Both,
        "Limit for connecting to a host for such a look, or for /health",
    ),
    setting(
        "CACHE_ENABLED",
        "true",
        Availability::Both,
        "Whether there is a cache at all; false wins over CACHE_MODE",
    ),
    setting(
        "CACHE_MODE",
        "auto",
        Availability::Both,
        "What the cache answers: auto (/chat, embeddings, and what has temperature 0 or a seed and no tools), all or off",
    ),
    setting("CACHE_MODELS", "", Availability::Both, "Modes of single models, as llama3.2=off,qwen3=all"),
    setting(
        "CACHE_SCOPE",
        "caller",
        Availability::Both,
        "Who shares answers: the requests of one caller, or all (shared)",
    ),
    setting("CACHE_TTL", "3600", Availability::Both, "How long an answer is kept, in seconds or as 90m"),
    setting(
        "CACHE_MAX_ENTRY",
        "1MiB",
        Availability::Both,
        "The largest answer that is kept, compressed; four times as much is held of one that several wait for",
    ),
    setting(
        "CACHE_REPLAY_PAUSE",
        "",
        Availability::Both,
        "The pause behind each event of a stream from the cache; unset means none",
    ),
    setting(
        "IDEMPOTENCY_TTL",
        "24h",
        Availability::Both,
        "How long a request with an Idempotency-Key is known again",
    ),
    setting("SESSION_TTL", "3600", Availability::Both, "How long a session is kept after its last use"),
    setting(
        "SESSION_TTL_MAX",
        "366d",
        Availability::Both,
        "The longest time to live that POST /sessions may ask for",
    ),
    setting(
        "SESSION_REQUIRED",
        "false",
        Availability::Both,
        "Whether a turn of a session gets 503 when the session store is down, instead of an answer without memory",
    ),
    setting(
        "HISTORY_MAX_MESSAGES",
        "40",
        Availability::Both,
        "Messages of history sent ahead of a message, at most",
    ),
    setting(
        "HISTORY_MAX_BYTES",
        "64KiB",
        Availability::Both,
        "Bytes of history sent ahead of a message, at most",
    ),
    setting(
        "BODY_LIMIT",
        "1MiB",
        Availability::Both,
        "The largest request body where none of the next four says otherwise; once changed, for those too",
    ),
    setting("CHAT_BODY_LIMIT", "20MiB", Availability::Both, "The largest body for /chat; images are large"),
    setting("API_BODY_LIMIT", "20MiB", Availability::Both, "The largest body on /api for asking a model"),
    setting("OPENAI_BODY_LIMIT", "20MiB", Availability::Both, "The largest body on /v1 for asking a model"),
    setting("ANTHROPIC_BODY_LIMIT", "20MiB", Availability::Both, "The largest body for /v1/messages"),
    setting(
        "MEMORY_BUDGET",
        "",
        Availability::Both,
        "Bytes of bodies and unread replies that are held at once, beyond which a request gets 503; unset follows from the memory limit, on Spin 64MiB",
    ),
    setting("CONNECT_TIMEOUT", "2", Availability::Both, "Limit for connecting to an Ollama host"),
    setting(
        "FIRST_BYTE_TIMEOUT",
        "300",
        Availability::Both,
        "Limit until the first byte of an answer; loading a model is slow",
    ),
    setting("BETWEEN_BYTES_TIMEOUT", "60", Availability::Both, "Limit between two pieces of an answer"),
    setting(
        "TOTAL_TIMEOUT",
        "600",
        Availability::Both,
        "Limit for an answer that comes in one piece, whose first byte follows the last token",
    ),
    setting(
        "CLIENT_TIMEOUT",
        "150",
        Availability::Both,
        "How long a client may read nothing of a stream; natively also the limit for its next request and for a piece of its body",
    ),
    setting(
        "HEALTH_TIMEOUT",
        "5",
        Availability::Both,
        "Limit for each host in /health and lists of models; a look in the background has three times as long",
    ),
    setting(
        "HEALTH_ALWAYS_200",
        "false",
        Availability::Native,
        "Whether /health answers 200 even when no host does",
    ),
    setting(
        "HEALTH_ALWAYS_OK",
        "false",
        Availability::Spin,
        "HEALTH_ALWAYS_200 on Spin, where each word of a name must begin with a letter",
    ),
    secret(
        "API_KEYS",
        Availability::Both,
        "Keys that open the service, comma-separated; each is a caller; unset means open",
    ),
    secret(
        "ADMIN_TOKEN",
        Availability::Both,
        "The key that may manage models; it opens everything else, too",
    ),
    setting(
        "ALLOW_MODEL_MANAGEMENT",
        "false",
        Availability::Both,
        "Whether every caller may pull, create, copy and delete models",
    ),
    setting(
        "ALLOWED_HOSTS",
        "",
        Availability::Both,
        "Names that may stand in Host beside addresses and local names, such as ai.example.com, *.example.com or *; unset they are checked on loopback without API_KEYS alone",
    ),
    setting(
        "CORS_ALLOW_ORIGINS",
        "",
        Availability::Both,
        "Origins whose web pages may ask, such as https://app.example.com, https://*.example.com or *",
    ),
    setting(
        "CALLER_HEADER",
        "",
        Availability::Both,
        "A header, set by a proxy that authenticates, that names the caller instead of the credentials",
    ),
    secret(
        "REDIS_URL",
        Availability::Native,
        "Redis, as redis://user:password@host:6379/0 or rediss://; wins over REDIS_HOST; of a cluster several nodes, comma-separated",
    ),
    setting(
        "REDIS_CLUSTER",
        "false",
        Availability::Native,
        "Whether the server is a node of a Redis Cluster",
    ),
    setting(
        "REDIS_CA_FILE",
        "",
        Availability::Native,
        "Certificates (PEM) that vouch for rediss:// servers, instead of the usual ones",
    ),
    setting("REDIS_SCHEME", "redis", Availability::Both, "redis, or rediss for TLS"),
    setting(
        "REDIS_HOST",
        "",
        Availability::Both,
        "The name of the Redis server; natively unset means the embedded store; on Spin 127.0.0.1",
    ),
    setting("REDIS_PORT", "6379", Availability::Both, "The port of the Redis server"),
    setting("REDIS_USERNAME", "", Availability::Both, "The Redis user"),
    secret("REDIS_PASSWORD", Availability::Both, "The Redis password"),
    setting("REDIS_DB", "0", Availability::Both, "The Redis database"),
    setting("REDIS_PREFIX", "paddock", Availability::Both, "What every Redis key begins with"),
    setting(
        "REDIS_TIMEOUT",
        "30ms",
        Availability::Both,
        "Limit for all that one request asks Redis before Ollama, connecting included; what takes longer is done without",
    ),
    setting(
        "REDIS_WRITE_TIMEOUT",
        "250ms",
        Availability::Both,
        "Limit for what Redis is given when there is an answer",
    ),
    setting(
        "REDIS_CACHE_LIMIT",
        "",
        Availability::Both,
        "Bytes of answers in Redis, at most; unset means half of its maxmemory, and 256MiB where that is not known",
    ),
    setting(
        "SESSION_WAIT_REPLICAS",
        "0",
        Availability::Both,
        "How many replicas of Redis must have a turn before it counts as stored",
    ),
    setting(
        "MEMORY_LIMIT",
        "64MiB",
        Availability::Native,
        "Bytes for the embedded store, half each for answers and sessions",
    ),
    setting(
        "DATA_DIR",
        "",
        Availability::Native,
        "A directory in which the embedded store survives restarts; unset means memory only",
    ),
    setting(
        "DATA_LIMIT",
        "1GiB",
        Availability::Native,
        "Bytes for the embedded store in DATA_DIR, half each for answers and sessions",
    ),
    setting(
        "LISTEN",
        "127.0.0.1:8000",
        Availability::Native,
        "The address to listen on; 0.0.0.0:8000 lets other machines in; port 0 takes a free one",
    ),
    setting(
        "MAX_CONNECTIONS",
        "",
        Availability::Native,
        "Connections of clients at the same time, at most; unset means half of the descriptors, 4096 at most",
    ),
    setting("DRAIN_TIMEOUT", "30", Availability::Native, "How long open requests may take after SIGTERM"),
    setting("LOG_FORMAT", "auto", Availability::Native, "auto, human or json; auto is human on a terminal"),
];

impl Setting {
    /// The setting with this name, if there is one.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.name == name)
    }

    /// The name of the Spin variable.
    pub fn variable(&self) -> String {
        self.name.to_ascii_lowercase()
    }

    /// The name of the flag, without dashes.
    pub fn flag(&self) -> String {
        self.variable().replace('_', "-")
    }

    /// Whether it exists in this deployment.
    pub fn exists_in(&self, form: Deployment) -> bool {
        match self.scope {
            Availability::Both => true,
            Availability::Native => form == Deployment::Native,
            Availability::Spin => form == Deployment::Spin,
        }
    }
}

/// The port through which a platform provides settings.
pub trait Settings {
    /// The value of the setting called `name` in the table; `None` when it is not set.
    fn value(&self, name: &str) -> Option<String>;
}

impl<F: Fn(&str) -> Option<String>> Settings for F {
    fn value(&self, name: &str) -> Option<String> {
        self(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_a_name_begins_with_a_letter_as_spin_demands() {
        for setting in SETTINGS {
            for word in setting.name.split('_') {
                let fits = word.starts_with(|first: char| first.is_ascii_uppercase());
                assert!(fits || !setting.exists_in(Deployment::Spin), "{}", setting.name);
            }
        }
    }
}
