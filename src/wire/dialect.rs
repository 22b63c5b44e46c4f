//! Converts the messages of a conversation from one chat protocol to another.
//!
//! A message is stored as the JSON that its client or host sent, and is rewritten only for another dialect. Conversion
//! never fails: content of an unknown form becomes text.

mod call;
mod read;
mod thread;
mod write;

use std::{borrow::Cow, fmt, sync::Arc};

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::members::Members;

pub(crate) use call::Call;
pub(super) use read::read;
pub(crate) use thread::Thread;
pub(super) use write::{calls, write};

/// The format in which a chat protocol writes messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Ollama's `/api/chat`.
    Ollama,
    /// `/v1/chat/completions`.
    OpenAi,
    /// `/v1/messages`.
    Anthropic,
}

impl Dialect {
    const ALL: [Self; 3] = [Self::Ollama, Self::OpenAi, Self::Anthropic];

    /// The dialect's name, as it stands in stored turns.
    fn name(self) -> &'static str {
        match self {
            Self::Ollama => "ollama",
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
        }
    }

    /// The dialect of a name that [`Dialect::name`] gave; `None` for any other text.
    pub(crate) fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dialect| dialect.name() == name)
    }
}

impl Serialize for Dialect {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A message as it was written. Clones share it, because images make it large. Its `Debug` form shows no content.
#[derive(Clone)]
pub struct RawMessage(Arc<RawValue>);

impl RawMessage {
    /// Copies a message.
    pub fn from_raw(message: &RawValue) -> Self {
        Self(message.to_owned().into())
    }

    /// The message as JSON that can be parsed.
    pub(crate) fn as_raw(&self) -> &RawValue {
        &self.0
    }

    /// The message's JSON text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// The length of the JSON text in bytes.
    #[expect(clippy::len_without_is_empty, reason = "no JSON is empty")]
    pub fn len(&self) -> usize {
        self.0.get().len()
    }
}

impl From<Box<RawValue>> for RawMessage {
    fn from(message: Box<RawValue>) -> Self {
        Self(message.into())
    }
}

impl Serialize for RawMessage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl PartialEq for RawMessage {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for RawMessage {}

impl fmt::Debug for RawMessage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "RawMessage({} bytes)", self.len())
    }
}

/// Who wrote a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum MessageRole {
    /// Instructions; `developer` in newer OpenAI models.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
    /// An unknown role, or JSON that is no message.
    #[default]
    Other,
}

/// The role of a message. Anthropic sends results of tools inside messages of the user; those count as
/// [`MessageRole::Tool`].
pub(crate) fn role(message: &RawValue) -> MessageRole {
    let Some(message) = Members::of(message) else { return MessageRole::Other };
    let role = message.string("role").unwrap_or_default();
    let is = |name: &&str| role.eq_ignore_ascii_case(name);
    if ["system", "developer"].iter().any(is) {
        MessageRole::System
    } else if is(&"user") {
        let content = message.array("content").unwrap_or_default();
        let has_result =
            content.into_iter().filter_map(Members::of).any(|block| kind(&block) == "tool_result");
        if has_result { MessageRole::Tool } else { MessageRole::User }
    } else if is(&"assistant") {
        MessageRole::Assistant
    } else if ["tool", "function"].iter().any(is) {
        MessageRole::Tool
    } else {
        MessageRole::Other
    }
}

/// Whether the message is the assistant's and calls tools.
pub(crate) fn calls_tools(message: &RawValue) -> bool {
    role(message) == MessageRole::Assistant && !read::read(message).calls.is_empty()
}

/// The text of a message or of bare content: a string, or the texts of its parts joined by line breaks.
pub(crate) fn text(message: &RawValue) -> String {
    match Members::of(message) {
        Some(members) => members.raw("content").map_or_else(|| read::part(message), read::text),
        None => read::text(message),
    }
}

/// The text of a message of one dialect. Ollama's own content is a string, which a `null` behind it leaves as it is.
pub(crate) fn text_in(dialect: Dialect, message: &RawValue) -> String {
    let members = Members::of(message).filter(|_| dialect == Dialect::Ollama);
    let content = members.and_then(|members| members.string("content"));
    content.map_or_else(|| text(message), Cow::into_owned)
}

