//! What a request asks of the stand-in, read the same way from every protocol.

use serde_json::{Value, json};

use super::{Recorded, state::Context};

/// A request with what decides its answer.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) body: Value,
    /// The conversation, each message as `role: content`.
    pub(super) messages: Vec<String>,
    /// Which request of this path it is.
    pub(super) number: usize,
    /// `None` for every one.
    pub(super) models: Option<&'a [String]>,
    pub(super) loaded: &'a [String],
    /// `None` for what was recorded.
    pub(super) context: Option<Context>,
}

impl<'a> Asked<'a> {
    pub(super) fn new(
        request: &'a Recorded,
        number: usize,
        models: Option<&'a [String]>,
        loaded: &'a [String],
    ) -> Self {
        Self {
            method: &request.method,
            path: &request.path,
            body: request.json(),
            messages: request.messages(),
            number,
            models,
            loaded,
            context: None,
        }
    }

    /// A text of the body; empty when there is none.
    pub(super) fn text(&self, field: &str) -> &str {
        self.body.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn model(&self) -> &str {
        self.text("model")
    }

    /// Whether it has this model, under a name that Ollama takes for the same.
    pub(super) fn has(&self, model: &str) -> bool {
        self.models.is_none_or(|known| known.iter().any(|name| is_same_model(name, model)))
    }

    pub(super) fn is_streamed(&self, default: bool) -> bool {
        self.body.get("stream").and_then(Value::as_bool).unwrap_or(default)
    }

    /// What it says to this text.
    pub(super) fn echo(&self, said: &str) -> String {
        if self.wants_json() {
            r#"{"answer":"echo"}"#.to_owned()
        } else {
            format!("echo of {said} #{}", self.number)
        }
    }

    /// What it says to the conversation.
    pub(super) fn reply(&self) -> String {
        let last = self.messages.last().and_then(|message| message.split_once(": "));
        self.echo(last.unwrap_or_default().1)
    }

    /// Ten tokens a message make the prompt.
    pub(super) fn prompt_tokens(&self) -> usize {
        self.messages.len() * 10
    }

    /// The first of the tools, by its name. A conversation that ends with a tool's result asks for no other.
    pub(super) fn tool(&self) -> Option<&str> {
        let last = self.body.get("messages").and_then(Value::as_array).and_then(|messages| messages.last());
        let is_result = last.is_some_and(|message| {
            message.get("role").is_some_and(|role| role == "tool")
                || message.pointer("/content/0/type").is_some_and(|block| block == "tool_result")
        });
        let name = |pointer| self.body.pointer(pointer).and_then(Value::as_str);
        let name = name("/tools/0/function/name").or_else(|| name("/tools/0/name"));
        name.filter(|_| !is_result)
    }

    /// Its models after the request, if that changes them.
    pub(super) fn changed_models(&self) -> Option<Vec<String>> {
        let model = self.text(if self.path == "/api/copy" { "destination" } else { "model" });
        let mut models = self.models?.to_vec();
        match self.path {
            "/api/copy" | "/api/create" | "/api/pull" if !self.has(model) => models.push(full_name(model)),
            "/api/delete" => models.retain(|name| !is_same_model(name, model)),
            _ => return None,
        }
        Some(models)
    }

    /// Whether the answer is to be JSON, in the words of any protocol.
    fn wants_json(&self) -> bool {
        let kind = |pointer| self.body.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let named = [kind("/response_format/type"), kind("/text/format/type")];
        named.iter().any(|kind| kind.starts_with("json"))
            || self.body.get("format").is_some_and(|format| format == "json" || format.is_object())
    }
}

/// Ollama matches names without case, no tag means `latest`, and its own library needs no prefix.
pub(super) fn is_same_model(stored: &str, asked: &str) -> bool {
    stored.eq_ignore_ascii_case(asked) || stored.eq_ignore_ascii_case(&full_name(asked))
}

/// The name as Ollama stores it.
pub(super) fn full_name(model: &str) -> String {
    let model = model.strip_prefix("registry.ollama.ai/").unwrap_or(model);
    let model = model.strip_prefix("library/").unwrap_or(model);
    if model.contains(':') { model.to_owned() } else { format!("{model}:latest") }
}

/// The arguments of every call of a tool.
pub(super) fn arguments() -> Value {
    json!({ "city": "Paris" })
}

/// A text in the parts that a model gives it in.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(' ')
}

/// The texts of an `input`; nothing where it is neither a text nor a list of texts.
pub(super) fn inputs(input: Option<&Value>) -> Option<Vec<&str>> {
    match input {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::String(text)) => Some(vec![text]),
        Some(Value::Array(texts)) => texts.iter().map(Value::as_str).collect(),
        Some(Value::Bool(_) | Value::Number(_) | Value::Object(_)) => None,
    }
}
