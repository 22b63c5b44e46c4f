//! Writes messages in a dialect, as JSON text.

use serde_json::value::RawValue;

use super::{Call, Dialect, Image, Message, MessageRole, object};

/// Writes a message. For Ollama, which fetches no images, an image URL is written into the text.
pub(in crate::wire) fn write(said: &Message<'_>, dialect: Dialect) -> Box<RawValue> {
    let mut json = Json::default();
    json.open('{');
    json.name("role");
    match dialect {
        Dialect::Ollama => ollama(&mut json, said),
        Dialect::OpenAi => openai(&mut json, said),
        Dialect::Anthropic => anthropic(&mut json, said),
    }
    json.close('}');
    json.finish()
}

/// Writes Ollama's `tool_calls`.
pub(in crate::wire) fn calls(calls: &[Call]) -> Box<RawValue> {
    let mut json = Json::default();
    ollama_calls(&mut json, calls);
    json.finish()
}

fn ollama(json: &mut Json, said: &Message<'_>) {
    json.string(role(said));
    let mut text = said.text.clone();
    for image in &said.images {
        if let Image::Url(url) = image {
            let text = text.to_mut();
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(url);
        }
    }
    json.member("content", &text);
    if !said.thinking.is_empty() {
        json.member("thinking", &said.thinking);
    }
    if said.images.iter().any(|image| matches!(image, Image::Data { .. })) {
        json.name("images");
        json.open('[');
        for image in &said.images {
            if let Image::Data { media: _, base64 } = image {
                json.string(base64);
            }
        }
        json.close(']');
    }
    if !said.calls.is_empty() {
        json.name("tool_calls");
        ollama_calls(json, &said.calls);
    }
    if said.role == MessageRole::Tool {
        if let Some(name) = &said.tool_name {
            json.member("tool_name", name);
        }
        if let Some(id) = &said.call_id {
            json.member("tool_call_id", id);
        }
    }
}

fn ollama_calls(json: &mut Json, calls: &[Call]) {
    json.open('[');
    for (index, call) in calls.iter().enumerate() {
        json.open('{');
        if let Some(id) = &call.id {
            json.member("id", id);
        }
        json.name("function");
        json.open('{');
        json.name("index");
        json.raw(&index.to_string());
        json.member("name", &call.name);
        json.name("arguments");
        json.raw(object(&call.arguments));
        json.close('}');
        json.close('}');
    }
    json.close(']');
}

fn openai(json: &mut Json, said: &Message<'_>) {
    json.string(role(said));
    json.name("content");
    if said.images.is_empty() {
        json.string(&said.text);
    } else {
        json.open('[');
        text_part(json, &said.text);
        for image in &said.images {
            json.open('{');
            if let Image::Data { media, base64 } = image
                && let Some(format) = media.strip_prefix("audio/")
            {
                json.member("type", "input_audio");
                json.name("input_audio");
                json.open('{');
                json.member("data", base64);
                json.member("format", format);
                json.close('}');
                json.close('}');
                continue;
            }
            json.member("type", "image_url");
            json.name("image_url");
            json.open('{');
            match image {
                Image::Data { media, base64 } => {
                    let url = ["data:", media.as_ref(), ";base64,", base64.as_ref()].concat();
                    json.member("url", &url);
                }
                Image::Url(url) => json.member("url", url),
            }
            json.close('}');
            json.close('}');
        }
        json.close(']');
    }
    if !said.thinking.is_empty() {
        json.member("reasoning", &said.thinking);
    }
    if !said.calls.is_empty() {
        json.name("tool_calls");
        json.open('[');
        for (index, call) in said.calls.iter().enumerate() {
            json.open('{');
            json.member("id", &call_id(call.id.as_deref(), index));
            json.member("type", "function");
            json.name("function");
            json.open('{');
            json.member("name", &call.name);
            // The model wrote this string; it may be invalid JSON, and the client judges it.
            json.member("arguments", if call.arguments.trim().is_empty() { "{}" } else { &call.arguments });
            json.close('}');
            json.close('}');
        }
        json.close(']');
    }
    if said.role == MessageRole::Tool {
        json.member("tool_call_id", &call_id(said.call_id.as_deref(), 0));
        if let Some(name) = &said.tool_name {
            json.member("name", name);
        }
    }
}

