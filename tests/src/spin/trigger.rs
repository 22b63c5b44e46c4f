//! The HTTP trigger: an HTTP/1.1 server that routes requests to components as `spin up` does. Must never answer for a
//! component, except with the bare 500 and 404 that Spin gives.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::header::HOST;
use http::uri::{Authority, Scheme};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use wasmtime_wasi_http::{Error, WasiBody};

use super::instances::Dispatcher;
use super::manifest::{Manifest, StaticResponse};
use super::routes::{self, RouteMatch};

/// Everything that requests are answered from.
pub(super) struct Trigger {
    pub(super) manifest: Manifest,
    pub(super) components: BTreeMap<String, Dispatcher>,
}

impl Trigger {
    /// Accepts connections until the runtime ends. As in Spin no socket gets `TCP_NODELAY`.
    pub(super) async fn serve(self, listener: TcpListener) {
        let trigger = Arc::new(self);
        while let Ok((stream, client)) = listener.accept().await {
            tokio::spawn(Arc::clone(&trigger).serve_connection(stream, client));
        }
    }

    async fn serve_connection(self: Arc<Self>, stream: TcpStream, client: SocketAddr) {
        let service = service_fn(move |request: Request<Incoming>| {
            let trigger = Arc::clone(&self);
            async move {
                trigger.answer(request.map(|body| body.map_err(Error::from).boxed_unsync()), client).await
            }
        });
        // A connection that fails is the client's business; the component learns of it by its next write.
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
    }

    async fn answer(&self, request: Request<WasiBody>, client: SocketAddr) -> Result<Response<WasiBody>> {
        let path = request.uri().path().to_owned();
        if let Some(reserved) = path.strip_prefix("/.well-known/spin/") {
            return self.reserved(reserved);
        }
        let Some(found) = routes::best_match(self.manifest.routes(), &path) else {
            return plain(StatusCode::NOT_FOUND, "");
        };
        let request = with_absolute_uri(request)?;
        if let Some(fixed) = &found.trigger.static_response {
            return static_response(fixed);
        }
        match self.run(&found, request, client).await {
            Ok(response) => Ok(response),
            Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, ""),
        }
    }

    async fn run(
        &self,
        found: &RouteMatch<'_>,
        mut request: Request<WasiBody>,
        client: SocketAddr,
    ) -> Result<Response<WasiBody>> {
        let component = found
            .trigger
            .component
            .as_ref()
            .and_then(|id| self.components.get(id))
            .context("no component")?;
        // Appended: a client may send these names too, and then its values come first.
        for (name, value) in spin_headers(&request, found, client)? {
            request.headers_mut().append(name, value);
        }
        component.handle(request).await
    }

    fn reserved(&self, name: &str) -> Result<Response<WasiBody>> {
        match name {
            "health" => plain(StatusCode::OK, "OK"),
            "info" => plain(
                StatusCode::OK,
                serde_json::json!({ "name": self.manifest.application.name }).to_string(),
            ),
            _ => plain(StatusCode::NOT_FOUND, ""),
        }
    }
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Result<Response<WasiBody>> {
    let body = Full::new(text.into()).map_err(Error::from).boxed_unsync();
    Ok(Response::builder().status(status).body(body)?)
}

fn static_response(fixed: &StaticResponse) -> Result<Response<WasiBody>> {
    let status = StatusCode::from_u16(fixed.status_code.unwrap_or(200))?;
    let mut response = plain(status, fixed.body.clone().unwrap_or_default())?;
    for (name, value) in &fixed.headers {
        response.headers_mut().append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
    }
    Ok(response)
}

/// The guest sees an absolute URI; its authority is the `Host` header's.
fn with_absolute_uri(mut request: Request<WasiBody>) -> Result<Request<WasiBody>> {
    let host = request.headers().get(HOST).map(|host| Authority::try_from(host.as_bytes())).transpose()?;
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    ensure!(host.is_none() || parts.authority.is_none() || host == parts.authority, "Host and URI differ");
    parts.authority = Some(host.or(parts.authority).context("no Host header")?);
    parts.scheme = Some(Scheme::HTTP);
    *request.uri_mut() = Uri::from_parts(parts)?;
    Ok(request)
}

/// The headers that Spin adds to a request.
fn spin_headers(
    request: &Request<WasiBody>,
    found: &RouteMatch<'_>,
    client: SocketAddr,
) -> Result<Vec<(HeaderName, HeaderValue)>> {
    for value in request.headers().values() {
        std::str::from_utf8(value.as_bytes()).context("a header is not UTF-8")?;
    }
    let route = found.trigger.route.as_str();
    let added = [
        ("spin-path-info", found.path_info.clone()),
        ("spin-full-url", request.uri().to_string()),
        ("spin-matched-route", route.to_owned()),
        ("spin-base-path", "/".to_owned()),
        ("spin-raw-component-route", route.to_owned()),
        ("spin-component-route", route.strip_suffix("/...").unwrap_or(route).to_owned()),
        ("spin-client-addr", client.to_string()),
    ];
    let header = |(name, value)| Ok((HeaderName::from_static(name), HeaderValue::try_from(value)?));
    added.into_iter().map(header).collect()
}
