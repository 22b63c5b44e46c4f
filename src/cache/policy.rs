//! When the cache may answer and when it may keep an answer: by the operator's modes, the request, and the client's
//! `Cache-Control`.

use std::time::Duration;

use http::{HeaderMap, header};

use crate::{
    api::endpoint::Endpoint,
    fleet::ModelName,
    wire::{members::Members, options::Options, protocol::Protocol},
};

/// Which requests the cache may answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheMode {
    /// `/chat`, embeddings, and requests whose client wants the same answer again: with temperature 0 or a seed, and
    /// without tools.
    #[default]
    Auto,
    /// All requests.
    All,
    /// No request.
    Off,
}

impl CacheMode {
    /// The mode with the given name.
    ///
    /// # Errors
    /// A sentence that lists the names.
    pub fn parse(name: &str) -> Result<Self, String> {
        match name.trim().to_ascii_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "all" => Ok(Self::All),
            "off" => Ok(Self::Off),
            _ => Err("must be auto, all or off".to_owned()),
        }
    }

    /// Whether the cache may answer a request; `endpoint` is its endpoint, `None` for `/chat`.
    pub(crate) fn covers(self, endpoint: Option<Endpoint>, request: Option<&Members<'_>>) -> bool {
        match (self, endpoint) {
            (Self::Off, _) => false,
            (Self::Auto | Self::All, Some(endpoint)) if !endpoint.asks_a_model() => false,
            // A body that is no JSON object goes to Ollama, which refuses it.
            (Self::Auto | Self::All, Some(_)) if request.is_none() => false,
            (Self::Auto | Self::All, None) | (Self::All, Some(_)) => true,
            (Self::Auto, Some(endpoint)) => {
                let is_repeatable =
                    |protocol| request.is_some_and(|request| is_repeatable(protocol, request));
                endpoint.protocol().is_none_or(is_repeatable)
            }
        }
    }
}

/// Which callers share cached answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheSharing {
    /// Each caller has answers of its own.
    #[default]
    Caller,
    /// All callers share answers.
    Shared,
}

impl CacheSharing {
    /// The sharing with the given name.
    ///
    /// # Errors
    /// A sentence that lists the names.
    pub fn parse(name: &str) -> Result<Self, String> {
        match name {
            "caller" => Ok(Self::Caller),
            "shared" => Ok(Self::Shared),
            _ => Err("must be caller or shared".to_owned()),
        }
    }
}

/// The general cache mode, and the modes of single models.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheModes {
    /// The mode of all models without one of their own.
    pub(crate) general: CacheMode,
    models: Vec<(ModelName, CacheMode)>,
}

impl CacheModes {
    /// Parses the modes of single models from a list such as `llama3.2=off,nomic-embed-text=all`.
    ///
    /// # Errors
    /// A sentence about the first malformed entry.
    pub(crate) fn parse_models(list: &str) -> Result<Vec<(ModelName, CacheMode)>, String> {
        let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let entry = |entry: &str| {
            let (name, mode) = entry.split_once('=').unwrap_or((entry, ""));
            let name = ModelName::parse(name.trim());
            let name =
                name.ok_or_else(|| "must be a list such as llama3.2=off,nomic-embed-text=all".to_owned())?;
            let mode =
                CacheMode::parse(mode).map_err(|_| format!("the mode of {name} must be auto, all or off"))?;
            Ok((name, mode))
        };
        entries.map(entry).collect()
    }

    /// A general mode with the modes of single models.
    pub fn new(general: CacheMode, models: Vec<(ModelName, CacheMode)>) -> Self {
        Self { general, models }
    }

    /// The mode of a model.
    pub(crate) fn of(&self, model: Option<&str>) -> CacheMode {
        let own = model.and_then(|model| self.models.iter().find(|(name, _)| name.is(model)));
        own.map_or(self.general, |(_, mode)| *mode)
    }
}

