//! The command line: help, version, mistakes, the demo and the health check.

use std::{
    collections::BTreeMap,
    process::{Command, Output},
};

use anyhow::Result;
use paddock::{
    Config,
    config::settings::{Deployment, SETTINGS, Setting},
};
use paddock_tests::{
    artifacts::workspace,
    gateway::HostShim,
    http_client,
    ollama::{FakeOllama, TAGS, refusal},
};
use serde_json::{Value, json};

/// Environment variables.
fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Runs the binary to its end.
async fn run(pairs: &[(&str, &str)], arguments: &[&str]) -> Result<(Output, String)> {
    let (settings, arguments) =
        (settings(pairs), arguments.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>());
    let run = move || anyhow::Ok(HostShim::command(&settings)?.args(arguments).output()?);
    let output = tokio::task::spawn_blocking(run).await??;
    let text = [&output.stdout[..], &output.stderr].concat();
    Ok((output, String::from_utf8(text)?))
}

async fn start(pairs: &[(&str, &str)], arguments: &[&str]) -> Result<HostShim> {
    let (settings, arguments) =
        (settings(pairs), arguments.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>());
    HostShim::spawn(HostShim::command(&settings)?.args(arguments)).await
}

async fn chat(shim: &HostShim, message: &str) -> Result<http_client::Reply> {
    let body = json!({"message": message}).to_string();
    http_client::send(shim.address(), http::Request::post("/chat").body(body.into())?).await
}

/// What a pod gets: the pairs of the `ConfigMap` and of the `Secret`.
#[test]
fn the_settings_of_the_manifest_for_kubernetes_hold() -> Result<()> {
    let manifest = std::fs::read_to_string(workspace().join("deploy/kubernetes.yaml"))?;
    let mut settings = BTreeMap::new();
    let mut is_data = false;
    for line in manifest.lines() {
        is_data = line == "data:" || line == "stringData:" || is_data && line.starts_with("  ");
        let pair = line.strip_prefix("  ").filter(|_| is_data).and_then(|pair| pair.split_once(": "));
        let Some((name, value)) = pair.filter(|(name, _)| Setting::by_name(name).is_some()) else { continue };
        let value = value.split(" #").next().unwrap_or_default().trim().trim_matches('"');
        settings.insert(name.to_owned(), value.to_owned());
    }
    assert!(settings.contains_key("LISTEN") && settings.contains_key("API_KEYS"), "{settings:?}");
    let loaded = Config::load(&|name: &str| settings.get(name).cloned(), Deployment::Native);
    assert_eq!(loaded.err(), None, "{settings:?}");
    Ok(())
}

#[tokio::test]
async fn help_names_every_setting_and_no_value_that_is_set() -> Result<()> {
    let (output, text) = run(&[("API_KEYS", "hunter2"), ("REDIS_PASSWORD", "hunter2")], &["--help"]).await?;
    assert!(output.status.success());
    for setting in SETTINGS.iter().filter(|setting| setting.exists_in(Deployment::Native)) {
        let named = text.contains(&format!("--{}", setting.flag())) && text.contains(setting.name);
        assert!(named && text.contains(setting.default), "{} is not in the help", setting.name);
    }
    assert!(text.contains("--demo") && text.contains("healthcheck") && text.contains("curl"), "{text}");
    assert!(!text.contains("hunter2"), "the help repeats a secret");
    Ok(())
}

#[tokio::test]
async fn version_is_the_packages() -> Result<()> {
    let (output, text) = run(&[], &["--version"]).await?;
    assert!(output.status.success());
    assert_eq!(text.trim(), format!("host-shim {}", env!("CARGO_PKG_VERSION")));
    Ok(())
}

