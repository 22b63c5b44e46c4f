//! How many tokens of a model's context window are left for a session's history. Pure.
//!
//! Tokens are estimated rather too high than too low, because Ollama silently cuts a prompt that exceeds the window.

use std::collections::BTreeMap;

use super::{PromptCount, Turn};
use crate::{
    fleet::{Context, Inventory, ModelName},
    wire::{
        dialect::{Dialect, Weight},
        members::{self, Members},
        options::Options,
        pace::Pace,
    },
};

/// The assumed window in tokens of a model that is not loaded and whose Modelfile sets none: the smallest of Ollama's
/// own defaults, which depend on the machine's memory (`OLLAMA_CONTEXT_LENGTH`).
const UNKNOWN: u64 = 4096;
/// The window that every model is assumed to have; a history within it needs no request to a host.
const LEAST: u64 = 2048;
/// The divisor of the window that gives the share of the answer, when the request sets no limit for the answer.
const ANSWER: u64 = 4;
/// The divisor of the window that gives the largest share of the answer, so that a high limit in the request still
/// leaves room for history.
const LONGEST_ANSWER: u64 = 2;
/// Tokens in 1,000 bytes of text: 250 in English prose, more in code and in most other languages.
const USUAL: u64 = 334;
/// The least and the greatest rate that a count of Ollama may give.
const RATES: std::ops::RangeInclusive<u64> = 150..=1000;
/// The shortest prompt, in bytes, whose count is used: in a shorter one the template dominates.
const TELLING: u64 = 500;
/// Tokens that a model's template adds to each message.
const TEMPLATE: usize = 8;
/// Tokens of an image: models make between 256 and about 1,600 tokens of one.
const IMAGE: usize = 1600;

/// Tokens per 1,000 bytes of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate(u64);

impl Default for Rate {
    fn default() -> Self {
        Self(USUAL)
    }
}

impl Rate {
    /// The rate from Ollama's count of the newest prompt that is long enough. It is clamped, because Ollama may have
    /// cut the prompt, and some models count only the part that was not cached.
    pub(crate) fn of(turns: &[Turn]) -> Self {
        let counts = turns.iter().rev().filter_map(|turn| turn.prompt);
        let mut telling = counts.filter(|count| count.bytes >= TELLING);
        telling.next().map_or_else(Self::default, |PromptCount { tokens, bytes }| {
            Self((tokens.saturating_mul(1000) / bytes).clamp(*RATES.start(), *RATES.end()))
        })
    }

    /// The estimated tokens of `weight`.
    pub(crate) fn tokens(self, weight: Weight) -> usize {
        let text = (weight.bytes as u64).saturating_mul(self.0).div_ceil(1000);
        usize::try_from(text).unwrap_or(usize::MAX) + weight.messages * TEMPLATE + weight.images * IMAGE
    }
}

/// How many tokens of history fit before a request for `model`.
pub(crate) fn room(
    request: &Members<'_>,
    own: Weight,
    dialect: Dialect,
    model: Option<&str>,
    inventories: &BTreeMap<String, impl AsRef<Inventory>>,
    rate: Rate,
) -> usize {
    let wished = option(request, dialect, "num_ctx");
    room_in(window(wished, model, inventories), request, own, dialect, rate)
}

/// How many tokens fit in any case, or `None` when the window is known, so that no host needs to be asked.
pub(crate) fn certain_room(
    request: &Members<'_>,
    own: Weight,
    dialect: Dialect,
    model: &ModelName,
    inventories: &BTreeMap<String, impl AsRef<Inventory>>,
    rate: Rate,
) -> Option<usize> {
    let wished = option(request, dialect, "num_ctx");
    let is_known = match wished {
        Some(wished) => wished <= LEAST,
        None => loaded(model, inventories).is_some(),
    };
    let is_known = is_known || contexts(model, inventories).all(|context| context.is_some());
    (!is_known).then(|| room_in(LEAST, request, own, dialect, rate))
}

/// A numeric option above 0. Only Ollama's own endpoints have `options`.
fn option(request: &Members<'_>, dialect: Dialect, name: &str) -> Option<u64> {
    let number = (dialect == Dialect::Ollama).then(|| Options::of(request).whole(name)).flatten();
    number.and_then(|number| u64::try_from(number).ok()).filter(|number| *number > 0)
}

/// How many of the `window` tokens are left for history.
fn room_in(window: u64, request: &Members<'_>, own: Weight, dialect: Dialect, rate: Rate) -> usize {
    let asked = ["max_completion_tokens", "max_tokens"].into_iter().find_map(|name| request.number(name));
    let asked =
        option(request, dialect, "num_predict").or_else(|| asked.filter(|_| dialect != Dialect::Ollama));
    let answer = asked.unwrap_or(window / ANSWER).min(window / LONGEST_ANSWER);
    let left = usize::try_from(window - answer).unwrap_or(usize::MAX);
    left.saturating_sub(rate.tokens(own))
}

