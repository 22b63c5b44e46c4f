//! The service in any of its forms, behind one door: a behaviour does not know which form it runs on.

mod memory;
mod native;
mod spin_form;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::future::BoxFuture;
use http::{Method, Request};
use serde_json::Value;

pub use crate::http_client::{PATIENCE, Payload, Reply, Streamed};
pub use memory::Memory;
pub use native::{HostShim, Native, OnDisk};
pub use spin_form::{Spin, SpinGateway};

use crate::setup::Setup;

/// A form of the service, such as the native binary over Redis.
pub trait Form: Sync {
    /// Starts it. Started twice with one set-up it is two replicas.
    fn start(&self, setup: Setup) -> BoxFuture<'_, Result<Box<dyn Gateway>>>;

    /// Whether its state is in Redis, even when a set-up says nothing of Redis.
    fn has_redis(&self) -> bool;
}

/// The running service. It ends when it is dropped.
pub trait Gateway: Send + Sync {
    /// Sends a request and waits for the head of its reply. Dropping the future, or the reply before its end, leaves
    /// like a client that closes its connection.
    fn open(&self, request: Request<Payload>) -> BoxFuture<'_, Result<Streamed>>;

    /// Sends a request and waits for the whole reply. Dropping the future leaves.
    fn send(&self, request: Request<Payload>) -> BoxFuture<'_, Result<Reply>> {
        Box::pin(async move { self.open(request).await?.rest().await })
    }

    /// Where it listens, as a base URL without trailing slash; nothing in memory.
    fn url(&self) -> Option<String>;

    /// Lets time pass for whatever expires.
    fn pass(&self, time: Duration) -> BoxFuture<'_, ()> {
        // The passage of time is the test's input here, not a wait for something.
        Box::pin(tokio::time::sleep(time))
    }

    /// What the service logged so far.
    fn logs(&self) -> String;
}

impl dyn Gateway + '_ {
    /// `GET path`.
    pub async fn get(&self, path: &str) -> Result<Reply> {
        self.send(Request::get(path).body(Payload::from(""))?).await
    }

    /// `POST /chat` with a JSON body.
    pub async fn chat(&self, body: Value) -> Result<Reply> {
        self.chat_with(body, &[]).await
    }

    /// `POST /chat` with a JSON body and headers.
    pub async fn chat_with(&self, body: Value, headers: &[(&str, &str)]) -> Result<Reply> {
        self.post_to("/chat", body, headers).await
    }

    /// `POST /chat` with this message; the reply must be a success.
    pub async fn say(&self, message: &str) -> Result<Reply> {
        let reply = self.chat(serde_json::json!({ "message": message })).await?;
        ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
        Ok(reply)
    }

    /// `POST /chat` with this message in a session; the reply must be a success.
    pub async fn say_in(&self, session: &str, message: &str) -> Result<Reply> {
        let reply = self.chat(serde_json::json!({ "message": message, "session_id": session })).await?;
        ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
        Ok(reply)
    }

    /// `POST /chat` with any body and exactly these headers.
    pub async fn post(&self, body: impl Into<Payload>, headers: &[(&str, &str)]) -> Result<Reply> {
        self.request(Method::POST, "/chat", body, headers).await
    }

    /// `POST path` with a JSON body and headers.
    pub async fn post_to(&self, path: &str, body: Value, headers: &[(&str, &str)]) -> Result<Reply> {
        self.open_post(path, body, headers).await?.rest().await
    }

    /// The same, up to the head of the reply.
    pub async fn open_post(&self, path: &str, body: Value, headers: &[(&str, &str)]) -> Result<Streamed> {
        let headers = [&[("content-type", "application/json")], headers].concat();
        self.open(request(Method::POST, path, body.to_string(), &headers)?).await
    }

    /// Any request.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Payload>,
        headers: &[(&str, &str)],
    ) -> Result<Reply> {
        self.send(request(method, path, body, headers)?).await
    }

    /// Says a message of its own again and again until the reply is as wished.
    pub async fn until(&self, session: &str, wished: impl Fn(&Reply) -> bool) -> Result<Reply> {
        let started = Instant::now();
        for attempt in 0_u32.. {
            let reply = self.say_in(session, &format!("once more {attempt}")).await?;
            if wished(&reply) {
                return Ok(reply);
            }
            ensure!(started.elapsed() < PATIENCE, "still {:?} after {PATIENCE:?}", reply.headers);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None.context("no attempt is left")
    }

    /// Looks at the fleet again and again until it is as wished.
    pub async fn until_fleet(&self, wished: impl Fn(&Value) -> bool) -> Result<Value> {
        let started = Instant::now();
        loop {
            let reply = self.get("/fleet").await?;
            ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
            let fleet = reply.json();
            if wished(&fleet) {
                return Ok(fleet);
            }
            ensure!(started.elapsed() < PATIENCE, "still {fleet:#} after {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Has every host asked what it has, as all are for a model that none has.
    pub async fn look_at_all_hosts(&self) -> Result<()> {
        let reply = self.chat(serde_json::json!({ "message": "hello", "model": "nobody-has-this" })).await?;
        ensure!(reply.status == 404, "{} {}", reply.status, reply.text());
        Ok(())
    }
}

fn request(
    method: Method,
    path: &str,
    body: impl Into<Payload>,
    headers: &[(&str, &str)],
) -> Result<Request<Payload>> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Ok(request.body(body.into())?)
}

/// Shows the end of a form's log. The test runner keeps it to itself unless the test fails.
#[expect(clippy::print_stderr, reason = "the test runner shows it with the failing test alone")]
fn show(form: &str, logs: &str) {
    let start = logs.lines().count().saturating_sub(40);
    eprintln!("--- {form} ---");
    for line in logs.lines().skip(start) {
        eprintln!("{line}");
    }
}
