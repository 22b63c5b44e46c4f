//! Instances of one component and how requests are spread over them: Spin's own dispatcher, or one instance for all.
//! Must never retry a request, nor keep an instance that trapped.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::StreamExt as _;
use futures::channel::oneshot;
use futures::stream::FuturesUnordered;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::Sleep;
use wasmtime::component::GuestTaskId;
use wasmtime::{AsContextMut as _, Store, StoreContextMut};
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::handler::{
    HandlerState, Instance, Prepared, Proxy, ProxyHandler, Request, Response, ShouldAccept, WorkerExpiration,
    WorkerState, WorkerStatus,
};
use wasmtime_wasi_http::p3::bindings::ServicePre;

use super::host::{self, ComponentConfig, State};

/// How long and for how many requests an instance is used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reuse {
    pub(super) max_requests: usize,
    pub(super) max_concurrent: usize,
    pub(super) idle_timeout: Duration,
    pub(super) single: bool,
}

/// Spin's defaults.
impl Default for Reuse {
    fn default() -> Self {
        Self { max_requests: 128, max_concurrent: 16, idle_timeout: Duration::from_secs(1), single: false }
    }
}

/// What happened to a component's instances so far.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) created: AtomicUsize,
    pub(super) trapped: AtomicUsize,
    pub(super) errors: Mutex<VecDeque<String>>,
}

impl Counters {
    fn ended(&self, result: wasmtime::Result<()>) {
        if let Err(error) = result {
            self.trapped.fetch_add(1, Ordering::Relaxed);
            self.errors
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push_back(format!("worker failed: {error:?}"));
        }
    }
}

/// Makes instances of one component.
#[derive(Clone)]
pub(super) struct Factory {
    pub(super) service: ServicePre<State>,
    pub(super) component: Arc<ComponentConfig>,
    pub(super) reuse: Reuse,
    pub(super) counters: Arc<Counters>,
}

impl Factory {
    async fn create(&self) -> wasmtime::Result<(Store<State>, Proxy)> {
        self.counters.created.fetch_add(1, Ordering::Relaxed);
        let mut store = host::store(self.service.engine(), &self.component);
        let proxy = Proxy::P3(self.service.instantiate_async(&mut store).await?);
        Ok((store, proxy))
    }
}

/// Hands requests to instances.
pub(super) enum Dispatcher {
    /// As many instances as Spin would start.
    Pooled(ProxyHandler<Factory>),
    /// One at a time, whatever the load.
    Single(mpsc::UnboundedSender<Job>),
}

pub(super) type Job = (Request, oneshot::Sender<wasmtime::Result<Response>>);

impl Dispatcher {
    pub(super) fn new(factory: Factory, runtime: &Runtime) -> Self {
        if !factory.reuse.single {
            return Self::Pooled(ProxyHandler::new(factory));
        }
        let (sender, jobs) = mpsc::unbounded_channel();
        runtime.spawn(run_single(factory, jobs));
        Self::Single(sender)
    }

    pub(super) async fn handle(&self, request: Request) -> Result<Response> {
        match self {
            Self::Pooled(handler) => Ok(handler.handle((), request).await?),
            Self::Single(jobs) => {
                let (sender, response) = oneshot::channel();
                jobs.send((request, sender)).map_err(|_| anyhow::anyhow!("the worker is gone"))?;
                Ok(response.await??)
            }
        }
    }
}

/// One instance after the other; the next is made when a request comes after a trap.
async fn run_single(factory: Factory, mut jobs: mpsc::UnboundedReceiver<Job>) {
    while let Some(first) = jobs.recv().await {
        let result = match factory.create().await {
            Ok((store, proxy)) => serve_single(store, &proxy, first, &mut jobs).await,
            Err(error) => Err(error),
        };
        factory.counters.ended(result);
    }
}

async fn serve_single(
    mut store: Store<State>,
    proxy: &Proxy,
    first: Job,
    jobs: &mut mpsc::UnboundedReceiver<Job>,
) -> wasmtime::Result<()> {
    let serve = async |accessor: &wasmtime::component::Accessor<State>| {
        let mut running = FuturesUnordered::new();
        let mut next = Some(first);
        while let Some((request, sender)) = next {
            let prepared = accessor.with(|mut store| {
                Prepared::new(store.as_context_mut(), proxy, request, State::http, sender)
            })?;
            running.push(prepared.run(accessor, std::future::pending()));
            next = loop {
                tokio::select! {
                    Some(done) = running.next() => { done?; }
                    job = jobs.recv() => break job,
                }
            };
        }
        wasmtime::error::Ok(())
    };
    store.run_concurrent(serve).await?
}

impl HandlerState for Factory {
    type StoreData = State;
    type WorkerExpiration = IdleTimeout;
    type WorkerState = Worker;

    async fn instantiate(&self) -> wasmtime::Result<Instance<State, IdleTimeout, Worker>> {
        let (store, proxy) = self.create().await?;
        let expiration = IdleTimeout {
            after: self.reuse.idle_timeout,
            sleep: Box::pin(tokio::time::sleep(Duration::MAX)),
        };
        let state = Worker { reuse: self.reuse, counters: Arc::clone(&self.counters) };
        Ok(Instance { store, proxy, view: State::http, expiration, state })
    }
}

/// Ends an instance that had nothing to do for a while; there is no limit on requests, as by default in Spin.
pub(super) struct IdleTimeout {
    after: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl WorkerExpiration for IdleTimeout {
    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        status: WorkerStatus,
        start: Instant,
    ) -> Poll<()> {
        let deadline = if status == WorkerStatus::Idle { start.checked_add(self.after) } else { None };
        let Some(deadline) = deadline else { return Poll::Pending };
        if self.sleep.deadline() != deadline.into() {
            self.sleep.as_mut().reset(deadline.into());
        }
        self.sleep.as_mut().poll(cx)
    }
}

/// Decides for one instance whether it takes another request.
pub(super) struct Worker {
    reuse: Reuse,
    counters: Arc<Counters>,
}

impl WorkerState for Worker {
    type StoreData = State;
    type RequestData = ();

    fn should_accept_request(&self, concurrent: usize, total: usize) -> ShouldAccept {
        if total >= self.reuse.max_requests {
            ShouldAccept::Never
        } else if concurrent >= self.reuse.max_concurrent {
            ShouldAccept::No
        } else {
            ShouldAccept::Yes
        }
    }

    fn on_request_start(
        &self,
        _: StoreContextMut<'_, State>,
        (): (),
        _: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>> {
        Box::pin(std::future::pending())
    }

    fn drop(&self, _: Store<State>, result: wasmtime::Result<()>) {
        self.counters.ended(result);
    }
}
