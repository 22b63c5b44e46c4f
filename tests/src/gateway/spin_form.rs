//! The Spin application over Redis, in the harness that does what Spin does.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use futures::{FutureExt as _, future::BoxFuture};
use http::Request;
use paddock::config::settings::{Deployment as SettingsForm, Setting};

use super::{Form, Gateway, Payload, Streamed};
use crate::{http_client, ollama::FakeOllama, redis_server::RedisServer, setup::Setup, spin::SpinApp};

/// The components of `spin.toml`.
#[derive(Debug)]
pub struct Spin;

/// A running application. Dropping it fails the test if an instance trapped: a trap takes its neighbours with it.
#[derive(Debug)]
pub struct SpinGateway {
    app: SpinApp,
    /// They live as long as what asks them.
    _redis: Arc<RedisServer>,
    _hosts: Vec<FakeOllama>,
}

impl Form for Spin {
    fn start(&self, setup: Setup) -> BoxFuture<'_, Result<Box<dyn Gateway>>> {
        async move { Ok(Box::new(SpinGateway::start(setup).await?) as Box<dyn Gateway>) }.boxed()
    }

    fn has_redis(&self) -> bool {
        true
    }
}

impl SpinGateway {
    /// Starts the application.
    pub async fn start(setup: Setup) -> Result<Self> {
        let redis = setup.server()?;
        let mut app = SpinApp::builder();
        if setup.single_instance {
            app = app.single_instance();
        }
        if let Some(requests) = setup.requests_at_once {
            app = app.max_instance_concurrent_reuse(requests);
        }
        for (name, value) in variables(&setup, &redis)? {
            app = app.variable(name, value);
        }
        Ok(Self { app: app.start().await?, _redis: redis, _hosts: setup.hosts })
    }

    /// The application itself.
    pub fn app(&self) -> &SpinApp {
        &self.app
    }
}

/// The settings as Spin wants them: in lower case, one host a variable, Redis in parts.
fn variables(setup: &Setup, redis: &RedisServer) -> Result<Vec<(String, String)>> {
    let mut variables = Vec::new();
    for (index, host) in setup.hosts.iter().enumerate() {
        let name = if index == 0 { "ollama_host".to_owned() } else { format!("ollama_host{}", index + 1) };
        variables.push((name, host.url()));
    }
    variables.push(("ollama_weights".to_owned(), setup.weight_list()));
    let url = redis.url();
    variables.extend([
        ("redis_scheme".to_owned(), url.scheme().to_owned()),
        ("redis_host".to_owned(), url.host_str().context("a Redis without a host")?.to_owned()),
        ("redis_port".to_owned(), url.port().unwrap_or(6379).to_string()),
        ("redis_username".to_owned(), url.username().to_owned()),
        ("redis_password".to_owned(), url.password().unwrap_or_default().to_owned()),
        ("redis_db".to_owned(), url.path().trim_start_matches('/').to_owned()),
        ("redis_prefix".to_owned(), setup.prefix().to_owned()),
    ]);
    for (name, value) in &setup.settings {
        let name = if name == "HEALTH_ALWAYS_200" { "HEALTH_ALWAYS_OK" } else { name };
        let setting = Setting::by_name(name).with_context(|| format!("no setting {name}"))?;
        ensure!(setting.exists_in(SettingsForm::Spin), "{name} does not exist on Spin");
        variables.push((setting.variable(), value.clone()));
    }
    Ok(variables)
}

impl Gateway for SpinGateway {
    fn open(&self, request: Request<Payload>) -> BoxFuture<'_, Result<Streamed>> {
        http_client::open(self.app.address(), request).boxed()
    }

    fn url(&self) -> Option<String> {
        Some(format!("http://{}", self.app.address()))
    }

    fn logs(&self) -> String {
        self.app.logs()
    }
}

impl Drop for SpinGateway {
    fn drop(&mut self) {
        super::show("Spin", &self.app.logs());
        let traps = ["chat", "models", "health", "metrics"].map(|component| self.app.traps(component));
        assert!(traps == [0; 4] || std::thread::panicking(), "instances trapped: {traps:?}");
    }
}
