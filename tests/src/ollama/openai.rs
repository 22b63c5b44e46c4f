//! OpenAI's protocol: `/v1/chat/completions`, `/v1/completions`, `/v1/embeddings` and `/v1/models`.

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    Scripted,
    asked::{Asked, arguments, full_name, inputs, words},
    embedding::{base64, embedding},
    native::dimensions,
    shapes::{bad_request, data, events, object, renamed, stream, whole, with, wrong_method},
};

const MODELS: &str = "/v1/models";

/// What Ollama answers; nothing where the path is not of this protocol.
pub(super) fn answer(asked: &Asked<'_>) -> Result<Option<Scripted>> {
    if let Some(model) = asked.path.strip_prefix(MODELS) {
        let answer = match model.strip_prefix('/') {
            _ if asked.method != "GET" => wrong_method("GET"),
            None if model.is_empty() => list(asked.models.unwrap_or_default()),
            None => return Ok(None),
            Some(name) => one_model(asked, &name.replace("%3A", ":").replace("%2F", "/")),
        };
        return answer.map(Some);
    }
    if !["/v1/chat/completions", "/v1/completions", "/v1/embeddings"].contains(&asked.path) {
        return Ok(None);
    }
    if let Some(refusal) = refusal(asked)? {
        return Ok(Some(refusal));
    }
    let answer = match asked.path {
        "/v1/chat/completions" => chat(asked),
        "/v1/completions" => complete(asked),
        _ => embed(asked),
    };
    answer.map(Some)
}

/// What Ollama refuses in every protocol of OpenAI's.
pub(super) fn refusal(asked: &Asked<'_>) -> Result<Option<Scripted>> {
    let refusal = if asked.method != "POST" {
        wrong_method("POST")
    } else if !asked.body.is_object() {
        Scripted::recorded("70-e-v1-chat-badjson")
    } else if asked.body.get("messages").is_some_and(|messages| *messages == json!([])) {
        Scripted::recorded("69-e-v1-chat-nomessages")
    } else if !asked.has(asked.model()) {
        renamed("61-e-v1-chat-404", "nosuch", asked.model())
    } else {
        return Ok(None);
    };
    refusal.map(Some)
}

fn list(names: &[String]) -> Result<Scripted> {
    let recorded = object("21-v1-models")?;
    let model = recorded.pointer("/data/0").context("no model")?;
    let models: Vec<_> = names
        .iter()
        .map(|name| with(model.clone(), [("/id", name.as_str().into())]))
        .collect::<Result<_>>()?;
    // As Ollama lists nothing.
    let models = if models.is_empty() { Value::Null } else { models.into() };
    whole("21-v1-models", &with(recorded, [("/data", models)])?)
}

fn one_model(asked: &Asked<'_>, model: &str) -> Result<Scripted> {
    if asked.has(model) {
        renamed("22-v1-model", "smollm2:135m", model)
    } else {
        renamed("62-e-v1-model-404", "nosuch:latest", &full_name(model))
    }
}

fn chat(asked: &Asked<'_>) -> Result<Scripted> {
    if asked.is_streamed(false) {
        return stream("25-v1-chat-stream-usage", chunks(asked)?);
    }
    let Some(tool) = asked.tool() else {
        let text = asked.reply();
        let object = with(
            object("23-v1-chat")?,
            [
                ("/model", asked.model().into()),
                ("/choices/0/message/content", text.as_str().into()),
                ("/usage", usage(asked.prompt_tokens(), &text)),
            ],
        )?;
        return whole("23-v1-chat", &object);
    };
    let object = with(object("37-tools-v1-chat")?, [("/model", asked.model().into())])?;
    whole("37-tools-v1-chat", &call(object, "/choices/0/message", tool)?)
}

