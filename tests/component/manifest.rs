//! `spin.toml`: its variables are the table of settings, and each component gets the least it needs.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use paddock::config::settings::{Deployment, SETTINGS, Setting};
use paddock_tests::spin::manifest::{Component, Manifest};

fn manifest() -> Result<Manifest> {
    Manifest::load(&Manifest::workspace_path())
}

fn component<'a>(manifest: &'a Manifest, id: &str) -> Result<&'a Component> {
    manifest.components.get(id).with_context(|| format!("no component {id}"))
}

fn on_spin() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(|setting| setting.exists_in(Deployment::Spin))
}

#[test]
fn the_variables_are_the_settings_with_the_same_defaults() -> Result<()> {
    let manifest = manifest()?;
    let known: BTreeSet<_> = on_spin().map(Setting::variable).collect();
    let named: BTreeSet<_> = manifest.variables.keys().cloned().collect();
    assert_eq!(named, known);
    for setting in on_spin() {
        let variable = &manifest.variables[&setting.variable()];
        // Spin denies a component everything when one of its outbound hosts has no name.
        let default = if setting.name == "REDIS_HOST" { "127.0.0.1" } else { setting.default };
        assert_eq!(variable.default.as_deref(), Some(default), "{}", setting.name);
        assert_eq!(variable.secret, setting.secret, "{}", setting.name);
    }
    Ok(())
}

#[test]
fn a_component_gets_variables_under_their_own_names() -> Result<()> {
    let manifest = manifest()?;
    let mut given = BTreeSet::new();
    for (id, component) in &manifest.components {
        for (name, template) in &component.variables {
            assert_eq!(template, &format!("{{{{ {name} }}}}"), "{id}");
            given.insert(name.clone());
        }
    }
    assert_eq!(given, on_spin().map(Setting::variable).collect(), "a setting that no component reads");
    Ok(())
}

#[test]
fn no_component_reaches_further_than_it_must() -> Result<()> {
    let manifest = manifest()?;
    let redis = "{{ redis_scheme }}://{{ redis_host }}:{{ redis_port }}".to_owned();
    let ollama = (1..=8).map(|number| {
        let number = if number == 1 { String::new() } else { number.to_string() };
        format!("{{{{ ollama_host{number} }}}}")
    });
    let ollama: BTreeSet<_> = ollama.collect();
    let redis = BTreeSet::from([redis]);
    let everything = &ollama | &redis;
    for (id, allowed) in [
        ("chat", &everything),
        ("models", &everything),
        ("sessions", &redis),
        ("health", &everything),
        ("metrics", &redis),
    ] {
        let hosts: BTreeSet<_> = component(&manifest, id)?.allowed_outbound_hosts.iter().cloned().collect();
        assert_eq!(&hosts, allowed, "{id}");
    }
    for (id, secrets) in
        [("health", &["caller_header"][..]), ("metrics", &["api_keys", "admin_token", "caller_header"])]
    {
        let variables = &component(&manifest, id)?.variables;
        for secret in secrets {
            assert!(!variables.contains_key(*secret), "{id} has no use for {secret}");
        }
    }
    let sessions = &component(&manifest, "sessions")?.variables;
    assert!(!sessions.keys().any(|name| name.starts_with("ollama_")), "{sessions:?}");
    let metrics = &component(&manifest, "metrics")?.variables;
    // The names of the hosts are labels of its gauges; it reaches none of them.
    let is_needed = |name: &String| {
        let guards = ["allowed_hosts", "cors_allow_origins"];
        name.starts_with("redis_") || name.starts_with("ollama_") || guards.contains(&name.as_str())
    };
    assert!(metrics.keys().all(is_needed), "{metrics:?}");
    Ok(())
}

#[test]
fn the_routes_are_those_of_the_core() -> Result<()> {
    let manifest = manifest()?;
    let routes: Vec<_> = manifest
        .routes()
        .iter()
        .map(|route| (route.route.as_str(), route.component.as_deref().unwrap_or_default()))
        .collect();
    for expected in [
        ("/chat", "chat"),
        ("/", "models"),
        ("/openapi.json", "models"),
        ("/api/...", "chat"),
        ("/v1/...", "chat"),
        ("/api/tags", "models"),
        ("/api/ps", "models"),
        ("/v1/models", "models"),
        ("/api/pull", "models"),
        ("/api/create", "models"),
        ("/api/copy", "models"),
        ("/api/delete", "models"),
        ("/api/push", "models"),
        ("/api/blobs/...", "models"),
        ("/sessions", "sessions"),
        ("/sessions/...", "sessions"),
        ("/health", "health"),
        ("/livez", "health"),
        ("/fleet", "health"),
        ("/metrics", "metrics"),
    ] {
        assert!(routes.contains(&expected), "{routes:?}");
    }
    Ok(())
}
