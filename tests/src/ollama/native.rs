//! Ollama's own protocol: `/api/*` and the root.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{
    CHAT, Scripted, TAGS,
    asked::{Asked, arguments, full_name, inputs, words},
    embedding::embedding,
    shapes::{bad_request, events, line, object, renamed, stream, whole, with, wrong_method},
};

/// What Ollama answers; nothing where the path is not of this protocol.
pub(super) fn answer(asked: &Asked<'_>) -> Result<Option<Scripted>> {
    let allowed = match asked.path {
        "/" | "/api/version" | TAGS => "GET, HEAD",
        "/api/ps" | "/api/status" => "GET",
        CHAT | "/api/generate" | "/api/embed" | "/api/embeddings" | "/api/show" | "/api/pull"
        | "/api/copy" | "/api/create" => "POST",
        "/api/delete" => "DELETE",
        _ => return Ok(None),
    };
    if !allowed.split(", ").any(|method| method == asked.method) {
        return wrong_method(allowed).map(Some);
    }
    if !asked.body.is_object() && ["POST", "DELETE"].contains(&allowed) {
        return Scripted::recorded("66-e-chat-badjson").map(Some);
    }
    known(asked).map(Some)
}

fn known(asked: &Asked<'_>) -> Result<Scripted> {
    let model = asked.model();
    match asked.path {
        "/" => Scripted::recorded("01-root"),
        "/api/version" => Scripted::recorded("03-version"),
        "/api/status" => Scripted::recorded("85-status"),
        // Whoever has every model cannot list them.
        TAGS if asked.models.is_none() => Scripted::recorded("77-e-notfound-path"),
        TAGS => list("04-tags", asked.models.unwrap_or_default()),
        "/api/ps" => loaded(asked),
        CHAT if model.is_empty() => Scripted::recorded("64-e-chat-nomodel"),
        CHAT if model.contains(' ') && !asked.has(model) => Scripted::recorded("68-e-chat-badname"),
        CHAT if !asked.has(model) => renamed("54-e-chat-404", "nosuch", model),
        CHAT => chat(asked),
        "/api/generate" if !asked.has(model) => renamed("56-e-generate-404", "nosuch", model),
        "/api/generate" => generate(asked),
        "/api/embed" | "/api/embeddings" if !asked.has(model) => renamed("57-e-embed-404", "nosuch", model),
        "/api/embed" => embed(asked),
        "/api/embeddings" => {
            let vector = embedding(asked.text("prompt"), dimensions(asked));
            whole("19-embeddings-old", &json!({ "embedding": vector }))
        }
        "/api/show" if !asked.has(model) => renamed("58-e-show-404", "nosuch:latest", &full_name(model)),
        "/api/show" => show(asked),
        "/api/copy" => {
            let source = asked.text("source");
            if asked.has(source) {
                Scripted::recorded("47-copy")
            } else {
                renamed("60-e-copy-404", "nosuch", source)
            }
        }
        "/api/delete" if !asked.has(model) => renamed("59-e-delete-404", "nosuch", model),
        "/api/delete" => Scripted::recorded("50-delete"),
        "/api/create" if asked.is_streamed(true) => Scripted::recorded("48-create-from-stream"),
        "/api/pull" if asked.is_streamed(true) => pull(),
        _ => Scripted::recorded("49-create-from"),
    }
}

/// A recorded list of models, with these names.
fn list(name: &str, names: &[String]) -> Result<Scripted> {
    let recorded = object(name)?;
    let model = recorded.pointer("/models/0").context("no model")?;
    let models: Vec<_> = names
        .iter()
        .map(|name| with(model.clone(), [("/name", name.as_str().into()), ("/model", name.as_str().into())]))
        .collect::<Result<_>>()?;
    whole(name, &json!({ "models": models }))
}

fn loaded(asked: &Asked<'_>) -> Result<Scripted> {
    let Some(context) = asked.context else { return list("20-ps-loaded", asked.loaded) };
    let recorded = object("20-ps-loaded")?;
    let model = recorded.pointer("/models/0").context("no model")?;
    let models = asked.loaded.iter().map(|name| {
        let name = Value::from(name.as_str());
        let places = [("/name", name.clone()), ("/model", name), ("/context_length", context.usual().into())];
        with(model.clone(), places)
    });
    whole("20-ps-loaded", &json!({ "models": models.collect::<Result<Vec<_>>>()? }))
}