#[tokio::test]
async fn all_mistakes_are_reported_together_and_no_secret_with_them() -> Result<()> {
    let mistakes = [
        ("OLLAMA_HOSTS", "http://user:hunter2@a,ftp://b"),
        ("CACHE_TTL", "soon"),
        ("CACHE_ENABLED", "perhaps"),
        ("SESSION_TTL", "-1"),
        ("LB_POLICY", "best"),
        ("BODY_LIMIT", "0"),
        ("HISTORY_MAX_MESSAGES", "many"),
        ("REDIS_URL", "http://:hunter2@redis"),
        ("CALLER_HEADER", "not a header"),
        ("LOG_FORMAT", "xml"),
        ("DRAIN_TIMEOUT", "later"),
    ];
    let (output, text) = run(&mistakes, &[]).await?;
    assert!(!output.status.success());
    for (name, _) in mistakes {
        assert!(text.contains(name), "{name} is not named:\n{text}");
    }
    assert!(!text.contains("hunter2"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_guard_without_a_key_is_a_refusal_to_start() -> Result<()> {
    for (name, value) in [
        ("API_KEYS", ","),
        ("API_KEYS", " , ,"),
        ("API_KEYS", " "),
        ("ADMIN_TOKEN", ""),
        ("ADMIN_TOKEN", "  "),
    ] {
        let (output, text) = run(&[(name, value)], &[]).await?;
        assert!(
            !output.status.success() && text.contains(&format!("{name} holds no")),
            "{name}={value:?}: {text}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn an_address_that_is_taken_is_told_with_what_to_do() -> Result<()> {
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let (output, text) = run(&[("LISTEN", &taken.local_addr()?.to_string())], &[]).await?;
    assert!(!output.status.success());
    assert!(text.contains("LISTEN"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_flag_wins_over_its_environment_variable() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.has_every_model();
    let pairs = [("OLLAMA_HOST", "http://127.0.0.1:1"), ("DEFAULT_MODEL", "from-environment")];
    let arguments = ["--ollama-hosts", &ollama.url(), "--default-model", "from-flag"];
    let shim = start(&pairs, &arguments).await?;
    assert_eq!(chat(&shim, "hello").await?.status, 200);
    assert_eq!(ollama.chat_requests()[0].model(), "from-flag");
    Ok(())
}

#[tokio::test]
async fn ollamas_own_spellings_of_a_host_are_understood() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let port = ollama.url().rsplit(':').next().unwrap_or_default().to_owned();
    for spelling in
        [format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}"), format!(":{port}"), ollama.url() + "/"]
    {
        let shim = start(&[("OLLAMA_HOST", &spelling)], &[]).await?;
        assert_eq!(chat(&shim, "hello").await?.status, 200, "{spelling}");
    }
    Ok(())
}

#[tokio::test]
async fn the_port_that_kubernetes_injects_is_ignored_with_a_warning() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let pairs = [("OLLAMA_HOST", ollama.url()), ("REDIS_PORT", "tcp://10.96.0.7:6379".to_owned())];
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let shim = start(&pairs, &[]).await?;
    assert_eq!(chat(&shim, "hello").await?.status, 200);
    assert!(shim.logs().contains("REDIS_PORT is ignored"), "{}", shim.logs());
    Ok(())
}

#[tokio::test]
async fn the_start_tells_which_hosts_answer_and_with_which_models() -> Result<()> {
    let (well, ill) = (FakeOllama::start().await?, FakeOllama::start().await?);
    well.has_models(&["qwen3:4b", "phi4:14b"]);
    ill.lists(refusal(503)?);
    let hosts = format!("{},{}", well.url(), ill.url());
    let shim = start(&[("OLLAMA_HOSTS", &hosts)], &[]).await?;
    let host = |line: &Value| line["host"].as_str().map(str::to_owned);
    let answers = shim.wait_for_log(|line| line["models"].is_string().then(|| line.clone())).await?;
    assert_eq!((host(&answers), answers["models"].as_str()), (Some(well.url()), Some("qwen3:4b, phi4:14b")));
    let silent = shim.wait_for_log(|line| (host(line) == Some(ill.url())).then(|| line.clone())).await?;
    assert_eq!(silent["level"], "WARN");
    // The default model is on neither: the start says how to add it.
    shim.wait_for_log(|line| line["message"].as_str()?.contains("ollama pull llama3.2").then_some(()))
        .await?;
    Ok(())
}

#[tokio::test]
async fn the_start_says_what_to_do_when_no_host_answers() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.refuse().await;
    let shim = start(&[("OLLAMA_HOST", &ollama.url())], &[]).await?;
    shim.wait_for_log(|line| {
        let message = line["message"].as_str()?;
        (message.contains("ollama serve") && message.contains("--demo")).then_some(())
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn the_demo_needs_nothing_and_says_that_it_is_one() -> Result<()> {
    let shim = start(&[("OLLAMA_HOST", "http://127.0.0.1:1")], &["--demo"]).await?;
    let first = chat(&shim, "hello").await?;
    assert!(first.response().contains("demo") && first.response().contains("hello"), "{}", first.text());
    assert_eq!((first.cache(), chat(&shim, "hello").await?.cache()), ("miss", "hit"));
    let health = http_client::send(shim.address(), http::Request::get("/health").body("".into())?).await?;
    assert_eq!(health.at("/status"), "healthy");
    for (path, place) in [
        ("/api/chat", "/message/content"),
        ("/v1/chat/completions", "/choices/0/message/content"),
        ("/v1/messages", "/content/0/text"),
    ] {
        let body = r#"{"model":"llama3.2","stream":false,"messages":[{"role":"user","content":"hello"}]}"#;
        let reply = http_client::send(shim.address(), http::Request::post(path).body(body.into())?).await?;
        assert!(reply.at(place).contains("demo"), "{path}: {}", reply.text());
    }
    Ok(())
}

#[tokio::test]
async fn the_health_check_asks_the_service_of_this_machine() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let shim = start(&[("OLLAMA_HOST", &ollama.url())], &[]).await?;
    let address = shim.address().to_string();
    let everywhere = format!("0.0.0.0:{}", shim.address().port());
    for listen in [&address, &everywhere] {
        assert!(run(&[("LISTEN", listen)], &["healthcheck"]).await?.0.status.success(), "{listen}");
    }
    assert!(run(&[("LISTEN", &address)], &["healthcheck", "--ready"]).await?.0.status.success());
    ollama.refuse().await;
    // It lives, but no host answers.
    assert!(run(&[("LISTEN", &address)], &["healthcheck"]).await?.0.status.success());
    assert!(!run(&[("LISTEN", &address)], &["healthcheck", "--ready"]).await?.0.status.success());
    drop(shim);
    assert!(!run(&[("LISTEN", &address)], &["healthcheck"]).await?.0.status.success());
    Ok(())
}

#[tokio::test]
async fn an_unknown_flag_is_refused() -> Result<()> {
    let (output, text) = run(&[], &["--cache-tll", "5"]).await?;
    assert!(!output.status.success() && text.contains("--cache-ttl"), "{text}");
    Ok(())
}

#[tokio::test]
async fn liveness_never_touches_ollama_after_the_start() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let shim = start(&[("OLLAMA_HOST", &ollama.url())], &[]).await?;
    shim.wait_for_log(|line| line["models"].is_string().then_some(())).await?;
    for _ in 0..20 {
        http_client::send(shim.address(), http::Request::get("/livez").body("".into())?).await?;
    }
    let is_look = |path: &str| [TAGS, "/api/ps", "/api/version"].contains(&path);
    assert!(ollama.requests().iter().all(|request| is_look(&request.path)), "{:?}", ollama.requests());
    Ok(())
}

/// That the tests really run what was built, and not something of the same name elsewhere.
#[test]
fn the_binary_is_the_workspaces_own() -> Result<()> {
    let binary = paddock_tests::artifacts::host_shim()?;
    let output = Command::new(binary).arg("--version").output()?;
    assert!(output.status.success());
    Ok(())
}
