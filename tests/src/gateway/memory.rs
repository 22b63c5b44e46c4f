//! The core in memory: no process, no socket. Every request runs beside the others in one task, which also runs what
//! they start in the background.

use std::{pin::pin, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use futures::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, Either, select},
    stream,
    stream::{BoxStream, FuturesUnordered},
};
use http::Request;
use http_body_util::BodyExt as _;
use paddock::{Config, Service, config::settings::Deployment as SettingsForm, host::memory::MemoryPlatform};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{Form, Gateway, Payload, Streamed};
use crate::{http_client, ollama::Herd, setup::Setup};

/// The core over its in-memory service.
#[derive(Debug)]
pub struct Memory;

type Job = (Request<Payload>, oneshot::Sender<Streamed>);
/// A piece of a body, or its clean end.
type Step = Option<Result<Bytes>>;

struct MemoryGateway {
    service: Service<MemoryPlatform<Herd>>,
    jobs: mpsc::UnboundedSender<Job>,
    driver: JoinHandle<()>,
}

impl Form for Memory {
    fn start(&self, setup: Setup) -> BoxFuture<'_, Result<Box<dyn Gateway>>> {
        async move {
            let hosts = setup.host_list();
            let setup = setup.set("OLLAMA_HOSTS", hosts);
            let value = |name: &str| setup.settings.get(name).cloned();
            let loaded = Config::load(&value, SettingsForm::Native)
                .map_err(|problems| anyhow::anyhow!(problems.join("; ")))?;
            let service = MemoryPlatform::service(loaded.config, Herd(setup.hosts));
            let (jobs, received) = mpsc::unbounded_channel();
            let driver = tokio::spawn(drive(service.clone(), received));
            Ok(Box::new(MemoryGateway { service, jobs, driver }) as Box<dyn Gateway>)
        }
        .boxed()
    }

    fn has_redis(&self) -> bool {
        false
    }
}

async fn drive(service: Service<MemoryPlatform<Herd>>, mut jobs: mpsc::UnboundedReceiver<Job>) {
    service
        .platform()
        .run(async {
            let mut open = FuturesUnordered::new();
            loop {
                tokio::select! {
                    job = jobs.recv() => match job {
                        Some(job) => open.push(answer(&service, job)),
                        None => return,
                    },
                    Some(()) = open.next() => {}
                }
            }
        })
        .await;
}

/// Answers one request, until its client leaves.
async fn answer(service: &Service<MemoryPlatform<Herd>>, (request, mut client): Job) {
    let handled = Box::pin(paddock::handle(service, http_client::outgoing(request)));
    let left = Box::pin(client.closed());
    let response = match select(handled, left).await {
        Either::Left((response, _)) => response,
        Either::Right(((), _)) => return,
    };
    let (parts, body) = response.into_parts();
    // Pieces wait for their reader, as they do where a socket is full.
    let (sender, received) = mpsc::channel(1);
    // Whoever left does not need it.
    if client.send(Streamed::new(parts.status, parts.headers, pieces(received))).is_ok() {
        forward(body, sender).await;
    }
}

/// Passes a body on piece by piece. It is dropped at once when its reader leaves.
async fn forward<B>(body: B, reader: mpsc::Sender<Step>)
where
    B: http_body::Body<Data = Bytes, Error: Into<anyhow::Error>>,
{
    let mut body = pin!(body.into_data_stream());
    while let Ok(place) = reader.reserve().await {
        let step = tokio::select! {
            piece = body.next() => piece.map(|piece| piece.map_err(Into::into)),
            () = reader.closed() => return,
        };
        let is_last = !matches!(step, Some(Ok(_)));
        place.send(step);
        if is_last {
            return;
        }
    }
}

/// What was passed on, for the one who reads it.
fn pieces(received: mpsc::Receiver<Step>) -> BoxStream<'static, Result<Bytes>> {
    let broken = || anyhow!("the gateway ended within a body");
    stream::unfold(Some(received), move |received| async move {
        let mut received = received?;
        match received.recv().await {
            Some(Some(Ok(piece))) => Some((Ok(piece), Some(received))),
            Some(Some(Err(error))) => Some((Err(error), None)),
            Some(None) => None,
            None => Some((Err(broken()), None)),
        }
    })
    .boxed()
}

impl Gateway for MemoryGateway {
    fn open(&self, request: Request<Payload>) -> BoxFuture<'_, Result<Streamed>> {
        async move {
            let (sender, reply) = oneshot::channel();
            self.jobs.send((request, sender)).ok().context("the driver ended")?;
            let reply = tokio::time::timeout(http_client::PATIENCE, reply).await.context("no answer")?;
            reply.context("the driver ended")
        }
        .boxed()
    }

    fn url(&self) -> Option<String> {
        None
    }

    fn pass(&self, time: Duration) -> BoxFuture<'_, ()> {
        self.service.platform().clock().advance(time);
        std::future::ready(()).boxed()
    }

    fn logs(&self) -> String {
        self.service.platform().events().join("\n")
    }
}

impl Drop for MemoryGateway {
    fn drop(&mut self) {
        self.driver.abort();
        super::show("memory", &self.logs());
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    /// One piece at once, then nothing until it is dropped.
    fn waiting(
        dropped: oneshot::Sender<()>,
    ) -> impl http_body::Body<Data = Bytes, Error: Into<anyhow::Error>> {
        let first = stream::iter([anyhow::Ok(Bytes::from_static(b"first"))]);
        let pieces = first.chain(stream::pending()).map_ok(move |piece| {
            let _ = &dropped;
            Frame::data(piece)
        });
        StreamBody::new(pieces)
    }

    #[tokio::test]
    async fn a_body_that_waits_is_dropped_when_its_reader_leaves() -> Result<()> {
        let ((sender, received), (guard, dropped)) = (mpsc::channel(1), oneshot::channel());
        let forwarding = tokio::spawn(forward(waiting(guard), sender));
        let mut reader = pieces(received);
        assert_eq!(reader.next().await.context("no piece")??, "first");
        drop(reader);
        assert!(dropped.await.is_err());
        Ok(forwarding.await?)
    }

    #[tokio::test]
    async fn a_body_that_is_left_by_its_gateway_is_broken() -> Result<()> {
        let ((sender, received), (guard, _dropped)) = (mpsc::channel(1), oneshot::channel());
        let forwarding = tokio::spawn(forward(waiting(guard), sender));
        let mut reader = pieces(received);
        assert_eq!(reader.next().await.context("no piece")??, "first");
        forwarding.abort();
        assert!(reader.next().await.context("a clean end")?.is_err());
        Ok(())
    }
}
