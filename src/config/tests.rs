use super::*;

pub(super) fn load(pairs: &[(&str, &str)], form: Deployment) -> Result<Loaded, Vec<String>> {
    let value = |name: &str| {
        let found = pairs.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    Config::load(&value, form)
}

fn native(pairs: &[(&str, &str)]) -> Loaded {
    load(pairs, Deployment::Native).unwrap()
}

fn urls(config: &Config) -> Vec<&str> {
    config.fleet.hosts.iter().map(crate::BackendHost::url).collect()
}

/// The settings of the native form, in the order in which their mistakes are listed.
const NATIVE_MISTAKES: &str = "\
    HOST_PARALLEL OLLAMA_HOSTS LB_POLICY QUEUE_LIMIT QUEUE_TIMEOUT HUNG_AFTER PROBE_INTERVAL \
    PROBE_CONNECT_TIMEOUT CACHE_MODE CACHE_MODELS CACHE_ENABLED CACHE_SCOPE CACHE_TTL CACHE_MAX_ENTRY \
    CACHE_REPLAY_PAUSE IDEMPOTENCY_TTL SESSION_TTL SESSION_TTL_MAX SESSION_REQUIRED HISTORY_MAX_MESSAGES \
    HISTORY_MAX_BYTES BODY_LIMIT CHAT_BODY_LIMIT API_BODY_LIMIT OPENAI_BODY_LIMIT ANTHROPIC_BODY_LIMIT \
    CONNECT_TIMEOUT FIRST_BYTE_TIMEOUT BETWEEN_BYTES_TIMEOUT TOTAL_TIMEOUT CLIENT_TIMEOUT HEALTH_TIMEOUT \
    MEMORY_BUDGET HEALTH_ALWAYS_200 ALLOW_MODEL_MANAGEMENT ALLOWED_HOSTS CORS_ALLOW_ORIGINS CALLER_HEADER REDIS_TIMEOUT \
    REDIS_WRITE_TIMEOUT REDIS_PREFIX SESSION_WAIT_REPLICAS REDIS_CACHE_LIMIT REDIS_CLUSTER REDIS_SCHEME REDIS_PORT \
    REDIS_DB REDIS_HOST REDIS_CA_FILE MEMORY_LIMIT DATA_LIMIT";
/// The same on Spin.
const SPIN_MISTAKES: &str = "\
    HOST_PARALLEL OLLAMA_WEIGHTS OLLAMA_HOST OLLAMA_HOST2 OLLAMA_HOST3 OLLAMA_HOST4 OLLAMA_HOST5 \
    OLLAMA_HOST6 OLLAMA_HOST7 OLLAMA_HOST8 LB_POLICY QUEUE_LIMIT QUEUE_TIMEOUT HUNG_AFTER \
    PROBE_CONNECT_TIMEOUT CACHE_MODE CACHE_MODELS CACHE_ENABLED CACHE_SCOPE CACHE_TTL CACHE_MAX_ENTRY \
    CACHE_REPLAY_PAUSE IDEMPOTENCY_TTL SESSION_TTL SESSION_TTL_MAX SESSION_REQUIRED HISTORY_MAX_MESSAGES \
    HISTORY_MAX_BYTES BODY_LIMIT CHAT_BODY_LIMIT API_BODY_LIMIT OPENAI_BODY_LIMIT ANTHROPIC_BODY_LIMIT \
    CONNECT_TIMEOUT FIRST_BYTE_TIMEOUT BETWEEN_BYTES_TIMEOUT TOTAL_TIMEOUT CLIENT_TIMEOUT HEALTH_TIMEOUT \
    MEMORY_BUDGET HEALTH_ALWAYS_OK ALLOW_MODEL_MANAGEMENT ALLOWED_HOSTS CORS_ALLOW_ORIGINS CALLER_HEADER REDIS_TIMEOUT \
    REDIS_WRITE_TIMEOUT REDIS_PREFIX SESSION_WAIT_REPLICAS REDIS_CACHE_LIMIT REDIS_SCHEME REDIS_PORT REDIS_DB REDIS_HOST";

#[test]
fn requests_wait_as_long_as_ollama_lets_them_by_default() {
    let config = load(&[], Deployment::Native).unwrap().config;
    assert_eq!(config.fleet.queue_timeout, Duration::from_mins(5));
}

#[test]
fn nothing_set_means_the_defaults_of_the_table() {
    let config = native(&[]).config;
    assert_eq!(urls(&config), ["http://127.0.0.1:11434"]);
    assert_eq!(config.fleet.default_model, "llama3.2");
    assert_eq!(config.cache.ttl, Duration::from_hours(1));
    assert_eq!(
        (config.access.body_limits.other.bytes, config.access.body_limits.chat.bytes),
        (1 << 20, 20 << 20)
    );
    assert_eq!(config.timeouts.upstream.first_byte, Duration::from_mins(5));
    assert_eq!(config.store.redis, None);
    assert!(
        config.access.api_keys.is_open()
            && config.cache.sharing == CacheSharing::Caller
            && !config.access.health_always_ok
    );
}

#[test]
fn no_secret_of_an_address_is_ever_told() {
    for (name, value) in [
        ("OLLAMA_HOSTS", "http://user:hush@a:1"),
        ("OLLAMA_HOSTS", "http://hush@a:1,http://b:1"),
        ("OLLAMA_HOST", "http://a:1/?token=hush"),
        ("OLLAMA_HOSTS", "http://a:1/x?key=hush;weight=3"),
        ("OLLAMA_HOST", "http://a:1/#hush"),
        ("OLLAMA_HOSTS", "dns+https://user:hush@a:1"),
        ("REDIS_HOST", "user:hush@a"),
        ("REDIS_HOST", "redis://:hush@a:1"),
        ("REDIS_URL", "http://user:hush@a:1"),
        ("REDIS_URL", "redis://user:hush@a:1,redis://user:hush@b:1"),
        ("CORS_ALLOW_ORIGINS", "https://a.example/?hush"),
    ] {
        let problems = load(&[(name, value)], Deployment::Native).unwrap_err().join("; ");
        assert!(problems.contains(name) && !problems.contains("hush"), "{problems}");
    }
    let loaded = native(&[("REDIS_URL", "redis://user:hush@a:1/0?x=hush"), ("REDIS_PASSWORD", "hush")]);
    assert!(!format!("{loaded:?}").contains("hush"));
}

#[test]
fn the_general_limit_of_a_body_holds_for_every_surface_that_has_none_of_its_own() {
    let limits = native(&[("BODY_LIMIT", "2KiB"), ("API_BODY_LIMIT", "3KiB")]).config.access.body_limits;
    assert_eq!(limits.chat, BodyLimit { setting: "BODY_LIMIT", bytes: 2048 });
    assert_eq!(limits.ollama, BodyLimit { setting: "API_BODY_LIMIT", bytes: 3072 });
    assert_eq!((limits.anthropic.bytes, limits.other.bytes), (2048, 2048));
}

#[test]
fn every_mistake_is_reported_at_once_and_no_secret_is_repeated() {
    let problems = load(
        &[
            ("OLLAMA_HOSTS", "http://user:hunter2@a"),
            ("CACHE_TTL", "soon"),
            ("CACHE_ENABLED", "perhaps"),
            ("BODY_LIMIT", "big"),
            ("LB_POLICY", "best"),
            ("REDIS_URL", "http://:hunter2@r"),
            ("CALLER_HEADER", "not a header"),
            ("HISTORY_MAX_MESSAGES", "-1"),
        ],
        Deployment::Native,
    )
    .unwrap_err();
    assert_eq!(problems.len(), 8, "{problems:#?}");
    assert!(!problems.concat().contains("hunter2"), "{problems:#?}");
}

#[test]
fn a_list_that_holds_no_key_is_a_mistake_and_opens_nothing() {
    for form in [Deployment::Native, Deployment::Spin] {
        for (name, value) in [
            ("API_KEYS", ","),
            ("API_KEYS", " , ,"),
            ("API_KEYS", " "),
            ("ADMIN_TOKEN", "\t "),
            ("ADMIN_TOKEN", " "),
        ] {
            let problems = load(&[(name, value)], form).unwrap_err();
            let start = format!("{name} holds no ");
            assert!(problems.len() == 1 && problems.concat().starts_with(&start), "{value:?}: {problems:?}");
        }
        assert!(load(&[("API_KEYS", "")], form).unwrap().config.access.api_keys.is_open());
    }
    let token = ("ADMIN_TOKEN", "");
    assert_eq!(load(&[token], Deployment::Native).unwrap_err().len(), 1);
    // A variable of Spin that is not set is empty.
    assert!(load(&[token], Deployment::Spin).is_ok());
}

#[test]
fn host_names_are_checked_on_loopback_without_keys_and_wherever_the_setting_names_some() {
    for (pairs, is_loopback, host, is_allowed) in [
        (&[][..], true, "evil.example", false),
        (&[], true, "localhost:8000", true),
        (&[], false, "evil.example", true),
        (&[("API_KEYS", "alpha")], true, "evil.example", true),
        // The admin token is not needed to ask.
        (&[("ADMIN_TOKEN", "alpha")], true, "evil.example", false),
        (&[("ALLOWED_HOSTS", "a.example")], false, "evil.example", false),
        (&[("ALLOWED_HOSTS", "a.example")], true, "a.example", true),
        (&[("ALLOWED_HOSTS", "*")], true, "evil.example", true),
        (&[("ALLOWED_HOSTS", "a.example"), ("API_KEYS", "alpha")], false, "evil.example", false),
        (&[("ALLOWED_HOSTS", " ")], true, "evil.example", false),
    ] {
        for form in [Deployment::Native, Deployment::Spin] {
            let mut access = load(pairs, form).unwrap().config.access;
            access.is_loopback = is_loopback;
            let request = http::Request::get("/").header("host", host).body(()).unwrap();
            assert_eq!(access.allows_host(&request.into_parts().0), is_allowed, "{pairs:?} {host}");
        }
    }
}

#[test]
fn mistakes_are_listed_in_the_order_in_which_settings_are_read() {
    let value = |name: &str| {
        // Redis is read from its parts, of which there are more.
        let value = if name == "REDIS_PREFIX" { "{" } else { "not\u{7f} a value" };
        (name != "REDIS_URL").then(|| value.to_owned())
    };
    for (form, expected) in [(Deployment::Native, NATIVE_MISTAKES), (Deployment::Spin, SPIN_MISTAKES)] {
        let problems = Config::load(&value, form).unwrap_err();
        let names: Vec<_> = problems.iter().filter_map(|problem| problem.split(' ').next()).collect();
        assert_eq!(names.join(" "), expected, "{form:?}");
    }
}

#[test]
fn redis_is_made_of_its_parts_with_credentials_encoded() {
    let redis = |pairs: &[(&str, &str)]| native(pairs).config.store.redis.map(|redis| redis.urls.concat());
    assert_eq!(redis(&[("REDIS_HOST", "r")]).as_deref(), Some("redis://r:6379/0"));
    assert_eq!(
        redis(&[
            ("REDIS_HOST", "r"),
            ("REDIS_PORT", "7000"),
            ("REDIS_SCHEME", "rediss"),
            ("REDIS_USERNAME", "u"),
            ("REDIS_PASSWORD", "p@s/s"),
            ("REDIS_DB", "3"),
        ])
        .as_deref(),
        Some("rediss://u:p%40s%2Fs@r:7000/3")
    );
    let both = native(&[("REDIS_URL", "redis://x/1"), ("REDIS_HOST", "r")]);
    assert_eq!(both.config.store.redis.unwrap().urls, ["redis://x/1"]);
    assert_eq!(both.warnings.len(), 1);
}

#[test]
fn a_cluster_may_have_several_nodes_and_only_database_0() {
    let several = "redis://u:p@a:1, redis://b:2/0";
    let cluster = native(&[("REDIS_URL", several), ("REDIS_CLUSTER", "true")]).config.store.redis.unwrap();
    assert!(cluster.is_cluster);
    assert_eq!(cluster.urls, ["redis://u:p@a:1", "redis://b:2/0"]);
    for (pairs, setting) in [
        (&[("REDIS_URL", several)][..], "REDIS_URL"),
        (&[("REDIS_URL", "redis://u:p@a:1,b:2"), ("REDIS_CLUSTER", "true")], "REDIS_URL"),
        (&[("REDIS_URL", "redis://u:p/@a:1/3"), ("REDIS_CLUSTER", "true")], "REDIS_CLUSTER"),
        (&[("REDIS_HOST", "a"), ("REDIS_DB", "3"), ("REDIS_CLUSTER", "true")], "REDIS_CLUSTER"),
        (&[("REDIS_URL", "redis://a"), ("REDIS_CA_FILE", "ca.pem")], "REDIS_CA_FILE"),
        (&[("REDIS_PREFIX", "a{b}")], "REDIS_PREFIX"),
        (&[("REDIS_HOST", "a"), ("SESSION_WAIT_REPLICAS", "-1")], "SESSION_WAIT_REPLICAS"),
    ] {
        let problems = load(pairs, Deployment::Native).unwrap_err();
        assert!(problems.len() == 1 && problems.concat().starts_with(setting), "{pairs:?}: {problems:#?}");
    }
}

#[test]
fn the_port_that_kubernetes_injects_is_ignored_with_a_warning() {
    let loaded = native(&[("REDIS_HOST", "redis"), ("REDIS_PORT", "tcp://10.0.0.1:6379")]);
    assert_eq!(loaded.config.store.redis.unwrap().urls, ["redis://redis:6379/0"]);
    assert_eq!(loaded.warnings.len(), 1);
    assert!(native(&[("REDIS_PORT", "tcp://10.0.0.1:6379")]).config.store.redis.is_none());
}

#[test]
fn the_directory_is_for_the_native_form_without_redis() {
    let directory = ("DATA_DIR", "/data");
    let data = DataConfig { directory: "/data".to_owned(), limit: 1 << 30 };
    assert_eq!(native(&[directory]).config.store.data, Some(data));
    assert_eq!(native(&[("DATA_LIMIT", "5MiB")]).config.store.data, None);
    for redis in [("REDIS_URL", "redis://x"), ("REDIS_HOST", "x")] {
        let loaded = native(&[directory, redis]);
        assert_eq!((loaded.config.store.data, loaded.warnings.len()), (None, 1), "{redis:?}");
    }
    assert_eq!(load(&[directory], Deployment::Spin).unwrap().config.store.data, None);
}

#[test]
fn on_spin_redis_must_have_a_host_where_it_has_a_variable() {
    assert_eq!(load(&[("REDIS_HOST", "")], Deployment::Spin).unwrap_err().len(), 1);
    assert!(load(&[], Deployment::Spin).unwrap().config.store.redis.is_none());
}

#[test]
fn deployments_with_the_same_hosts_are_told_apart_and_instances_of_one_are_not() {
    let host = ("OLLAMA_HOST", "http://10.0.0.7:11434");
    let settings: [&[(&str, &str)]; 4] =
        [&[], &[("REDIS_PREFIX", "other:")], &[("REDIS_HOST", "10.0.0.8")], &[("REDIS_HOST", "10.0.0.9")]];
    let id =
        |pairs: &[(&str, &str)]| load(&[&[host], pairs].concat(), Deployment::Spin).unwrap().config.hop_id();
    let ids: std::collections::BTreeSet<_> = settings.iter().map(|pairs| id(pairs)).collect();
    assert_eq!(ids.len(), settings.len());
    assert!(settings.iter().all(|pairs| ids.contains(&id(pairs))));
    // Hosts see it, and must learn nothing of what is secret.
    for secret in [("API_KEYS", "alpha"), ("ADMIN_TOKEN", "alpha"), ("REDIS_PASSWORD", "alpha")] {
        assert!(ids.contains(&id(&[("REDIS_HOST", "10.0.0.8"), secret])), "{secret:?}");
    }
}