/// The size of messages, as far as a model reads them; tokens are estimated from it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Weight {
    /// The number of messages.
    pub(crate) messages: usize,
    /// Bytes of text, thinking and tool calls.
    pub(crate) bytes: usize,
    /// The number of images. Their size in bytes tells nothing about their tokens.
    pub(crate) images: usize,
}

impl Weight {
    /// The weight of a message, or of JSON that is no message, such as a description of tools.
    pub(crate) fn of(message: &RawValue) -> Self {
        let said = read::read(message);
        let calls = said.calls.iter().map(|call| call.name.len() + call.arguments.len());
        let bytes = said.text.len() + said.thinking.len() + calls.sum::<usize>();
        Self { messages: 1, bytes, images: said.images.len() }
    }

    /// The weight of a message that consists of `text` only.
    pub(crate) fn of_text(text: &str) -> Self {
        Self { messages: 1, bytes: text.len(), images: 0 }
    }
}

impl std::iter::Sum for Weight {
    fn sum<I: Iterator<Item = Self>>(weights: I) -> Self {
        weights.fold(Self::default(), |sum, weight| Self {
            messages: sum.messages + weight.messages,
            bytes: sum.bytes + weight.bytes,
            images: sum.images + weight.images,
        })
    }
}

/// The content of a message, independent of the dialect.
#[derive(Default)]
pub(super) struct Message<'a> {
    pub(super) role: MessageRole,
    pub(super) text: Cow<'a, str>,
    pub(super) thinking: Cow<'a, str>,
    pub(super) images: Vec<Image<'a>>,
    pub(super) calls: Cow<'a, [Call]>,
    /// Only in the result of a tool: the id of the call.
    pub(super) call_id: Option<Cow<'a, str>>,
    /// Only in the result of a tool: the tool's name.
    pub(super) tool_name: Option<Cow<'a, str>>,
}

pub(super) enum Image<'a> {
    /// Base64, with the media type.
    Data { media: Cow<'a, str>, base64: Cow<'a, str> },
    /// A URL that is no `data:` URI. Ollama does not fetch it.
    Url(Cow<'a, str>),
}

fn kind<'a>(part: &Members<'a>) -> Cow<'a, str> {
    part.string("type").unwrap_or_default()
}

