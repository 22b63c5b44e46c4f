//! Reads the conversation of a request as a model's prompt has it: the instructions, the tools, the messages.
//!
//! Pure. It reads the body that goes upstream, so that a history which Paddock inserted is a part of it, and only when
//! upstream is asked.

use std::borrow::Cow;

use memchr::memmem;
use serde_json::value::RawValue;

use super::UpstreamRequest;
use crate::{
    api::endpoint::Work,
    fleet::prefix::{PrefixReader, Prefixes},
    wire::{
        members::Members,
        pace::{Pace, STEP},
    },
};

/// The members with the instructions that stand before all messages: of Anthropic and `/api/generate`, of OpenAI's responses.
const INSTRUCTIONS: [&str; 2] = ["system", "instructions"];
/// The members with the prompt itself.
const PROMPTS: [&str; 3] = ["messages", "prompt", "input"];
/// What marks a part for the caches of a provider. Agents move it to the latest messages with each turn, and no prompt holds it.
const CACHE_MARK: &[u8] = b"\"cache_control\"";
/// How much of a prompt without messages all turns of its conversation have in common, in bytes.
const OPENING: usize = 1024;

/// How many messages are told apart; a longer list is read as one text, so that it takes no memory beside the body's.
const MESSAGES: usize = 4096;

/// What a host's prompt cache may know of a request.
#[derive(Debug, Default)]
pub(crate) struct Prompt {
    /// What names the conversation.
    pub(crate) affinity: u64,
    /// In bytes.
    pub(crate) length: u64,
    pub(crate) prefixes: Prefixes,
}

impl Prompt {
    /// The prompt of a request.
    pub(crate) async fn of(request: &UpstreamRequest, pace: &mut Pace) -> Self {
        // No prompt cache speeds up embeddings, and only JSON has messages.
        let is_read = request.routing_key.work == Some(Work::Answer) && request.content_type.is_none();
        let prefixes = if is_read { prefixes(&request.body, pace).await } else { None };
        let length = prefixes.as_ref().map_or(request.body.len() as u64, Prefixes::length);
        let affinity = request.routing_key.affinity(&request.body, prefixes.as_ref());
        Self { affinity, length, prefixes: prefixes.unwrap_or_default() }
    }
}

/// The beginnings of the prompt of a request; `None` when the body cannot be read or has no prompt.
async fn prefixes(body: &[u8], pace: &mut Pace) -> Option<Prefixes> {
    let members = Members::of_request(body, pace).await.ok()??;
    let prompt = PROMPTS.into_iter().find_map(|name| members.raw(name))?;
    let mut reading = Reading { reader: PrefixReader::default(), pace };
    for instructions in INSTRUCTIONS.into_iter().filter_map(|name| members.raw(name)) {
        reading.value(instructions).await;
    }
    let tools = members.raw("tools");
    match elements(prompt, reading.pace).await {
        Some(messages) => reading.messages(tools, &messages).await,
        None => reading.text(tools, prompt).await,
    }
    Some(reading.reader.finish())
}

/// The messages of a list; `None` for any other prompt, and for a list of more than [`MESSAGES`].
async fn elements<'a>(prompt: &'a RawValue, pace: &mut Pace) -> Option<Vec<&'a RawValue>> {
    let list = crate::wire::members::elements_in_steps(prompt, MESSAGES, pace).await?;
    list.iter().all(|element| element.get().starts_with('{')).then_some(list)
}

struct Reading<'p> {
    reader: PrefixReader,
    pace: &'p mut Pace,
}

impl Reading<'_> {
    /// Instructions among the messages come first: templates put the tools behind them.
    async fn messages(&mut self, tools: Option<&RawValue>, messages: &[&RawValue]) {
        let instructions = messages.iter().take_while(|message| instructs(message)).count();
        let (instructions, said) = messages.split_at_checked(instructions).unwrap_or((&[], messages));
        for message in instructions {
            self.value(message).await;
        }
        if let Some(tools) = tools {
            self.value(tools).await;
        }
        for message in said {
            self.value(message).await;
            self.reader.end_message();
        }
    }

    /// A prompt in one piece. The next one may go on where it ends, so its closing quotation mark is left out.
    async fn text(&mut self, tools: Option<&RawValue>, prompt: &RawValue) {
        if let Some(tools) = tools {
            self.value(tools).await;
        }
        let text = prompt.get();
        let text = text.strip_suffix('"').unwrap_or(text).as_bytes();
        let (opening, rest) = text.split_at_checked(OPENING).unwrap_or((text, &[]));
        self.piece(opening).await;
        self.reader.open();
        self.piece(rest).await;
        self.reader.end_message();
    }

    /// A value as it is written, but for the marks of caches.
    async fn value(&mut self, value: &RawValue) {
        let mut rest = value.get().as_bytes();
        while let Some((before, after)) = without_mark(rest) {
            self.piece(before).await;
            rest = after;
        }
        self.piece(rest).await;
    }

    async fn piece(&mut self, piece: &[u8]) {
        for step in piece.chunks(STEP) {
            self.pace.count(step.len()).await;
            self.reader.text(step);
        }
    }
}

/// Whether a message has instructions for all that follow.
fn instructs(message: &RawValue) -> bool {
    let role = Members::of(message).and_then(|message| message.string("role").map(Cow::into_owned));
    matches!(role.as_deref(), Some("system" | "developer"))
}

/// What stands before and behind the first mark; `None` without one. Within a string its quotation marks would be escaped.
fn without_mark(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memmem::find(text, CACHE_MARK)?;
    let (before, mark) = text.split_at_checked(at)?;
    let end = memchr::memchr2(b'}', b',', mark)?;
    let is_object = mark.get(CACHE_MARK.len()..end)?.contains(&b'{');
    let end = if is_object { memchr::memchr(b'}', mark)? + 1 } else { end };
    let after = mark.get(end..)?;
    // One of the two commas around it goes as well.
    match before.trim_ascii_end().strip_suffix(b",") {
        Some(before) => Some((before, after)),
        None => Some((before, after.trim_ascii_start().strip_prefix(b",").unwrap_or(after))),
    }
}

#[cfg(test)]
mod tests;
