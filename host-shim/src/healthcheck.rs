//! `host-shim healthcheck`: requests `/health` on this machine, for containers without any other program.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::ArgMatches;
use http_body_util::Empty;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use paddock::config::settings::Deployment;

use crate::command_line;

/// Longer than the default limit of `/health`.
const LIMIT: Duration = Duration::from_secs(8);

/// # Errors
/// When the service does not answer 200.
pub(crate) fn run(matches: &ArgMatches, options: &ArgMatches) -> anyhow::Result<()> {
    let settings = command_line::settings(matches);
    let listen = paddock::config::SettingsReader::new(&settings, Deployment::Native).text("LISTEN");
    let port = listen.rsplit_once(':').map_or(listen.as_str(), |(_, port)| port);
    let address = match listen.parse::<SocketAddr>() {
        Ok(address) if !address.ip().is_unspecified() => address.to_string(),
        Ok(_) | Err(_) => format!("127.0.0.1:{port}"),
    };
    let path = if options.get_flag("ready") { "/health" } else { "/livez" };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(async {
        let client: Client<HttpConnector, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let answer = client.get(format!("http://{address}{path}").parse()?);
        let answer = tokio::time::timeout(LIMIT, answer).await.context("no answer in time")?;
        let status = answer.with_context(|| format!("nothing answers on {address}"))?.status();
        if !status.is_success() {
            bail!("{path} answered {status}");
        }
        Ok(())
    })
}
