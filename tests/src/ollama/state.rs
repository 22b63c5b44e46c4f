//! What the stand-in has, does and saw; shared by everybody who asks it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, request::Parts};
use serde_json::Value;
use tokio::sync::watch;

use super::{Scripted, anthropic, asked::Asked, native, openai, responses};

/// A request that the stand-in was sent.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Its method.
    pub method: String,
    /// Its path.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Recorded {
    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        let mut values = serde_json::Deserializer::from_str(&text).into_iter();
        values.next().and_then(Result::ok).unwrap_or_default()
    }

    /// The model that was asked for.
    pub fn model(&self) -> String {
        self.json().get("model").and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// The conversation, each message as `role: content`; of a content in parts, their texts.
    pub fn messages(&self) -> Vec<String> {
        let body = self.json();
        let messages = body.get("messages").or_else(|| body.get("input")).and_then(Value::as_array);
        let role =
            |message: &Value| message.get("role").and_then(Value::as_str).unwrap_or_default().to_owned();
        let messages = messages.map(Vec::as_slice).unwrap_or_default().iter();
        messages.map(|message| format!("{}: {}", role(message), text(message.get("content")))).collect()
    }
}

fn text(content: Option<&Value>) -> String {
    let parts = content.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let parts = parts.iter().map(|part| part.get("text").and_then(Value::as_str).unwrap_or_default());
    content.and_then(Value::as_str).map_or_else(|| parts.collect(), ToOwned::to_owned)
}

/// What happened so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) requests: Vec<Recorded>,
    pub(super) connections: usize,
    pub(super) open: usize,
    pub(super) given_up: usize,
    /// Bytes of bodies that could be written, into whatever buffers there are.
    pub(super) written: usize,
}

impl Seen {
    pub(super) fn count(&self, path: &str) -> usize {
        self.requests.iter().filter(|request| request.path == path).count()
    }
}

/// The context of every model, in tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context {
    /// What the Modelfile sets.
    pub(super) set: Option<u64>,
    /// What the model was trained with.
    pub(super) longest: u64,
}

impl Context {
    /// What it is loaded with when a request says nothing of it.
    pub(super) fn usual(self) -> u64 {
        self.set.unwrap_or(4096).min(self.longest)
    }
}

#[derive(Debug, Default)]
struct Plan {
    /// `None` for every one.
    models: Option<Vec<String>>,
    loaded: Vec<String>,
    context: Option<Context>,
    always: HashMap<String, Scripted>,
    once: HashMap<String, VecDeque<Scripted>>,
}

/// What happens to whoever connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Open,
    Refusing,
    /// Nothing, not even a refusal.
    Silent,
}

#[derive(Debug)]
pub(super) struct State {
    plan: Mutex<Plan>,
    door: Mutex<Door>,
    seen: watch::Sender<Seen>,
}

impl Default for State {
    fn default() -> Self {
        let models = Some(vec!["llama3.2:latest".to_owned()]);
        Self {
            plan: Mutex::new(Plan { models, ..Plan::default() }),
            door: Mutex::new(Door::Open),
            seen: watch::Sender::default(),
        }
    }
}

impl State {
    pub(super) fn set_models(&self, models: Option<Vec<String>>) {
        self.plan().models = models;
    }

    pub(super) fn set_loaded(&self, names: Vec<String>) {
        self.plan().loaded = names;
    }

    pub(super) fn set_context(&self, context: Context) {
        self.plan().context = Some(context);
    }

    pub(super) fn always(&self, path: &str, scripted: Scripted) {
        self.plan().always.insert(path.to_owned(), scripted);
    }

    pub(super) fn once(&self, path: &str, scripted: Scripted) {
        self.plan().once.entry(path.to_owned()).or_default().push_back(scripted);
    }

    pub(super) fn forget_scripts(&self) {
        let mut plan = self.plan();
        plan.always.clear();
        plan.once.clear();
    }

    pub(super) fn set_door(&self, door: Door) {
        *self.door.lock().unwrap_or_else(PoisonError::into_inner) = door;
    }

    pub(super) fn door(&self) -> Door {
        *self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn seen(&self) -> watch::Ref<'_, Seen> {
        self.seen.borrow()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    pub(super) fn connected(&self) {
        self.seen.send_modify(|seen| seen.connections += 1);
    }

    pub(super) fn wrote(&self, bytes: usize) {
        self.seen.send_modify(|seen| seen.written += bytes);
    }

    /// Takes note of a request and decides what to answer.
    pub(super) fn ask(self: &Arc<Self>, parts: &Parts, body: Bytes) -> Result<(Scripted, Exchange)> {
        let request = Recorded {
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            headers: parts.headers.clone(),
            body,
        };
        let mut number = 0;
        self.seen.send_modify(|seen| {
            seen.requests.push(request.clone());
            seen.open += 1;
            number = seen.count(&request.path);
        });
        let exchange = Exchange { state: Arc::clone(self), complete: false };
        Ok((self.decide(&request, number)?, exchange))
    }

    fn decide(&self, request: &Recorded, number: usize) -> Result<Scripted> {
        let mut plan = self.plan();
        let path = request.path.as_str();
        if let Some(scripted) = plan.once.get_mut(path).and_then(VecDeque::pop_front) {
            return Ok(scripted);
        }
        if let Some(scripted) = plan.always.get(path) {
            return Ok(scripted.clone());
        }
        let asked = Asked {
            context: plan.context,
            ..Asked::new(request, number, plan.models.as_deref(), &plan.loaded)
        };
        let mut scripted = answer(&asked)?;
        if asked.method == "HEAD" {
            scripted.pieces.clear();
        }
        if scripted.status.is_success() {
            let changed = asked.changed_models();
            plan.models = changed.or_else(|| plan.models.take());
        }
        Ok(scripted)
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn answer(asked: &Asked<'_>) -> Result<Scripted> {
    for protocol in [native::answer, openai::answer, responses::answer, anthropic::answer] {
        if let Some(scripted) = protocol(asked)? {
            return Ok(scripted);
        }
    }
    Scripted::recorded("77-e-notfound-path")
}

/// An answer on its way. Dropped before its end, it was given up by whoever asked.
#[derive(Debug)]
pub(super) struct Exchange {
    state: Arc<State>,
    complete: bool,
}

impl Exchange {
    pub(super) fn state(&self) -> Arc<State> {
        Arc::clone(&self.state)
    }

    /// Ends it as it should end.
    pub(super) fn complete(mut self) -> Option<Self> {
        self.complete = true;
        None
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.state.seen.send_modify(|seen| {
            seen.open -= 1;
            seen.given_up += usize::from(!self.complete);
        });
    }
}
