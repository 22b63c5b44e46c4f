//! Clients that talk in sessions as fast as they are answered, and what is checked of every turn.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use http::Request;
use paddock::session::KEPT_TURNS;
use paddock_tests::{
    gateway::{Form as _, Gateway, Native},
    history::{Operation, check},
    http_client::{self, Reply},
    ollama::{FakeOllama, Recorded},
    setup::Setup,
};
use serde_json::json;

/// Clients at the same time.
const CLIENTS: usize = 64;
/// More tokens than any session has.
const WINDOW: u64 = 100_000_000;
/// Sessions that they share at the same time.
const SESSIONS: usize = 16;
/// Turns that a session is sent before another takes its place: what it keeps no more would look lost.
const TURNS: usize = KEPT_TURNS / 2;
/// More than all limits of a request together.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Where a replica listens, and what it lives by.
type Running = (SocketAddr, Option<Box<dyn Gateway>>);

/// Replicas of the native binary, any of which may be killed and replaced.
pub(crate) struct Replicas {
    setup: Setup,
    running: Mutex<Vec<Running>>,
}

impl Replicas {
    pub(crate) async fn start(setup: Setup, count: usize) -> Result<Self> {
        let setup = setup
            .set("HOST_PARALLEL", "1000")
            .set("HISTORY_MAX_MESSAGES", "100000")
            .set("HISTORY_MAX_BYTES", "64MiB")
            // Short enough that what Redis does is noticed, and long enough for a loaded machine.
            .set("REDIS_TIMEOUT", "500ms")
            .set("REDIS_WRITE_TIMEOUT", "1");
        let replicas = Self { setup, running: Mutex::default() };
        for _ in 0..count {
            let started = replicas.one().await?;
            replicas.running.lock().unwrap_or_else(PoisonError::into_inner).push(started);
        }
        Ok(replicas)
    }

    async fn one(&self) -> Result<Running> {
        let gateway = Native { redis: true }.start(self.setup.clone()).await?;
        let address = gateway.url().context("no address")?.trim_start_matches("http://").parse()?;
        Ok((address, Some(gateway)))
    }

    /// Kills a replica, without a word, and starts another in its place.
    pub(crate) async fn replace(&self, index: usize) -> Result<()> {
        let killed = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.get_mut(index).and_then(|(_, gateway)| gateway.take())
        };
        drop(killed);
        let started = self.one().await?;
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        *running.get_mut(index).context("no such replica")? = started;
        Ok(())
    }

    async fn say(&self, number: usize, session: &str, question: &str) -> Result<Reply> {
        let address = {
            let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.get(number % running.len()).context("no replica")?.0
        };
        // A window that holds it all: what the history would be trimmed of would look lost.
        let options = json!({ "num_ctx": WINDOW });
        let body = json!({"message": question, "session_id": session, "options": options}).to_string();
        let request = Request::post("/chat").header("content-type", "application/json").body(body.into())?;
        http_client::send(address, request).await
    }
}

fn questions(recorded: &Recorded) -> Vec<String> {
    let asked = recorded.messages().into_iter();
    asked.filter_map(|message| message.strip_prefix("user: ").map(ToOwned::to_owned)).collect()
}

/// Has clients talk until `events` are over, and checks every turn of theirs; gives how many were acknowledged.
pub(crate) async fn talk(
    replicas: &Replicas,
    ollama: &FakeOllama,
    events: impl Future<Output = Result<()>>,
) -> Result<usize> {
    ollama.reads(None, WINDOW);
    let (clock, over, next) = (Instant::now(), AtomicBool::new(false), AtomicUsize::new(0));
    let sent: [AtomicUsize; SESSIONS] = std::array::from_fn(|_| AtomicUsize::new(0));
    let sent = &sent;
    let client = async |client: usize| {
        let mut operations = Vec::new();
        while !over.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let question = format!("question-{number}");
            let began = clock.elapsed();
            let place = client % SESSIONS;
            let turns = sent.get(place).context("no such session")?.fetch_add(1, Ordering::Relaxed);
            let session = place + SESSIONS * (turns / TURNS);
            let reply = replicas.say(number, &format!("s{session}"), &question).await;
            let ended = clock.elapsed();
            let took = ended.saturating_sub(began);
            ensure!(took < DEADLINE, "{question} took {took:?}");
            if let Ok(reply) = &reply {
                let text = reply.response();
                ensure!(
                    reply.status == 200 && text.starts_with(&format!("echo of {question}")),
                    "{question}: {} {}",
                    reply.status,
                    reply.text()
                );
            } else {
                // Its replica was killed, and the next is not there yet.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let stored = reply.as_ref().is_ok_and(|reply| reply.header("x-session") == "stored");
            let ended = reply.is_ok().then_some(ended);
            operations.push((session, Operation { question, began, ended, seen: Vec::new(), stored }));
        }
        Ok(operations)
    };
    let clients = try_join_all((0..CLIENTS).map(client));
    let events = async {
        let result = events.await;
        over.store(true, Ordering::Relaxed);
        result
    };
    let (done, happened) = futures::join!(clients, events);
    happened?;
    let mut sessions: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (session, operation) in done?.into_iter().flatten() {
        sessions.entry(session).or_default().push(operation);
    }
    let mut stored = 0;
    for (session, operations) in &mut sessions {
        stored += operations.iter().filter(|operation| operation.stored).count();
        verify(replicas, ollama, &format!("s{session}"), operations).await?;
    }
    Ok(stored)
}

/// Checks one session: what upstream saw of each turn, and what is in the session at the end.
async fn verify(
    replicas: &Replicas,
    ollama: &FakeOllama,
    session: &str,
    operations: &mut [Operation],
) -> Result<()> {
    let started = Instant::now();
    let mut last = format!("last of {session}");
    // It must be told the whole session: while Redis is found again, it is not.
    for attempt in 0.. {
        last = format!("last of {session}, {attempt}");
        let reply = replicas.say(0, session, &last).await?;
        if reply.header("x-session") == "stored" {
            break;
        }
        ensure!(started.elapsed() < http_client::PATIENCE, "{session} is not stored again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let asked = ollama.chat_requests();
    let mut end = Vec::new();
    for recorded in &asked {
        let mut seen = questions(recorded);
        let Some(question) = seen.pop() else { continue };
        if question == last {
            end = seen;
        } else if let Some(operation) = operations.iter_mut().find(|known| known.question == question) {
            operation.seen.push(seen);
        }
    }
    end.retain(|question| !question.starts_with("last of"));
    check(operations, &end).map_err(|fault| anyhow::anyhow!("{session}: {fault}"))
}