fn show(asked: &Asked<'_>) -> Result<Scripted> {
    let Some(context) = asked.context else { return renamed("06-show", "smollm2:135m", asked.model()) };
    let recorded = object("06-show")?;
    let parameters = recorded.pointer("/parameters").and_then(Value::as_str).context("no parameters")?;
    let others = parameters.lines().filter(|line| !line.starts_with("num_ctx"));
    let set = context.set.map(|set| format!("num_ctx                        {set}"));
    let parameters: Vec<_> = others.map(ToOwned::to_owned).chain(set).collect();
    let places = [
        ("/parameters", parameters.join("\n").into()),
        ("/model_info/llama.context_length", context.longest.into()),
    ];
    whole("06-show", &with(recorded, places)?)
}

fn chat(asked: &Asked<'_>) -> Result<Scripted> {
    let (model, tokens) = (asked.model(), asked.prompt_tokens());
    match (asked.tool(), asked.is_streamed(true)) {
        (None, true) => Scripted::stream(model, &asked.reply(), tokens),
        (None, false) => Scripted::single(model, &asked.reply(), tokens),
        (Some(tool), true) => {
            let pieces = events("35-tools-chat-stream")?.into_iter().map(|object| {
                let object = with(object, [("/model", model.into())])?;
                Ok(line(&if object.pointer("/message/tool_calls").is_some() {
                    call(object, tool)?
                } else {
                    object
                }))
            });
            stream("35-tools-chat-stream", pieces.collect::<Result<_>>()?)
        }
        (Some(tool), false) => {
            let object = with(object("34-tools-chat")?, [("/model", model.into())])?;
            whole("34-tools-chat", &call(object, tool)?)
        }
    }
}

fn call(object: Value, tool: &str) -> Result<Value> {
    let function = "/message/tool_calls/0/function";
    let places =
        [(&*format!("{function}/name"), tool.into()), (&*format!("{function}/arguments"), arguments())];
    with(object, places)
}

/// A prompt is completed; without one a model is loaded or unloaded.
fn generate(asked: &Asked<'_>) -> Result<Scripted> {
    let (model, prompt) = (asked.model(), asked.text("prompt"));
    if prompt.is_empty() {
        let is_unloaded = asked.body.get("keep_alive").is_some_and(|time| time == 0);
        return renamed(if is_unloaded { "83-unload" } else { "15-generate-load" }, "smollm2:135m", model);
    }
    let text = asked.echo(prompt);
    let counted = |object: Value| {
        let count = words(&text).count();
        with(
            object,
            [("/model", model.into()), ("/prompt_eval_count", 10.into()), ("/eval_count", count.into())],
        )
    };
    if !asked.is_streamed(true) {
        let object = with(counted(object("12-generate")?)?, [("/response", text.as_str().into())])?;
        return whole("12-generate", &object);
    }
    let recorded = events("13-generate-stream")?;
    let (first, last) = recorded.first().zip(recorded.last()).context("no line")?;
    let mut pieces = Vec::new();
    for word in words(&text) {
        pieces.push(line(&with(first.clone(), [("/model", model.into()), ("/response", word.into())])?));
    }
    pieces.push(line(&counted(last.clone())?));
    stream("13-generate-stream", pieces)
}

fn embed(asked: &Asked<'_>) -> Result<Scripted> {
    let Some(inputs) = inputs(asked.body.get("input")) else {
        return bad_request("57-e-embed-404", &json!({ "error": "invalid input type" }));
    };
    let vectors: Vec<_> = inputs.iter().map(|text| embedding(text, dimensions(asked))).collect();
    if vectors.is_empty() {
        return whole("18-embed-dimensions", &json!({ "model": asked.model(), "embeddings": [] }));
    }
    let tokens = inputs.len() * 5;
    let places = [
        ("/model", asked.model().into()),
        ("/embeddings", json!(vectors)),
        ("/prompt_eval_count", tokens.into()),
    ];
    whole("18-embed-dimensions", &with(object("18-embed-dimensions")?, places)?)
}

/// Few, unless the request says how many.
pub(super) fn dimensions(asked: &Asked<'_>) -> usize {
    asked.body.get("dimensions").and_then(Value::as_u64).and_then(|count| count.try_into().ok()).unwrap_or(8)
}

/// The recorded begin of a pull and the recorded end of a creation: no pull that worked was recorded.
fn pull() -> Result<Scripted> {
    let begin = events("52-pull-no-registry")?;
    let end = events("48-create-from-stream")?;
    let lines = begin.iter().take(1).chain(end.iter().rev().take(2).rev());
    stream("52-pull-no-registry", lines.map(line).collect())
}