/// `text` if it is a JSON object, else an empty object.
fn object(text: &str) -> &str {
    let text = text.trim();
    if Members::parse(text.as_bytes()).is_some() { text } else { "{}" }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Dialect; 3] = Dialect::ALL;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    fn converted(json: &str, from: Dialect, to: Dialect) -> String {
        convert(&RawMessage::from_raw(&raw(json)), from, to).as_str().to_owned()
    }

    fn convert(message: &RawMessage, from: Dialect, to: Dialect) -> RawMessage {
        let mut converted = Thread::default().convert(message, from, to);
        assert_eq!(converted.len(), 1);
        converted.remove(0)
    }

    #[test]
    fn a_message_shows_no_content_and_is_written_as_it_was_read() {
        let json = r#"{"role":"user", "content":"secret","x":1}"#;
        let message = RawMessage::from_raw(&raw(json));
        assert_eq!(format!("{message:?}"), "RawMessage(41 bytes)");
        assert_eq!(serde_json::to_string(&message).unwrap(), json);
        assert!(message == message.clone() && message.len() == json.len());
        assert!(message != RawMessage::from_raw(&raw("{}")));
        assert_eq!(serde_json::to_string(&ALL).unwrap(), r#"["ollama","openai","anthropic"]"#);
    }

    #[test]
    fn a_role_is_known_by_any_of_its_names() {
        let cases = [
            (r#"{"role":"system"}"#, MessageRole::System),
            (r#"{"role":"developer"}"#, MessageRole::System),
            (r#"{"role":"User","content":"x"}"#, MessageRole::User),
            (r#"{"role":"user","content":[{"type":"text","text":"x"}]}"#, MessageRole::User),
            (r#"{"role":"user","content":[{"type":"tool_result","tool_use_id":"t"}]}"#, MessageRole::Tool),
            (r#"{"role":"assistant"}"#, MessageRole::Assistant),
            (r#"{"role":"tool"}"#, MessageRole::Tool),
            (r#"{"role":"function"}"#, MessageRole::Tool),
            (r#"{"role":"robot"}"#, MessageRole::Other),
            (r#"{"content":"x"}"#, MessageRole::Other),
            ("5", MessageRole::Other),
        ];
        for (json, expected) in cases {
            assert_eq!(role(&raw(json)), expected, "{json}");
        }
    }

    #[test]
    fn text_is_found_in_every_form_of_content() {
        let cases = [
            (r#"{"role":"system","content":"a\nb"}"#, "a\nb"),
            (
                r#"{"content":[{"type":"text","text":"a"},{"type":"image_url"},{"type":"text","text":"b"}]}"#,
                "a\nb",
            ),
            (r#""bare""#, "bare"),
            (r#"[{"type":"text","text":"a","cache_control":{}},{"type":"text","text":"b"}]"#, "a\nb"),
            (r#"["a","b"]"#, "a\nb"),
            (r#"{"type":"text","text":"a"}"#, "a"),
            (r#"{"role":"assistant","content":null,"tool_calls":[]}"#, ""),
            (r#"{"content":5}"#, "5"),
            ("[]", ""),
        ];
        for (json, expected) in cases {
            assert_eq!(text(&raw(json)), expected, "{json}");
        }
    }

    #[test]
    fn a_message_of_the_same_dialect_is_left_alone() {
        let json = r#"{ "content" :"x","unknown":[1] }"#;
        for dialect in ALL {
            assert_eq!(converted(json, dialect, dialect), json);
        }
    }

    #[test]
    fn messages_are_the_same_in_every_dialect() {
        let table = [
            [r#"{"role":"user","content":"hi"}"#; 3],
            [
                r#"{"role":"user","content":"what?","images":["iVBORx","/9j/x"]}"#,
                r#"{"role":"user","content":[{"type":"text","text":"what?"},{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORx"}},{"type":"image_url","image_url":{"url":"data:image/jpeg;base64,/9j/x"}}]}"#,
                r#"{"role":"user","content":[{"type":"text","text":"what?"},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"iVBORx"}},{"type":"image","source":{"type":"base64","media_type":"image/jpeg","data":"/9j/x"}}]}"#,
            ],
            [
                r#"{"role":"assistant","content":"","thinking":"hm","tool_calls":[{"id":"c","function":{"index":0,"name":"f","arguments":{"a":1}}}]}"#,
                r#"{"role":"assistant","content":"","reasoning":"hm","tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]}"#,
                r#"{"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":""},{"type":"tool_use","id":"c","name":"f","input":{"a":1}}]}"#,
            ],
            [
                r#"{"role":"tool","content":"18 C","tool_call_id":"c"}"#,
                r#"{"role":"tool","content":"18 C","tool_call_id":"c"}"#,
                r#"{"role":"user","content":[{"type":"tool_result","tool_use_id":"c","content":"18 C"}]}"#,
            ],
        ];
        for row in table {
            for (json, from) in row.into_iter().zip(ALL) {
                for (expected, to) in row.into_iter().zip(ALL) {
                    assert_eq!(converted(json, from, to), expected);
                }
            }
        }
    }

    #[test]
    fn media_types_are_told_by_the_first_bytes() {
        for (base64, media) in
            [("/9j/4A", "jpeg"), ("iVBORw0", "png"), ("R0lGODlh", "gif"), ("UklGRg", "webp"), ("AAAA", "png")]
        {
            let json = format!(r#"{{"role":"user","content":"","images":["{base64}"]}}"#);
            let url = format!("data:image/{media};base64,{base64}");
            assert!(converted(&json, Dialect::Ollama, Dialect::OpenAi).contains(&url), "{base64}");
        }
    }

    #[test]
    fn sound_among_the_images_stays_sound() {
        // `RIFF....WAVE`, `ID3`, and the beginning of a frame of MPEG; `RIFF....WEBP` is an image.
        for (base64, media) in [
            ("UklGRiQAAABXQVZFZm10IBAAAAABAAEA", Some("wav")),
            ("SUQzBAAAAAAA", Some("mp3")),
            ("//uQZAAA", Some("mp3")),
            ("UklGRiQAAABXRUJQVlA4IBgAAAAwAQCd", None),
        ] {
            let json = format!(r#"{{"role":"user","content":"what?","images":["{base64}"]}}"#);
            let openai = converted(&json, Dialect::Ollama, Dialect::OpenAi);
            let part = match media {
                Some(format) => {
                    format!(
                        r#"{{"type":"input_audio","input_audio":{{"data":"{base64}","format":"{format}"}}}}"#
                    )
                }
                None => format!("data:image/webp;base64,{base64}"),
            };
            assert!(openai.contains(&part), "{openai}");
            assert_eq!(converted(&openai, Dialect::OpenAi, Dialect::Ollama), json);
            let anthropic = converted(&json, Dialect::Ollama, Dialect::Anthropic);
            assert_eq!(converted(&anthropic, Dialect::Anthropic, Dialect::OpenAi), openai);
        }
    }

    #[test]
    fn an_image_elsewhere_keeps_its_address() {
        let json = r#"{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"https://x/y.png"}}]}"#;
        assert_eq!(
            converted(json, Dialect::OpenAi, Dialect::Ollama),
            r#"{"role":"user","content":"a\nhttps://x/y.png"}"#
        );
        let anthropic = converted(json, Dialect::OpenAi, Dialect::Anthropic);
        assert!(anthropic.contains(r#""source":{"type":"url","url":"https://x/y.png"}"#));
        assert_eq!(converted(&anthropic, Dialect::Anthropic, Dialect::OpenAi), json);
    }

    #[test]
    fn what_is_missing_or_malformed_breaks_no_json() {
        let call = r#"{"role":"assistant","content":null,"tool_calls":[{"function":{"name":"f","arguments":"{\"a\":"}},{"function":{"name":"g"}},5]}"#;
        assert_eq!(
            converted(call, Dialect::OpenAi, Dialect::Anthropic),
            r#"{"role":"assistant","content":[{"type":"tool_use","id":"call_0","name":"f","input":{}},{"type":"tool_use","id":"call_1","name":"g","input":{}}]}"#
        );
        for json in
            ["5", "\"5\"", "[5]", "null", "{}", r#"{"role":5,"content":{"a":1},"images":5,"tool_calls":5}"#]
        {
            for to in [Dialect::OpenAi, Dialect::Anthropic] {
                let message = converted(json, Dialect::Ollama, to);
                assert_eq!(role(&raw(&message)), MessageRole::User, "{json} {message}");
            }
        }
        assert_eq!(converted("\"x\"", Dialect::Ollama, Dialect::OpenAi), r#"{"role":"user","content":"x"}"#);
    }

    proptest! {
        #[test]
        fn text_survives_the_way_there_and_back(
            said in "(\\PC|\n|\"|\\\\|\r){0,20}",
            user in any::<bool>(),
            rich in any::<bool>(),
            from in 0usize..3,
            to in 0usize..3,
        ) {
            let said = Message {
                role: if user { MessageRole::User } else { MessageRole::Assistant },
                text: said.into(),
                thinking: if rich && !user { "hm" } else { "" }.into(),
                images: if rich && user {
                    vec![Image::Data { media: "image/png".into(), base64: "iVBORx".into() }]
                } else {
                    Vec::new()
                },
                calls: Cow::Borrowed(&[]),
                ..Message::default()
            };
            let message = RawMessage::from(write(&said, ALL[from]));
            let there = convert(&message, ALL[from], ALL[to]);
            let back = convert(&there, ALL[to], ALL[from]);
            prop_assert_eq!(text(there.as_raw()), said.text.as_ref());
            prop_assert_eq!(text(back.as_raw()), said.text.as_ref());
            prop_assert_eq!(back, message);
        }
    }
}
