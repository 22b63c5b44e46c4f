//! Reads messages of any dialect. The three formats do not contradict each other, so one reader serves all.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::value::RawValue;

use super::{Call, Image, Message, MessageRole, kind, role};
use crate::wire::{
    members::{self, Members},
    protocol::arguments,
};

/// Reads a message. JSON with an unknown role, or without one, is read as a message of the user.
pub(in crate::wire) fn read(message: &RawValue) -> Message<'_> {
    let role = match role(message) {
        MessageRole::Other => MessageRole::User,
        known @ (MessageRole::System | MessageRole::User | MessageRole::Assistant | MessageRole::Tool) => {
            known
        }
    };
    let Some(members) = Members::of(message) else {
        return Message { role, text: text(message).into(), ..Message::default() };
    };
    let thinking =
        ["thinking", "reasoning", "reasoning_content"].iter().find_map(|name| members.string(name));
    let mut said = Message {
        role,
        thinking: thinking.unwrap_or_default(),
        call_id: members.string("tool_call_id"),
        tool_name: members.string("tool_name").or_else(|| members.string("name")),
        ..Message::default()
    };
    let mut texts = Vec::new();
    if let Some(content) = members.raw("content") {
        match members::elements(content) {
            Some(parts) => parts.into_iter().for_each(|part| read_part(part, &mut said, &mut texts)),
            None => texts.push(whole_text(content)),
        }
    }
    let images = members.array("images").unwrap_or_default();
    said.images.extend(images.into_iter().filter_map(members::string).map(base64_image));
    for call in members.array("tool_calls").unwrap_or_default() {
        said.calls.to_mut().extend(Members::of(call).and_then(|call| function_call(&call)));
    }
    said.text = join(texts);
    said
}

/// The parts of a message: each result of a tool as a message of its own, then the rest.
pub(super) fn results(message: &RawValue) -> Vec<Message<'_>> {
    let parts = Members::of(message).and_then(|message| message.array("content")).unwrap_or_default();
    let is_result = |part: &&RawValue| Members::of(part).is_some_and(|part| kind(&part) == "tool_result");
    let (results, others): (Vec<_>, Vec<_>) = parts.into_iter().partition(is_result);
    if results.is_empty() {
        return vec![read(message)];
    }
    let mut all: Vec<_> =
        results.into_iter().map(|result| read_parts(MessageRole::Tool, vec![result])).collect();
    all.extend((!others.is_empty()).then(|| read_parts(MessageRole::User, others)));
    all
}

fn read_parts(role: MessageRole, parts: Vec<&RawValue>) -> Message<'_> {
    let (mut said, mut texts) = (Message { role, ..Message::default() }, Vec::new());
    for part in parts {
        read_part(part, &mut said, &mut texts);
    }
    said.text = join(texts);
    said
}

/// The text of content: a string, or the texts of its parts joined by line breaks.
pub(super) fn text(content: &RawValue) -> String {
    let Some(parts) = members::elements(content) else { return whole_text(content).into_owned() };
    join(parts.into_iter().filter_map(part_text).collect()).into_owned()
}

/// The text of one part; empty when the part has none.
pub(super) fn part(part: &RawValue) -> String {
    part_text(part).unwrap_or_default().into_owned()
}

/// Content that is no list of parts: a string, the text of a single part, else the JSON text itself.
fn whole_text(content: &RawValue) -> Cow<'_, str> {
    members::string(content).or_else(|| part_text(content)).unwrap_or_else(|| Cow::Borrowed(content.get()))
}

/// The text of a text part: `text`, and `input_text` or `output_text` of `/v1/responses`.
fn part_text(part: &RawValue) -> Option<Cow<'_, str>> {
    let Some(block) = Members::of(part) else { return members::string(part) };
    matches!(&*kind(&block), "text" | "input_text" | "output_text" | "").then(|| block.string("text"))?
}