/// Whether the client wants the same answer again: temperature 0 or a seed, where Ollama reads them on that endpoint,
/// and no tools.
fn is_repeatable(protocol: Protocol, request: &Members<'_>) -> bool {
    let member = |name| request.raw(name).and_then(|value| value.get().parse::<f64>().ok());
    let (seed, temperature) = match protocol {
        Protocol::OllamaChat | Protocol::OllamaGenerate => {
            let options = Options::of(request);
            (options.whole("seed").map(|seed| seed >= 0), options.number("temperature"))
        }
        Protocol::OpenAiChat | Protocol::OpenAiCompletion => {
            (member("seed").map(|seed| seed >= 0.0), member("temperature"))
        }
        Protocol::OpenAiResponse | Protocol::AnthropicMessage => (None, member("temperature")),
    };
    let has_tools = ["tools", "functions"]
        .into_iter()
        .any(|name| request.raw(name).is_some_and(|tools| tools.get().trim_start_matches('[').trim() != "]"));
    // Only the server knows the earlier messages.
    let has_unknown_history = request.raw("previous_response_id").is_some();
    // A negative seed, which is Ollama's default, means a random one.
    let is_seeded = seed == Some(true);
    !has_tools && !has_unknown_history && (is_seeded || temperature == Some(0.0))
}

/// The client's `Cache-Control` (RFC 9111, 5.2.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CacheControl {
    no_cache: bool,
    no_store: bool,
    max_age: Option<Duration>,
    pub(crate) only_if_cached: bool,
}

impl CacheControl {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut control = Self::default();
        let lists = headers.get_all(header::CACHE_CONTROL).into_iter().filter_map(|list| list.to_str().ok());
        for directive in lists.flat_map(|list| list.split(',')) {
            let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
            match name.trim().to_ascii_lowercase().as_str() {
                "no-cache" => control.no_cache = true,
                "no-store" => control.no_store = true,
                "only-if-cached" => control.only_if_cached = true,
                "max-age" => {
                    // A `max-age` that cannot be parsed counts as 0, the strictest value.
                    let seconds = value.trim().trim_matches('"').parse().unwrap_or_default();
                    let seconds = Duration::from_secs(seconds);
                    control.max_age = Some(control.max_age.map_or(seconds, |other| other.min(seconds)));
                }
                _ => {}
            }
        }
        control
    }
}

/// How one request uses the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CachePolicy {
    /// It neither reads nor writes the cache.
    None,
    /// It writes its answer and does not read (`no-cache`, `max-age=0`).
    Keep,
    /// It may get an answer of at most that age, and writes its own.
    Answer { max_age: Option<Duration> },
}

impl CachePolicy {
    /// The policy of a request. `is_covered` is [`CacheMode::covers`].
    pub(crate) fn of(is_covered: bool, control: &CacheControl) -> Self {
        match control {
            _ if !is_covered => Self::None,
            CacheControl { no_store: true, .. } => Self::None,
            CacheControl { no_cache: true, .. } | CacheControl { max_age: Some(Duration::ZERO), .. } => {
                Self::Keep
            }
            CacheControl { max_age, .. } => Self::Answer { max_age: *max_age },
        }
    }

    /// The greatest age of an acceptable answer; `None` for any age.
    pub(crate) fn max_age(self) -> Option<Duration> {
        match self {
            Self::None | Self::Keep => None,
            Self::Answer { max_age } => max_age,
        }
    }

