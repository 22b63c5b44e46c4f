//! Questions that are put to a host on the service's own behalf: what it has, what it has loaded.
//!
//! Each is bounded in time and size; what a host says is never trusted to be well-formed.

use bytes::Bytes;
use futures::future::join_all;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};

use crate::{
    fleet::BackendHost,
    host::{Host, UpstreamFailure},
    wire::ollama,
};

/// The largest answer that is read, in bytes.
const ANSWER_LIMIT: usize = 8 << 20;

/// What one host said when it was asked for its models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The host's base URL.
    pub url: String,
    /// The names of its models, or why it gave none.
    pub models: Result<Vec<String>, String>,
}

/// Asks every host for its models, all at the same time.
pub async fn probe<H: Host>(host: &H) -> Vec<Probe> {
    let probes = host.config().fleet.hosts().iter().map(|backend| async move {
        let models = models(host, backend, "/api/tags").await.map_err(|failure| failure.to_string());
        Probe { url: backend.url().to_owned(), models }
    });
    join_all(probes).await
}

/// The body of a host's answer to `GET path`.
pub(crate) async fn answer<H: Host>(
    host: &H,
    backend: &BackendHost,
    path: &str,
) -> Result<Bytes, UpstreamFailure> {
    let request = Request::get(backend.endpoint(path).map_err(UpstreamFailure::Protocol)?).body(Bytes::new());
    let request = request.map_err(|error| protocol(&error))?;
    let response = host.send(request, host.config().probe_limits()).await?;
    if response.status() != StatusCode::OK {
        return Err(UpstreamFailure::Protocol(format!("the host answered {}", response.status().as_u16())));
    }
    let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
    Ok(body.map_err(|error| protocol(&error))?.to_bytes())
}

/// The names of the models in a host's list at `path`.
pub(crate) async fn models<H: Host>(
    host: &H,
    backend: &BackendHost,
    path: &str,
) -> Result<Vec<String>, UpstreamFailure> {
    let body = answer(host, backend, path).await?;
    ollama::model_names(&body).ok_or_else(|| UpstreamFailure::Protocol(format!("no answer to {path}")))
}

fn protocol(error: &impl ToString) -> UpstreamFailure {
    UpstreamFailure::Protocol(error.to_string())
}
