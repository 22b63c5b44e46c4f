//! OpenAI's newer protocol: `/v1/responses`. A response that calls a tool was never recorded, so none is given.

use anyhow::{Result, bail};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    Scripted,
    asked::{Asked, words},
    openai::refusal,
    shapes::{event, events, object, stream, whole, with},
};

/// What Ollama answers; nothing where the path is another.
pub(super) fn answer(asked: &Asked<'_>) -> Result<Option<Scripted>> {
    if asked.path != "/v1/responses" {
        return Ok(None);
    }
    if let Some(refusal) = refusal(asked)? {
        return Ok(Some(refusal));
    }
    let said = asked.body.get("input").and_then(Value::as_str);
    let text = said.map_or_else(|| asked.reply(), |said| asked.echo(said));
    if asked.is_streamed(false) {
        return stream("31-v1-responses-stream", said_in_events(asked, &text)?).map(Some);
    }
    let places = [
        ("/model", asked.model().into()),
        ("/output/0/content/0/text", text.as_str().into()),
        ("/usage", usage(asked, &text)),
    ];
    whole("30-v1-responses", &with(object("30-v1-responses")?, places)?).map(Some)
}

fn said_in_events(asked: &Asked<'_>, text: &str) -> Result<Vec<Bytes>> {
    let recorded = events("31-v1-responses-stream")?;
    let [created, running, item, part, delta, .., text_done, part_done, item_done, completed] =
        recorded.as_slice()
    else {
        bail!("not nine events")
    };
    let model = || [("/response/model", asked.model().into())];
    let mut said =
        vec![with(created.clone(), model())?, with(running.clone(), model())?, item.clone(), part.clone()];
    for word in words(text) {
        said.push(with(delta.clone(), [("/delta", word.into())])?);
    }
    said.push(with(text_done.clone(), [("/text", text.into())])?);
    said.push(with(part_done.clone(), [("/part/text", text.into())])?);
    said.push(with(item_done.clone(), [("/item/content/0/text", text.into())])?);
    let places =
        [("/response/output/0/content/0/text", text.into()), ("/response/usage", usage(asked, text))];
    said.push(with(with(completed.clone(), model())?, places)?);
    let numbered = said.into_iter().enumerate();
    numbered.map(|(number, it)| Ok(event(&with(it, [("/sequence_number", number.into())])?))).collect()
}

fn usage(asked: &Asked<'_>, text: &str) -> Value {
    let (prompt, answer) = (asked.prompt_tokens().max(10), words(text).count());
    json!({
        "input_tokens": prompt,
        "input_tokens_details": { "cached_tokens": 0 },
        "output_tokens": answer,
        "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": prompt + answer,
    })
}