    /// Whether an answer of this age is acceptable.
    pub(crate) fn takes(self, age: Duration) -> bool {
        match self {
            Self::None | Self::Keep => false,
            Self::Answer { max_age } => max_age.is_none_or(|max_age| age <= max_age),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_cache_answers_what_is_wanted_the_same_again() {
        use Endpoint::{
            AnthropicMessages, OllamaChat, OllamaEmbed, OllamaGenerate, OllamaShow, OpenAiChat,
            OpenAiEmbeddings,
        };
        for (endpoint, request, by_auto) in [
            (None, "{}", true),
            (Some(OllamaEmbed), "{}", true),
            (Some(OpenAiEmbeddings), "{}", true),
            (Some(OllamaChat), "{}", false),
            (Some(OllamaChat), r#"{"options":{"temperature":0}}"#, true),
            (Some(OllamaChat), r#"{"options":{"temperature":0.0,"top_k":1}}"#, true),
            (Some(OllamaChat), r#"{"options":{"temperature":0.1}}"#, false),
            (Some(OllamaChat), r#"{"options":{"seed":7}}"#, true),
            (Some(OllamaChat), r#"{"options":{"seed":null}}"#, false),
            (Some(OllamaChat), r#"{"options":{"seed":0}}"#, true),
            (Some(OllamaChat), r#"{"options":{"seed":7},"options":{"top_k":1}}"#, true),
            (Some(OllamaChat), r#"{"options":{"seed":7},"options":null}"#, false),
            (Some(OllamaChat), r#"{"options":{"Seed":7}}"#, false),
            (Some(OllamaChat), r#"{"options":{"seed":-1}}"#, false),
            (Some(OllamaChat), r#"{"temperature":0,"seed":1}"#, false),
            (Some(OllamaChat), r#"{"options":{"seed":7},"tools":[{}]}"#, false),
            (Some(OllamaChat), r#"{"options":{"seed":7},"tools":[ ]}"#, true),
            (Some(OllamaGenerate), r#"{"options":{"seed":7}}"#, true),
            (Some(OpenAiChat), r#"{"temperature":0}"#, true),
            (Some(OpenAiChat), r#"{"temperature":"0"}"#, false),
            (Some(OpenAiChat), r#"{"seed":1,"temperature":1}"#, true),
            (Some(OpenAiChat), r#"{"seed":1,"functions":[{}]}"#, false),
            (Some(OpenAiChat), r#"{"options":{"temperature":0,"seed":1}}"#, false),
            (Some(AnthropicMessages), r#"{"temperature":0}"#, true),
            (Some(AnthropicMessages), r#"{"seed":1}"#, false),
            (Some(AnthropicMessages), r#"{"temperature":1}"#, false),
            (Some(Endpoint::OpenAiResponses), r#"{"temperature":0,"previous_response_id":"r"}"#, false),
        ] {
            let members = Members::parse(request.as_bytes()).unwrap();
            let covers = |mode: CacheMode| mode.covers(endpoint, Some(&members));
            let found = [CacheMode::Auto, CacheMode::All, CacheMode::Off].map(covers);
            assert_eq!(found, [by_auto, true, false], "{endpoint:?} {request}");
        }
        assert!(!CacheMode::All.covers(Some(OllamaShow), Members::parse(b"{}").as_ref()));
        assert!(!CacheMode::All.covers(Some(OllamaChat), None));
    }

    #[test]
    fn a_model_may_have_a_mode_of_its_own() {
        let models = CacheModes::parse_models("llama3.2=off, nomic-embed-text=ALL,").unwrap();
        let known = CacheModes::new(CacheMode::Auto, models);
        for (model, mode) in [
            (Some("llama3.2"), CacheMode::Off),
            (Some("llama3.2:latest"), CacheMode::Off),
            (Some("llama3.2:1b"), CacheMode::Auto),
            (Some("nomic-embed-text"), CacheMode::All),
            (None, CacheMode::Auto),
        ] {
            assert_eq!(known.of(model), mode, "{model:?}");
        }
        for list in ["llama3.2", "llama3.2=perhaps", "=off"] {
            assert!(CacheModes::parse_models(list).is_err(), "{list}");
        }
    }

    #[test]
    fn a_client_may_want_a_fresh_answer_or_none_that_is_kept() {
        let ten = Some(Duration::from_secs(10));
        for (control, usage, only_if_cached) in [
            ("", CachePolicy::Answer { max_age: None }, false),
            ("no-cache", CachePolicy::Keep, false),
            ("no-store", CachePolicy::None, false),
            ("no-store, no-cache", CachePolicy::None, false),
            ("max-age=10", CachePolicy::Answer { max_age: ten }, false),
            ("max-age=0", CachePolicy::Keep, false),
            ("only-if-cached", CachePolicy::Answer { max_age: None }, true),
            ("ONLY-IF-CACHED, Max-Age=10", CachePolicy::Answer { max_age: ten }, true),
            ("max-age=60, max-age=10", CachePolicy::Answer { max_age: ten }, false),
            ("max-age=soon", CachePolicy::Keep, false),
            ("max-age=-1", CachePolicy::Keep, false),
            ("max-age", CachePolicy::Keep, false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(control));
            let wanted = CacheControl::of(&headers);
            assert_eq!(
                (CachePolicy::of(true, &wanted), wanted.only_if_cached),
                (usage, only_if_cached),
                "{control}"
            );
            assert_eq!(CachePolicy::of(false, &wanted), CachePolicy::None, "{control}");
        }
        let seconds = Duration::from_secs;
        assert!(
            CachePolicy::Answer { max_age: ten }.takes(seconds(10))
                && !CachePolicy::Answer { max_age: ten }.takes(seconds(11))
        );
        assert!(
            CachePolicy::Answer { max_age: None }.takes(seconds(11))
                && !CachePolicy::Keep.takes(Duration::ZERO)
        );
    }
}