/// The model's window, the smallest of all hosts: the request's `num_ctx`, else the loaded context length, else the
/// Modelfile's; never more than the model was trained with.
fn window(
    wished: Option<u64>,
    model: Option<&str>,
    inventories: &BTreeMap<String, impl AsRef<Inventory>>,
) -> u64 {
    let Some(name) = model.and_then(ModelName::parse) else { return wished.unwrap_or(UNKNOWN) };
    let wished = wished.or_else(|| loaded(&name, inventories));
    let windows = contexts(&name, inventories).map(|context| {
        let Context { set, longest } = context.unwrap_or_default();
        wished.or(set).unwrap_or(UNKNOWN).min(longest.unwrap_or(u64::MAX))
    });
    windows.min().unwrap_or_else(|| wished.unwrap_or(UNKNOWN))
}

/// The smallest context length that the model is loaded with on any host.
fn loaded(name: &ModelName, inventories: &BTreeMap<String, impl AsRef<Inventory>>) -> Option<u64> {
    let loaded = inventories.values().filter_map(|inventory| inventory.as_ref().loaded(name));
    loaded.map(|model| model.context_length).filter(|length| *length > 0).min()
}

/// The model's context on each host that has it. A context known from one host holds for the same digest on the others.
fn contexts(
    name: &ModelName,
    inventories: &BTreeMap<String, impl AsRef<Inventory>>,
) -> impl Iterator<Item = Option<Context>> {
    let found = inventories.values().filter_map(|inventory| inventory.as_ref().model(name));
    found.map(|model| {
        inventories.values().find_map(|inventory| inventory.as_ref().contexts.get(&model.digest)).copied()
    })
}