fn chunks(asked: &Asked<'_>) -> Result<Vec<Bytes>> {
    let text = asked.reply();
    let of = |chunk: &Value| with(chunk.clone(), [("/model", asked.model().into())]);
    let mut chunks = Vec::new();
    let end = if let Some(tool) = asked.tool() {
        let recorded = events("38-tools-v1-chat-stream")?;
        let [first, finish, usage] = recorded.as_slice() else { bail!("not three chunks") };
        chunks.push(call(of(first)?, "/choices/0/delta", tool)?);
        [of(finish)?, of(usage)?]
    } else {
        let recorded = events("25-v1-chat-stream-usage")?;
        let [first, next, .., finish, last] = recorded.as_slice() else { bail!("not four chunks") };
        for (index, word) in words(&text).enumerate() {
            let chunk = of(if index == 0 { first } else { next })?;
            chunks.push(with(chunk, [("/choices/0/delta/content", word.into())])?);
        }
        [of(finish)?, with(of(last)?, [("/usage", usage(asked.prompt_tokens(), &text))])?]
    };
    let [finish, usage] = end;
    chunks.push(finish);
    if wants_usage(asked) {
        chunks.push(usage);
    }
    Ok(finished(&chunks))
}

fn complete(asked: &Asked<'_>) -> Result<Scripted> {
    let text = asked.echo(asked.text("prompt"));
    let of = |object: Value| with(object, [("/model", asked.model().into())]);
    if !asked.is_streamed(false) {
        let places = [("/choices/0/text", text.as_str().into()), ("/usage", usage(10, &text))];
        return whole("26-v1-completions", &with(of(object("26-v1-completions")?)?, places)?);
    }
    let recorded = events("27-v1-completions-stream")?;
    let [first, .., finish, last] = recorded.as_slice() else { bail!("not three chunks") };
    let mut chunks = Vec::new();
    for word in words(&text) {
        chunks.push(with(of(first.clone())?, [("/choices/0/text", word.into())])?);
    }
    chunks.push(of(finish.clone())?);
    if wants_usage(asked) {
        chunks.push(with(of(last.clone())?, [("/usage", usage(10, &text))])?);
    } else {
        for chunk in chunks.iter_mut().filter_map(Value::as_object_mut) {
            chunk.remove("usage");
        }
    }
    stream("27-v1-completions-stream", finished(&chunks))
}

fn embed(asked: &Asked<'_>) -> Result<Scripted> {
    let inputs = inputs(asked.body.get("input")).filter(|inputs| !inputs.is_empty());
    let Some(inputs) = inputs else {
        let message =
            [("/error/message", "invalid input".into()), ("/error/type", "invalid_request_error".into())];
        return bad_request("61-e-v1-chat-404", &with(object("61-e-v1-chat-404")?, message)?);
    };
    let vectors: Vec<_> = inputs
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let vector = embedding(text, dimensions(asked));
            let is_base64 = asked.text("encoding_format") == "base64";
            let vector = if is_base64 { base64(&vector).into() } else { json!(vector) };
            json!({ "object": "embedding", "embedding": vector, "index": index })
        })
        .collect();
    let tokens = inputs.len() * 5;
    let usage = json!({ "prompt_tokens": tokens, "total_tokens": tokens });
    let places = [("/data", vectors.into()), ("/model", asked.model().into()), ("/usage", usage)];
    whole("28-v1-embeddings", &with(object("28-v1-embeddings")?, places)?)
}

/// The arguments of a call are a text here.
fn call(object: Value, message: &str, tool: &str) -> Result<Value> {
    let function = format!("{message}/tool_calls/0/function");
    let text = arguments().to_string();
    with(
        object,
        [(&*format!("{function}/name"), tool.into()), (&*format!("{function}/arguments"), text.into())],
    )
}

fn usage(prompt: usize, text: &str) -> Value {
    let answer = words(text).count();
    json!({ "prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer })
}

fn wants_usage(asked: &Asked<'_>) -> bool {
    asked.body.pointer("/stream_options/include_usage") == Some(&Value::Bool(true))
}

fn finished(chunks: &[Value]) -> Vec<Bytes> {
    chunks.iter().map(data).chain([Bytes::from_static(b"data: [DONE]\n\n")]).collect()
}
