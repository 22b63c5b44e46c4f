//! The endpoints of Ollama that Paddock relays, as one exhaustive table.
//!
//! A request to one of them goes upstream to the same path. Nothing here reads a body.

use http::Method;

use super::{
    body::{BodyLimit, BodyLimits},
    error::ErrorFormat,
};
use crate::wire::{dialect::Dialect, framer::Framing, protocol::Protocol};

/// The kind of work that a request causes on a host. Embeddings have a lane of their own, so they do not wait behind
/// answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// The model generates tokens.
    Answer,
    /// The model computes embeddings.
    Embedding,
}

/// A path whose requests are relayed to one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    OllamaChat,
    OllamaGenerate,
    OllamaEmbed,
    OllamaEmbeddings,
    OllamaShow,
    OllamaVersion,
    OpenAiChat,
    OpenAiCompletions,
    OpenAiEmbeddings,
    OpenAiResponses,
    OpenAiModel,
    OpenAiTranscriptions,
    AnthropicMessages,
}

impl Endpoint {
    pub(crate) const ALL: [Self; 13] = [
        Self::OllamaChat,
        Self::OllamaGenerate,
        Self::OllamaEmbed,
        Self::OllamaEmbeddings,
        Self::OllamaShow,
        Self::OllamaVersion,
        Self::OpenAiChat,
        Self::OpenAiCompletions,
        Self::OpenAiEmbeddings,
        Self::OpenAiResponses,
        Self::OpenAiModel,
        Self::OpenAiTranscriptions,
        Self::AnthropicMessages,
    ];

