//! The inventory of a host: its models, its loaded models, and its version, as the host reports them.
//!
//! A host's answer may be malformed; what is not understood is left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::Serialize;
use serde_json::value::RawValue;

use super::{Context, ModelName, stats::millis};
use crate::{
    api::endpoint::Endpoint,
    wire::members::{self, Members},
};

/// How long a host is not asked for what it lacks.
const LACKS_PERIOD: Duration = Duration::from_mins(10);

/// A host's last answers to `/api/tags`, `/api/ps` and `/api/version`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// When the host was asked, by the store's clock.
    pub seen: Duration,
    /// The models that the host has.
    pub models: Vec<Model>,
    /// Whether the host does not list its models (it answered `/api/tags` with 404, 405 or 501), so that it may have
    /// any.
    pub is_unlisted: bool,
    /// The models that are loaded or loading.
    pub loaded: Vec<LoadedModel>,
    /// Ollama's version; empty when the host did not report it.
    pub version: String,
    /// Context lengths by the model's digest, for the models that `/api/show` was asked about.
    pub contexts: BTreeMap<String, Context>,
    /// The labels of relayed endpoints that the host does not have in this version, as its answers showed.
    pub lacks: BTreeSet<&'static str>,
}

/// A model that a host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// The name as the host writes it.
    pub name: String,
    /// The hash of the model's content.
    pub digest: String,
}

/// A model that a host has loaded, or is loading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedModel {
    /// The name as the host writes it.
    pub name: String,
    /// The context length that it is loaded with, in tokens; 0 when the host did not report it.
    pub context_length: u64,
    /// When the host will unload it, in RFC 3339.
    pub expires_at: String,
}

impl Inventory {
    /// Reads a host's answers to `/api/tags`, `/api/ps` and `/api/version`; `None` when the first holds no list, and so is not
    /// Ollama's.
    pub(crate) fn read(
        seen: Duration,
        tags: &[u8],
        running: Option<&[u8]>,
        version: Option<&[u8]>,
    ) -> Option<Self> {
        let models = list(tags, "models")?;
        let models = models.into_iter().filter_map(|model| {
            let model = Members::of(model)?;
            let text = |name| model.string(name).unwrap_or_default().into_owned();
            Some(Model { name: model.string("name")?.into_owned(), digest: text("digest") })
        });
        let running =
            running.and_then(|running| Members::parse(running)?.array("models")).unwrap_or_default();
        let loaded = running.into_iter().filter_map(|model| {
            let model = Members::of(model)?;
            Some(LoadedModel {
                name: model.string("name")?.into_owned(),
                context_length: model.number("context_length").unwrap_or_default(),
                expires_at: model.string("expires_at").unwrap_or_default().into_owned(),
            })
        });
        let version = version.and_then(read_version);
        Some(Self {
            seen,
            models: models.collect(),
            is_unlisted: false,
            loaded: loaded.collect(),
            version: version.unwrap_or_default(),
            contexts: BTreeMap::new(),
            lacks: BTreeSet::new(),
        })
    }

    /// The inventory of a host that does not list its models, but answers `/api/version` as Ollama does, or else
    /// `/v1/models` as everybody does who speaks OpenAI's protocol. `None` for whoever answers neither: it is a server of
    /// another kind.
    pub(crate) fn unlisted(seen: Duration, version: Option<&[u8]>, models: Option<&[u8]>) -> Option<Self> {
        let version = version.and_then(read_version);
        let speaks = version.is_some() || models.and_then(|models| list(models, "data")).is_some();
        let unlisted =
            || Self { seen, is_unlisted: true, version: version.unwrap_or_default(), ..Self::default() };
        speaks.then(unlisted)
    }

    /// Whether the host has the model, or may have it because it lists none.
    pub(crate) fn has(&self, name: &ModelName) -> bool {
        self.is_unlisted || self.model(name).is_some()
    }

    /// The model in the host's list.
    pub(crate) fn model(&self, name: &ModelName) -> Option<&Model> {
        self.models.iter().find(|model| name.is(&model.name))
    }

    /// Whether the host has a relayed endpoint, as far as is known.
    pub(crate) fn has_endpoint(&self, endpoint: Endpoint) -> bool {
        !self.lacks.contains(endpoint.label())
    }

    /// Records that the host, which is of this version, does not have an endpoint.
    pub(crate) fn lack(&mut self, endpoint: Endpoint, version: String) {
        if self.version != version {
            self.lacks.clear();
            self.version = version;
        }
        self.lacks.insert(endpoint.label());
    }

    /// Copies what an earlier inventory says of the models that are still listed, and of the host where its version is the
    /// same. What the host lacks is found out anew from time to time, because something before it may have said so.
    pub(crate) fn inherit(&mut self, earlier: &Self) {
        let period = |time: Duration| time.as_secs() / LACKS_PERIOD.as_secs();
        if self.version == earlier.version && period(self.seen) == period(earlier.seen) {
            self.lacks.extend(&earlier.lacks);
        }
        for (digest, context) in &earlier.contexts {
            if self.models.iter().any(|model| model.digest == *digest) {
                self.contexts.entry(digest.clone()).or_insert(*context);
            }
        }
    }