/// The weight of the request's own content: messages, `/chat`'s message and images, system message, tools, and schema.
pub(crate) async fn own_weight(request: &Members<'_>, pace: &mut Pace) -> Weight {
    let images = request.array_in_steps("images", pace).await.unwrap_or_default().len();
    let mut own = Weight { images, ..Weight::default() };
    let mut add = |weight| own = [own, weight].into_iter().sum();
    for message in request.array_in_steps("messages", pace).await.unwrap_or_default() {
        pace.count(message.get().len()).await;
        add(Weight::of(message));
    }
    for value in ["message", "system"].into_iter().filter_map(|name| request.raw(name)) {
        pace.count(value.get().len()).await;
        let text = members::string(value);
        add(text.map_or_else(|| Weight::of(value), |text| Weight::of_text(&text)));
    }
    for value in ["tools", "format", "response_format"].into_iter().filter_map(|name| request.raw(name)) {
        add(Weight { bytes: value.get().len(), ..Weight::default() });
    }
    own
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        fleet::{LoadedModel, Model},
        wire::pace::{STEP, at_once, tests::pauses},
    };

    fn own(request: &Members<'_>) -> Weight {
        at_once(own_weight(request, &mut Pace::unbroken()))
    }

    fn inventories(lengths: &[u64]) -> BTreeMap<String, Arc<Inventory>> {
        let inventory = |length| {
            let loaded =
                LoadedModel { name: "m:latest".into(), context_length: length, expires_at: String::new() };
            Arc::new(Inventory { loaded: vec![loaded], ..Inventory::default() })
        };
        lengths.iter().map(|length| (length.to_string(), inventory(*length))).collect()
    }

    #[track_caller]
    fn check(dialect: Dialect, body: &str, lengths: &[u64], expected: usize) {
        let members = Members::parse(body.as_bytes()).unwrap();
        assert_eq!(
            room(&members, own(&members), dialect, Some("m"), &inventories(lengths), Rate::default()),
            expected,
            "{body}"
        );
    }

    #[test]
    fn the_window_is_the_requests_else_the_loaded_models_else_the_least_there_is() {
        let options = r#"{"options":{"num_ctx":1000}}"#;
        check(Dialect::Ollama, options, &[8000], 750);
        check(Dialect::OpenAi, options, &[8000], 6000);
        check(Dialect::Ollama, "{}", &[8000, 4000, 0], 3000);
        check(Dialect::Ollama, "{}", &[], 3072);
        check(Dialect::Ollama, r#"{"options":{"num_ctx":-1}}"#, &[0], 3072);
    }

    /// Checks the rooms on the three endpoints for a model that one host has with a digest and a context, and another
    /// with a digest only, loaded or not. The second of each pair is the certain room.
    #[track_caller]
    fn check_told(context: Option<Context>, loaded: &[u64], expected: [(usize, Option<usize>); 3]) {
        let mut inventories = inventories(loaded);
        let model = || Model { name: "m:latest".into(), digest: "ab".into() };
        let contexts = context.map(|context| ("ab".to_owned(), context)).into_iter().collect();
        let told = Inventory { models: vec![model()], contexts, ..Inventory::default() };
        let other = Inventory { models: vec![model()], ..Inventory::default() };
        inventories.extend([("told".to_owned(), Arc::new(told)), ("other".to_owned(), Arc::new(other))]);
        let name = ModelName::parse("m").unwrap();
        for (body, expected) in ["{}", r#"{"options":{"num_ctx":100}}"#, r#"{"options":{"num_ctx":100000}}"#]
            .into_iter()
            .zip(expected)
        {
            let members = Members::parse(body.as_bytes()).unwrap();
            let rate = Rate::default();
            let found = (
                room(&members, own(&members), Dialect::Ollama, Some("m"), &inventories, rate),
                certain_room(&members, own(&members), Dialect::Ollama, &name, &inventories, rate),
            );
            assert_eq!(found, expected, "{context:?} {loaded:?} {body}");
        }
    }

    #[test]
    fn a_model_that_is_not_loaded_reads_what_its_modelfile_sets_and_never_more_than_it_was_trained_with() {
        let context = |set, longest| Some(Context { set, longest });
        let doubtful = Some(1536);
        check_told(None, &[], [(3072, doubtful), (75, None), (75_000, doubtful)]);
        check_told(None, &[8000], [(6000, None), (75, None), (75_000, doubtful)]);
        check_told(context(None, None), &[], [(3072, None), (75, None), (75_000, None)]);
        check_told(context(Some(8000), None), &[], [(6000, None), (75, None), (75_000, None)]);
        check_told(context(Some(8000), None), &[4000], [(3000, None), (75, None), (75_000, None)]);
        check_told(context(Some(8000), Some(2000)), &[], [(1500, None), (75, None), (1500, None)]);
        check_told(context(None, Some(2000)), &[], [(1500, None), (75, None), (1500, None)]);
        check_told(context(None, Some(20_000)), &[], [(3072, None), (75, None), (15_000, None)]);
    }

    #[test]
    fn the_answer_gets_what_is_asked_for_it_up_to_half_else_a_quarter() {
        for (dialect, body, expected) in [
            (Dialect::Ollama, r#"{"options":{"num_predict":100}}"#, 900),
            (Dialect::Ollama, r#"{"options":{"num_predict":-1}}"#, 750),
            (Dialect::Ollama, r#"{"max_tokens":100}"#, 750),
            (Dialect::OpenAi, r#"{"max_tokens":100}"#, 900),
            (Dialect::OpenAi, r#"{"max_tokens":100,"max_completion_tokens":200}"#, 800),
            (Dialect::Anthropic, r#"{"max_tokens":4096}"#, 500),
        ] {
            check(dialect, body, &[1000], expected);
        }
    }

    #[test]
    fn what_the_request_brings_is_taken_off() {
        let (text, image) = ("x".repeat(300), 1600);
        for (dialect, body, expected) in [
            (Dialect::Ollama, format!("{{\"message\":\"{text}\"}}"), 109),
            (Dialect::Ollama, format!("{{\"message\":\"{text}\",\"system\":\"{text}\"}}"), 217),
            (Dialect::Ollama, "{\"message\":\"\",\"images\":[\"aGk=\"]}".to_owned(), 8 + image),
            (
                Dialect::OpenAi,
                format!("{{\"messages\":[{{\"role\":\"user\",\"content\":\"{text}\"}}],\"tools\":[1,2]}}"),
                110,
            ),
            (
                Dialect::Anthropic,
                format!("{{\"system\":[{{\"type\":\"text\",\"text\":\"{text}\"}}],\"messages\":[]}}"),
                109,
            ),
        ] {
            check(dialect, &body, &[8000], 6000 - expected);
        }
        // A request that fills the window leaves no room.
        check(Dialect::Ollama, &format!("{{\"message\":\"{}\"}}", "x".repeat(20_000)), &[8000], 0);
    }

    #[test]
    fn many_messages_are_weighed_in_steps() {
        let message = format!("{{\"role\":\"user\",\"content\":\"{}\"}}", "x".repeat(STEP / 4));
        let body = format!("{{\"messages\":[{}]}}", vec![message; 40].join(","));
        let members = Members::parse(body.as_bytes()).unwrap();
        let (weight, broken) = pauses(async |pace: &mut Pace| own_weight(&members, pace).await);
        assert_eq!((weight.messages, weight.bytes), (40, 40 * (STEP / 4)));
        assert!(broken >= 20, "{broken}");
    }
}
