//! The core in memory: no process, no socket. Every request runs beside the others in one task, which also runs what
//! they start in the background.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, Either, select},
    stream::FuturesUnordered,
};
use http::Request;
use http_body_util::BodyExt as _;
use paddock::{Config, memory_host::MemoryHost, settings::Form as SettingsForm};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{Form, Gateway, Payload, Reply};
use crate::{http_client, ollama::Herd, setup::Setup};

/// The core over its in-memory host.
#[derive(Debug)]
pub struct Memory;

type Job = (Request<Payload>, oneshot::Sender<Result<Reply>>);

struct MemoryGateway {
    host: MemoryHost<Herd>,
    jobs: mpsc::UnboundedSender<Job>,
    driver: JoinHandle<()>,
}

impl Form for Memory {
    fn start(&self, setup: Setup) -> BoxFuture<'_, Result<Box<dyn Gateway>>> {
        async move {
            let urls: Vec<_> = setup.hosts.iter().map(crate::ollama::FakeOllama::url).collect();
            let setup = setup.set("OLLAMA_HOSTS", urls.join(","));
            let value = |name: &str| setup.settings.get(name).cloned();
            let loaded = Config::load(&value, SettingsForm::Native)
                .map_err(|problems| anyhow::anyhow!(problems.join("; ")))?;
            let host = MemoryHost::new(loaded.config, Herd(setup.hosts));
            let (jobs, received) = mpsc::unbounded_channel();
            let driver = tokio::spawn(drive(host.clone(), received));
            Ok(Box::new(MemoryGateway { host, jobs, driver }) as Box<dyn Gateway>)
        }
        .boxed()
    }

    fn has_redis(&self) -> bool {
        false
    }
}

async fn drive(host: MemoryHost<Herd>, mut jobs: mpsc::UnboundedReceiver<Job>) {
    host.run(async {
        let mut open = FuturesUnordered::new();
        loop {
            tokio::select! {
                job = jobs.recv() => match job {
                    Some(job) => open.push(answer(&host, job)),
                    None => return,
                },
                Some(()) = open.next() => {}
            }
        }
    })
    .await;
}

/// Answers one request, unless its client leaves.
async fn answer(host: &MemoryHost<Herd>, (request, mut client): Job) {
    let handled = async {
        let response = paddock::handle(host, http_client::outgoing(request)).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        anyhow::Ok(Reply { status: parts.status, headers: parts.headers, body })
    };
    let left = Box::pin(client.closed());
    let reply = match select(Box::pin(handled), left).await {
        Either::Left((reply, _)) => reply,
        Either::Right(((), _)) => return,
    };
    // Whoever left does not need it.
    client.send(reply).ok();
}

impl Gateway for MemoryGateway {
    fn send(&self, request: Request<Payload>) -> BoxFuture<'_, Result<Reply>> {
        async move {
            let (sender, reply) = oneshot::channel();
            self.jobs.send((request, sender)).ok().context("the driver ended")?;
            tokio::time::timeout(http_client::PATIENCE, reply).await.context("no answer")??
        }
        .boxed()
    }

    fn pass(&self, time: Duration) -> BoxFuture<'_, ()> {
        self.host.clock().advance(time);
        std::future::ready(()).boxed()
    }

    fn logs(&self) -> String {
        self.host.events().join("\n")
    }
}

impl Drop for MemoryGateway {
    fn drop(&mut self) {
        self.driver.abort();
        super::show("memory", &self.logs());
    }
}