    /// The path, here and upstream; [`Endpoint::OpenAiModel`] without the model's name.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::OllamaChat => "/api/chat",
            Self::OllamaGenerate => "/api/generate",
            Self::OllamaEmbed => "/api/embed",
            Self::OllamaEmbeddings => "/api/embeddings",
            Self::OllamaShow => "/api/show",
            Self::OllamaVersion => "/api/version",
            Self::OpenAiChat => "/v1/chat/completions",
            Self::OpenAiCompletions => "/v1/completions",
            Self::OpenAiEmbeddings => "/v1/embeddings",
            Self::OpenAiResponses => "/v1/responses",
            Self::OpenAiModel => "/v1/models/",
            Self::OpenAiTranscriptions => "/v1/audio/transcriptions",
            Self::AnthropicMessages => "/v1/messages",
        }
    }

    /// The endpoint of a path upstream.
    pub(crate) fn of_path(path: &str) -> Option<Self> {
        let names_model = path.starts_with(Self::OpenAiModel.path());
        if names_model { Some(Self::OpenAiModel) } else { Self::of_label(path) }
    }

    /// The endpoint with this label.
    pub(crate) fn of_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|endpoint| endpoint.label() == label)
    }

    /// The route's label in metrics and logs.
    pub(crate) fn label(self) -> &'static str {
        if self == Self::OpenAiModel { "/v1/models/{model}" } else { self.path() }
    }

    /// The allowed method. An endpoint with GET answers HEAD as well.
    pub(crate) fn method(self) -> Method {
        match self {
            Self::OllamaVersion | Self::OpenAiModel => Method::GET,
            Self::OllamaChat
            | Self::OllamaGenerate
            | Self::OllamaEmbed
            | Self::OllamaEmbeddings
            | Self::OllamaShow
            | Self::OpenAiChat
            | Self::OpenAiCompletions
            | Self::OpenAiEmbeddings
            | Self::OpenAiResponses
            | Self::OpenAiTranscriptions
            | Self::AnthropicMessages => Method::POST,
        }
    }

    /// The protocol of the answer; `None` where the response is no chat or completion.
    pub(crate) fn protocol(self) -> Option<Protocol> {
        match self {
            Self::OllamaChat => Some(Protocol::OllamaChat),
            Self::OllamaGenerate => Some(Protocol::OllamaGenerate),
            Self::OpenAiChat => Some(Protocol::OpenAiChat),
            Self::OpenAiCompletions => Some(Protocol::OpenAiCompletion),
            Self::OpenAiResponses => Some(Protocol::OpenAiResponse),
            Self::AnthropicMessages => Some(Protocol::AnthropicMessage),
            Self::OllamaEmbed
            | Self::OllamaEmbeddings
            | Self::OllamaShow
            | Self::OllamaVersion
            | Self::OpenAiEmbeddings
            | Self::OpenAiTranscriptions
            | Self::OpenAiModel => None,
        }
    }

    /// The dialect of the messages; `None` where sessions are not supported.
    pub(crate) fn dialect(self) -> Option<Dialect> {
        match self {
            Self::OllamaChat => Some(Dialect::Ollama),
            Self::OpenAiChat => Some(Dialect::OpenAi),
            Self::AnthropicMessages => Some(Dialect::Anthropic),
            Self::OllamaGenerate
            | Self::OllamaEmbed
            | Self::OllamaEmbeddings
            | Self::OllamaShow
            | Self::OllamaVersion
            | Self::OpenAiCompletions
            | Self::OpenAiEmbeddings
            | Self::OpenAiResponses
            | Self::OpenAiTranscriptions
            | Self::OpenAiModel => None,
        }
    }

    /// Whether the answer is streamed when the request does not say.
    pub(crate) fn streams_by_default(self) -> bool {
        matches!(self.protocol(), Some(Protocol::OllamaChat | Protocol::OllamaGenerate))
    }

    /// Whether the endpoint loads or asks a model; such requests are counted as requests for an answer.
    pub(crate) fn asks_a_model(self) -> bool {
        match self {
            Self::OllamaShow | Self::OllamaVersion | Self::OpenAiModel => false,
            Self::OllamaChat
            | Self::OllamaGenerate
            | Self::OllamaEmbed
            | Self::OllamaEmbeddings
            | Self::OpenAiChat
            | Self::OpenAiCompletions
            | Self::OpenAiEmbeddings
            | Self::OpenAiResponses
            | Self::OpenAiTranscriptions
            | Self::AnthropicMessages => true,
        }
    }

    /// The work that a model does; `None` for endpoints that ask no model.
    pub(crate) fn work(self) -> Option<Work> {
        let is_embedding =
            matches!(self, Self::OllamaEmbed | Self::OllamaEmbeddings | Self::OpenAiEmbeddings);
        self.asks_a_model().then_some(if is_embedding { Work::Embedding } else { Work::Answer })
    }

    /// Whether a body may be packed with Zstandard, as in Ollama (`cloudPassthroughMiddleware` in `server/cloud_proxy.go`).
    pub(crate) fn unpacks_zstd(self) -> bool {
        match self {
            Self::OpenAiChat
            | Self::OpenAiCompletions
            | Self::OpenAiEmbeddings
            | Self::OpenAiResponses
            | Self::AnthropicMessages => true,
            Self::OllamaChat
            | Self::OllamaGenerate
            | Self::OllamaEmbed
            | Self::OllamaEmbeddings
            | Self::OllamaShow
            | Self::OllamaVersion
            | Self::OpenAiTranscriptions
            | Self::OpenAiModel => false,
        }
    }

    /// Whether the body is a form with a file in it, instead of JSON.
    pub(crate) fn takes_a_form(self) -> bool {
        self == Self::OpenAiTranscriptions
    }

    /// The format of the endpoint's errors.
    pub(crate) fn family(self) -> ErrorFormat {
        ErrorFormat::of(self.path())
    }

    /// The limit of the request's body.
    pub(crate) fn body_limit(self, limits: &BodyLimits) -> BodyLimit {
        match self.family() {
            _ if !self.asks_a_model() => limits.other,
            ErrorFormat::Anthropic => limits.anthropic,
            ErrorFormat::OpenAi => limits.openai,
            ErrorFormat::Ollama | ErrorFormat::Own => limits.ollama,
        }
    }
}

/// How a stream of this protocol is cut into events.
pub(crate) fn framing(protocol: Protocol) -> Framing {
    match protocol {
        Protocol::OllamaChat | Protocol::OllamaGenerate => Framing::Lines,
        Protocol::OpenAiChat
        | Protocol::OpenAiCompletion
        | Protocol::OpenAiResponse
        | Protocol::AnthropicMessage => Framing::Events,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_distinct_and_each_family_is_told_by_its_path() {
        let mut paths: Vec<_> = Endpoint::ALL.iter().map(|endpoint| endpoint.path()).collect();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), Endpoint::ALL.len());
        for (endpoint, family) in [
            (Endpoint::OllamaEmbed, ErrorFormat::Ollama),
            (Endpoint::OpenAiResponses, ErrorFormat::OpenAi),
            (Endpoint::OpenAiModel, ErrorFormat::OpenAi),
            (Endpoint::AnthropicMessages, ErrorFormat::Anthropic),
        ] {
            assert_eq!(endpoint.family(), family, "{endpoint:?}");
        }
    }
}