fn join(texts: Vec<Cow<'_, str>>) -> Cow<'_, str> {
    let mut texts = texts.into_iter();
    let mut joined = texts.next().unwrap_or_default();
    for text in texts {
        let joined = joined.to_mut();
        joined.push('\n');
        joined.push_str(&text);
    }
    joined
}

fn read_part<'a>(part: &'a RawValue, said: &mut Message<'a>, texts: &mut Vec<Cow<'a, str>>) {
    let Some(block) = Members::of(part) else {
        texts.extend(part_text(part));
        return;
    };
    match &*kind(&block) {
        "image_url" => {
            let url = block.object("image_url").and_then(|image| image.string("url"));
            said.images.extend(url.or_else(|| block.string("image_url")).map(url_image));
        }
        "input_audio" => {
            said.images.extend(block.object("input_audio").and_then(|audio| sound(&audio)));
        }
        "image" => said.images.extend(block.object("source").and_then(|source| source_image(&source))),
        "thinking" => {
            let thinking = block.string("thinking").unwrap_or_default();
            if said.thinking.is_empty() {
                said.thinking = thinking;
            } else {
                said.thinking = join(vec![std::mem::take(&mut said.thinking), thinking]);
            }
        }
        "tool_use" => said.calls.to_mut().push(Call {
            id: block.string("id").map(Cow::into_owned),
            name: block.string("name").unwrap_or_default().into_owned(),
            arguments: block.raw("input").map(RawValue::get).unwrap_or_default().to_owned(),
        }),
        "tool_result" => {
            said.call_id = said.call_id.take().or_else(|| block.string("tool_use_id"));
            texts.extend(block.raw("content").map(|content| Cow::Owned(text(content))));
        }
        _ => texts.extend(part_text(part).or_else(|| block.string("text"))),
    }
}

/// A tool call as Ollama and OpenAI write it: Ollama's arguments are an object, OpenAI's a string that contains one.
fn function_call(call: &Members<'_>) -> Option<Call> {
    let function = call.object("function")?;
    Some(Call {
        id: call.string("id").filter(|id| !id.is_empty()).map(Cow::into_owned),
        name: function.string("name").unwrap_or_default().into_owned(),
        arguments: arguments(function.raw("arguments")).into_owned(),
    })
}

fn source_image<'a>(source: &Members<'a>) -> Option<Image<'a>> {
    if let Some(url) = source.string("url") {
        return Some(url_image(url));
    }
    let base64 = source.string("data")?;
    let media = source.string("media_type").unwrap_or_else(|| Cow::Borrowed(media_type(&base64)));
    Some(Image::Data { media, base64 })
}

fn sound<'a>(audio: &Members<'a>) -> Option<Image<'a>> {
    let base64 = audio.string("data")?;
    let media = audio.string("format").map(|format| Cow::Owned(format!("audio/{format}")));
    Some(Image::Data { media: media.unwrap_or_else(|| Cow::Borrowed(media_type(&base64))), base64 })
}

/// An image by its URL. A `data:` URI (RFC 2397) contains the image itself.
fn url_image(url: Cow<'_, str>) -> Image<'_> {
    let data = url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,"));
    match data {
        Some((media, base64)) => {
            Image::Data { media: Cow::Owned(media.to_owned()), base64: Cow::Owned(base64.to_owned()) }
        }
        None => Image::Url(url),
    }
}

fn base64_image(base64: Cow<'_, str>) -> Image<'_> {
    Image::Data { media: Cow::Borrowed(media_type(&base64)), base64 }
}

/// The media type of what Ollama keeps among the images, derived from its first bytes as Ollama does (`llm/media.go`),
/// because nothing else tells it. Sound is kept there, too.
fn media_type(base64: &str) -> &'static str {
    // In base64 four letters are three bytes.
    let beginning =
        base64.get(..16).and_then(|beginning| STANDARD.decode(beginning).ok()).unwrap_or_default();
    if beginning.starts_with(b"RIFF") && beginning.ends_with(b"WAVE") {
        return "audio/wav";
    }
    let known = [
        ("/9j/", "image/jpeg"),
        ("R0lGOD", "image/gif"),
        ("UklGR", "image/webp"),
        ("SUQz", "audio/mp3"),
        ("/+", "audio/mp3"),
        ("//", "audio/mp3"),
    ];
    known.iter().find(|(start, _)| base64.starts_with(start)).map_or("image/png", |(_, media)| media)
}