    /// The model in the host's list of loaded models.
    pub(crate) fn loaded(&self, name: &ModelName) -> Option<&LoadedModel> {
        self.loaded.iter().find(|model| name.is(&model.name))
    }
}

/// The list of this name in an answer. Go writes one without elements as `null` at times.
fn list<'a>(answer: &'a [u8], name: &str) -> Option<Vec<&'a RawValue>> {
    let members = Members::parse(answer)?;
    let is_null = members.all(name).last()?.get() == "null";
    if is_null { Some(Vec::new()) } else { members.array(name) }
}

/// The version in an answer to `/api/version`.
pub(crate) fn read_version(answer: &[u8]) -> Option<String> {
    let version = Members::parse(answer)?.string("version")?.into_owned();
    Some(version).filter(|version| !version.is_empty())
}

#[derive(Serialize)]
struct StoredInventory<'a> {
    seen: u64,
    is_unlisted: bool,
    version: &'a str,
    models: Vec<(&'a str, &'a str)>,
    loaded: Vec<(&'a str, u64, &'a str)>,
    /// Digest, set length, longest length; 0 for a length that the model lacks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    contexts: Vec<(&'a str, u64, u64)>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    lacks: &'a BTreeSet<&'static str>,
}

impl Inventory {
    /// The inventory as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        let loaded = self.loaded.iter();
        let contexts = self.contexts.iter().map(|(digest, context)| {
            (&**digest, context.set.unwrap_or_default(), context.longest.unwrap_or_default())
        });
        let stored = StoredInventory {
            seen: millis(self.seen),
            is_unlisted: self.is_unlisted,
            version: &self.version,
            models: self.models.iter().map(|model| (&*model.name, &*model.digest)).collect(),
            loaded: loaded.map(|model| (&*model.name, model.context_length, &*model.expires_at)).collect(),
            contexts: contexts.collect(),
            lacks: &self.lacks,
        };
        // Serialising numbers and strings cannot fail.
        serde_json::to_vec(&stored).unwrap_or_default()
    }

    /// Reads what [`Inventory::to_json`] wrote; `None` for anything else.
    pub fn from_json(json: &[u8]) -> Option<Self> {
        let stored = Members::parse(json)?;
        let text = |value| Some(members::string(value)?.into_owned());
        let models = stored.array("models")?.into_iter().map(|model| match *members::elements(model)? {
            [name, digest] => Some(Model { name: text(name)?, digest: text(digest)? }),
            _ => None,
        });
        let loaded = stored.array("loaded")?.into_iter().map(|model| match *members::elements(model)? {
            [name, context, expires] => Some(LoadedModel {
                name: text(name)?,
                context_length: context.get().parse().ok()?,
                expires_at: text(expires)?,
            }),
            _ => None,
        });
        let length = |value: &RawValue| Some(value.get().parse().ok().filter(|length: &u64| *length > 0));
        // Inventories of an older version have no contexts.
        let contexts = stored.array("contexts").unwrap_or_default();
        let contexts = contexts.into_iter().filter_map(|context| match *members::elements(context)? {
            [digest, set, longest] => {
                Some((text(digest)?, Context { set: length(set)?, longest: length(longest)? }))
            }
            _ => None,
        });
        let lacks = stored.array("lacks").unwrap_or_default();
        let lacks = lacks.into_iter().filter_map(|label| Some(Endpoint::of_label(&text(label)?)?.label()));
        Some(Self {
            seen: Duration::from_millis(stored.number("seen")?),
            models: models.collect::<Option<_>>()?,
            is_unlisted: stored.boolean("is_unlisted")?,
            loaded: loaded.collect::<Option<_>>()?,
            version: stored.string("version")?.into_owned(),
            contexts: contexts.collect(),
            lacks: lacks.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAGS: &[u8] = br#"{"models":[{"name":"Llama3.2:latest","digest":"ab","size":1},{"size":2},5]}"#;
    const RUNNING: &[u8] =
        br#"{"models":[{"name":"llama3.2:latest","context_length":4096,"expires_at":"2026-01-01T00:00:00Z"}]}"#;

    fn name(text: &str) -> ModelName {
        ModelName::parse(text).unwrap()
    }

    #[test]
    fn a_host_is_taken_by_its_word_as_far_as_it_is_understood() {
        let inventory =
            Inventory::read(Duration::ZERO, TAGS, Some(RUNNING), Some(br#"{"version":"0.33.0"}"#)).unwrap();
        assert!(inventory.has(&name("llama3.2")) && !inventory.has(&name("llama3.2:1b")));
        assert_eq!(inventory.loaded(&name("LLAMA3.2")).unwrap().context_length, 4096);
        assert_eq!((inventory.models.len(), inventory.version.as_str()), (1, "0.33.0"));
        let sparse = Inventory::read(Duration::ZERO, TAGS, Some(b"<html>"), None).unwrap();
        assert_eq!((sparse.loaded.len(), sparse.version.as_str()), (0, ""));
        assert_eq!(Inventory::read(Duration::ZERO, b"<html>", None, None), None);
    }

    #[test]
    fn models_have_names_and_what_is_no_list_has_none() {
        for (list, names) in [
            (r#"{"models":[{"name":"a:1","size":1},{"name":"b"},{"size":1},5]}"#, Some(vec!["a:1", "b"])),
            (r#"{"models":null}"#, Some(vec![])),
            ("[]", None),
            ("{}", None),
            (r#"{"models":"many"}"#, None),
            (r#"{"object":"list","data":[]}"#, None),
            (r#"{"error":"not found"}"#, None),
            ("OK", None),
            ("<html>", None),
        ] {
            let read = Inventory::read(Duration::ZERO, list.as_bytes(), None, None);
            let found = read.map(|read| read.models.into_iter().map(|model| model.name).collect());
            let names = names.map(|names| names.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(found, names, "{list}");
        }
    }

    #[test]
    fn a_host_without_a_list_speaks_one_of_the_protocols_or_is_none() {
        let version: &[u8] = br#"{"version":"0.33.0"}"#;
        let models: &[u8] = br#"{"object":"list","data":null}"#;
        for (version, models, expected) in [
            (Some(version), None, Some("0.33.0")),
            (Some(version), Some(models), Some("0.33.0")),
            (None, Some(models), Some("")),
            (Some(&b"<html>"[..]), Some(models), Some("")),
            (Some(&b"<html>"[..]), Some(&b"<html>"[..]), None),
            (Some(&b"{}"[..]), Some(&b"{}"[..]), None),
            (None, None, None),
        ] {
            let found = Inventory::unlisted(Duration::ZERO, version, models);
            assert!(found.as_ref().is_none_or(|found| found.is_unlisted));
            assert_eq!(found.map(|found| found.version), expected.map(str::to_owned));
        }
    }

    #[test]
    fn a_context_is_known_for_as_long_as_the_model_keeps_its_content() {
        let context = Context { set: None, longest: Some(8192) };
        let mut earlier = Inventory::read(Duration::ZERO, TAGS, None, None).unwrap();
        earlier.contexts.insert("ab".to_owned(), context);
        for (tags, is_known) in
            [(TAGS, true), (br#"{"models":[{"name":"Llama3.2:latest","digest":"cd"}]}"#, false)]
        {
            let mut inventory = Inventory::read(Duration::ZERO, tags, None, None).unwrap();
            inventory.inherit(&earlier);
            assert_eq!(inventory.contexts.get("ab"), Some(&context).filter(|_| is_known));
        }
    }

    #[test]
    fn what_a_host_lacks_it_lacks_for_a_while_and_until_its_version_changes() {
        let of = |version: &str| Inventory { version: version.to_owned(), ..Inventory::default() };
        let mut known = of("0.1.20");
        known.lack(Endpoint::OllamaEmbed, "0.1.20".to_owned());
        for (version, is_lacking) in [("0.1.20", true), ("0.33.0", false), ("", false)] {
            let mut found = of(version);
            found.inherit(&known);
            assert_eq!(found.has_endpoint(Endpoint::OllamaEmbed), !is_lacking, "{version}");
            assert!(found.has_endpoint(Endpoint::OllamaChat));
        }
        for (seconds, is_lacking) in [(599, true), (600, false)] {
            let mut found = Inventory { seen: Duration::from_secs(seconds), ..of("0.1.20") };
            found.inherit(&known);
            assert_eq!(found.has_endpoint(Endpoint::OllamaEmbed), !is_lacking, "{seconds}");
        }
        known.lack(Endpoint::OpenAiModel, "0.1.21".to_owned());
        assert!(known.has_endpoint(Endpoint::OllamaEmbed) && !known.has_endpoint(Endpoint::OpenAiModel));
        assert_eq!(known.version, "0.1.21");
    }

    #[test]
    fn an_inventory_is_read_as_it_was_written_and_another_is_none() {
        let mut inventory = Inventory::read(Duration::from_secs(5), TAGS, Some(RUNNING), None).unwrap();
        for (set, longest) in [(None, None), (Some(2048), None), (None, Some(8192))] {
            assert_eq!(Inventory::from_json(&inventory.to_json()).as_ref(), Some(&inventory));
            inventory.lack(Endpoint::OllamaEmbed, String::new());
            inventory.contexts.insert("ab".to_owned(), Context { set, longest });
        }
        for other in ["", "{}", r#"{"seen":1,"version":"","models":[["a"]],"loaded":[]}"#] {
            assert_eq!(Inventory::from_json(other.as_bytes()), None, "{other}");
        }
    }
}