fn anthropic(json: &mut Json, said: &Message<'_>) {
    json.string(if said.role == MessageRole::Tool { "user" } else { role(said) });
    json.name("content");
    if said.role == MessageRole::Tool {
        json.open('[');
        json.open('{');
        json.member("type", "tool_result");
        json.member("tool_use_id", &call_id(said.call_id.as_deref(), 0));
        json.member("content", &said.text);
        json.close('}');
        anthropic_images(json, &said.images);
        json.close(']');
        return;
    }
    if said.thinking.is_empty() && said.images.is_empty() && said.calls.is_empty() {
        json.string(&said.text);
        return;
    }
    json.open('[');
    if !said.thinking.is_empty() {
        json.open('{');
        json.member("type", "thinking");
        json.member("thinking", &said.thinking);
        json.member("signature", "");
        json.close('}');
    }
    text_part(json, &said.text);
    anthropic_images(json, &said.images);
    for (index, call) in said.calls.iter().enumerate() {
        json.open('{');
        json.member("type", "tool_use");
        json.member("id", &call_id(call.id.as_deref(), index));
        json.member("name", &call.name);
        json.name("input");
        json.raw(object(&call.arguments));
        json.close('}');
    }
    json.close(']');
}

fn anthropic_images(json: &mut Json, images: &[Image<'_>]) {
    for image in images {
        json.open('{');
        json.member("type", "image");
        json.name("source");
        json.open('{');
        match image {
            Image::Data { media, base64 } => {
                json.member("type", "base64");
                json.member("media_type", media);
                json.member("data", base64);
            }
            Image::Url(url) => {
                json.member("type", "url");
                json.member("url", url);
            }
        }
        json.close('}');
        json.close('}');
    }
}

/// OpenAI and Anthropic write a text part alike; neither allows an empty one.
fn text_part(json: &mut Json, text: &str) {
    if !text.is_empty() {
        json.open('{');
        json.member("type", "text");
        json.member("text", text);
        json.close('}');
    }
}

fn role(said: &Message<'_>) -> &'static str {
    match said.role {
        MessageRole::System => "system",
        MessageRole::User | MessageRole::Other => "user",
        MessageRole::Assistant => "assistant",
        MessageRole::Tool => "tool",
    }
}

/// The call's id, else one made from its index. A result without an id answers the call of index 0.
fn call_id(id: Option<&str>, index: usize) -> String {
    id.map_or_else(|| format!("call_{index}"), str::to_owned)
}

/// JSON text under construction; it writes the commas.
#[derive(Default)]
struct Json(String);

impl Json {
    fn open(&mut self, bracket: char) {
        self.separate();
        self.0.push(bracket);
    }

    fn close(&mut self, bracket: char) {
        self.0.push(bracket);
    }

    fn name(&mut self, name: &str) {
        self.string(name);
        self.0.push(':');
    }

    fn member(&mut self, name: &str, text: &str) {
        self.name(name);
        self.string(text);
    }

    fn string(&mut self, text: &str) {
        // Serialising a string cannot fail.
        self.raw(&serde_json::to_string(text).unwrap_or_default());
    }

    fn raw(&mut self, json: &str) {
        self.separate();
        self.0.push_str(json);
    }

    fn separate(&mut self) {
        if !self.0.is_empty() && !self.0.ends_with(['{', '[', ':']) {
            self.0.push(',');
        }
    }

    fn finish(self) -> Box<RawValue> {
        // `RawValue::from_string` would compile a second JSON parser into the program.
        serde_json::from_slice(self.0.as_bytes()).unwrap_or(RawValue::NULL).to_owned()
    }
}
