//! Model names, compared as Ollama compares them (`types/model/name.go`, Ollama 0.33).
//!
//! A name is `[host/][namespace/]model[:tag]`, compared without case; the defaults of the optional parts are
//! `registry.ollama.ai`, `library` and `latest`.

use std::{borrow::Cow, fmt};

use crate::api::endpoint::Work;

/// The longest part of a name except its host, in bytes.
const PART_LIMIT: usize = 80;
/// The longest host of a name, in bytes.
const HOST_LIMIT: usize = 350;
/// The lane of requests that name no model.
const UNNAMED: &str = "#unnamed";
/// What the lanes of embeddings end in.
const EMBEDDING: &str = "#embed";
/// How many similar names the error for an unknown model lists.
const NEAREST: usize = 10;

/// A model's name in its canonical spelling.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelName(String);

impl ModelName {
    /// Parses a name; `None` when Ollama would refuse it. Blanks around the name are no part of it. It may end in where the
    /// model runs: `:local`, which is no part of it either, or `:cloud` (`modelref.ParseRef`).
    ///
    /// ```
    /// use paddock::fleet::ModelName;
    ///
    /// let name = ModelName::parse("Llama3.2");
    /// assert_eq!(name, ModelName::parse("registry.ollama.ai/library/llama3.2:latest"));
    /// assert_eq!(ModelName::parse("no such name"), None);
    /// ```
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        match source(text) {
            None => Self::of_parts(text, ""),
            // A model runs in one place.
            Some((base, _)) if source(&base).is_some() => None,
            Some((base, is_cloud)) => Self::of_parts(&base, if is_cloud { "cloud" } else { "" }),
        }
    }

    /// The name of its parts (`model.ParseName`), with a mark at the end of its tag.
    fn of_parts(text: &str, mark: &str) -> Option<Self> {
        // A colon before a slash separates the host from its port.
        let (path, tag) = match text.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
            Some((path, tag)) => (path, Some(tag)),
            None => (text, None),
        };
        let (rest, model) = split_last(path);
        let (host, namespace) = rest.map_or((None, None), |rest| {
            let (host, namespace) = split_last(rest);
            (host, Some(namespace))
        });
        // What stands before a host says how it is reached.
        let host = host.map(|host| host.split_once("://").map_or(host, |(_, host)| host));
        let host = host.filter(|host| !host.is_empty()).unwrap_or("registry.ollama.ai");
        let namespace = namespace.unwrap_or("library");
        let is_valid = is_part(model, PART_LIMIT, ".")
            && tag.is_none_or(|tag| is_part(tag, PART_LIMIT, "."))
            && is_part(namespace, PART_LIMIT, "")
            && is_part(host, HOST_LIMIT, ".:");
        let tag = match (tag, mark) {
            (None, "") => Cow::Borrowed("latest"),
            (None, only) | (Some(only), "") => Cow::Borrowed(only),
            (Some(tag), mark) => Cow::Owned(format!("{tag}-{mark}")),
        };
        let is = |text: &str, other| text.eq_ignore_ascii_case(other);
        let name = match (is(host, "registry.ollama.ai"), is(namespace, "library")) {
            (true, true) => format!("{model}:{tag}"),
            (true, false) => format!("{namespace}/{model}:{tag}"),
            (false, _) => format!("{host}/{namespace}/{model}:{tag}"),
        };
        is_valid.then(|| Self(name.to_ascii_lowercase()))
    }

    /// Whether a name in a host's list spells this name.
    pub(crate) fn is(&self, stored: &str) -> bool {
        if stored.contains('/') {
            return Self::parse(stored).as_ref() == Some(self);
        }
        // The fast path: most names in a list have neither host nor namespace, and each request compares them.
        let tagged = self.0.strip_suffix(":latest").filter(|_| !stored.contains(':'));
        stored.eq_ignore_ascii_case(tagged.unwrap_or(&self.0))
    }

    /// Whether the model runs in Ollama's cloud, so that no host needs to have it.
    pub(crate) fn is_cloud(&self) -> bool {
        is_cloud(&self.0)
    }

    /// The name, in lower case and with its tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key of the lane for `work` with this model.
    pub fn lane(&self, work: Work) -> String {
        lane(Some(self), work)
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Whether a lane is that of a model in Ollama's cloud: its work is done elsewhere, and its failures are those of the
/// provider.
pub(crate) fn is_cloud_lane(lane: &str) -> bool {
    is_cloud(lane.strip_suffix(EMBEDDING).unwrap_or(lane))
}

/// Whether a name in its canonical spelling is that of a model in Ollama's cloud.
fn is_cloud(name: &str) -> bool {
    name.rsplit_once(':').is_some_and(|(_, tag)| tag == "cloud" || tag.ends_with("-cloud"))
}

/// The key of the lane for `work` with a model. What names no model that can be read has a lane of its own, which no name
/// can be.
pub(crate) fn lane(model: Option<&ModelName>, work: Work) -> String {
    let model = model.map_or(UNNAMED, ModelName::as_str);
    match work {
        Work::Answer => model.to_owned(),
        Work::Embedding => format!("{model}{EMBEDDING}"),
    }
}

/// Where a model runs that a name ends in, and the name without it: `true` for Ollama's cloud, `false` for the host itself.
fn source(text: &str) -> Option<(Cow<'_, str>, bool)> {
    const MARK: &str = "-cloud";
    let (base, suffix) = text.rsplit_once(':')?;
    let suffix = suffix.trim();
    if suffix.eq_ignore_ascii_case("cloud") || suffix.eq_ignore_ascii_case("local") {
        return Some((Cow::Borrowed(base), suffix.eq_ignore_ascii_case("cloud")));
    }
    let (tag, mark) = suffix.split_at_checked(suffix.len().checked_sub(MARK.len())?)?;
    let is_marked = mark.eq_ignore_ascii_case(MARK) && !suffix.contains('/');
    is_marked.then(|| (Cow::Owned(format!("{base}:{tag}")), true))
}

/// What stands before the last slash, and what behind it.
fn split_last(text: &str) -> (Option<&str>, &str) {
    text.rsplit_once('/').map_or((None, text), |(rest, last)| (Some(rest), last))
}

fn is_part(part: &str, limit: usize, more: &str) -> bool {
    let fits =
        |letter: char| letter.is_ascii_alphanumeric() || "_-".contains(letter) || more.contains(letter);
    part.len() <= limit
        && part.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_')
        && part.chars().all(fits)
}

/// Whether a stored name and the name in a request mean the same model: Ollama compares without case, and a name
/// without tag means `latest`.
///
/// ```
/// assert!(paddock::is_same_model("llama3.2:latest", "Llama3.2"));
/// assert!(!paddock::is_same_model("llama3.2:1b", "llama3.2"));
/// ```
pub fn is_same_model(stored: &str, asked: &str) -> bool {
    match (ModelName::parse(stored), ModelName::parse(asked)) {
        (Some(stored), Some(asked)) => stored == asked,
        (Some(_), None) | (None, Some(_)) => false,
        (None, None) => stored.eq_ignore_ascii_case(asked),
    }
}

/// The names that are most similar to `asked`, at most ten, the most similar first.
pub(crate) fn nearest<'a>(asked: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let asked = asked.to_ascii_lowercase();
    let stem = |name: &str| name.split(':').next().unwrap_or_default().to_ascii_lowercase();
    let distance = |name: &str| {
        let whole = strsim::levenshtein(&asked, &name.to_ascii_lowercase());
        whole.min(strsim::levenshtein(&stem(&asked), &stem(name)))
    };
    let mut names: Vec<_> = names.map(|name| (distance(name), name)).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().take(NEAREST).map(|(_, name)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_name_is_the_same_name() {
        for (text, name) in [
            ("llama3.2", Some("llama3.2:latest")),
            ("LLAMA3.2:Latest", Some("llama3.2:latest")),
            ("library/llama3.2", Some("llama3.2:latest")),
            ("https://registry.ollama.ai/library/llama3.2:1b", Some("llama3.2:1b")),
            ("user/model", Some("user/model:latest")),
            ("hf.co/Bartowski/Llama-3.2:Q4_K_M", Some("hf.co/bartowski/llama-3.2:q4_k_m")),
            ("localhost:5000/a/b", Some("localhost:5000/a/b:latest")),
            (" llama3.2\n", Some("llama3.2:latest")),
            ("llama3.2:local", Some("llama3.2:latest")),
            ("llama3.2:1b:LOCAL", Some("llama3.2:1b")),
            ("llama3.2:1b: local", Some("llama3.2:1b")),
            ("gpt-oss:cloud", Some("gpt-oss:cloud")),
            ("gpt-oss:20b:Cloud", Some("gpt-oss:20b-cloud")),
            ("gpt-oss:20b-CLOUD", Some("gpt-oss:20b-cloud")),
            ("gpt-oss:cloud:local", None),
            ("gpt-oss:local:local", None),
            ("Registry.Ollama.ai/Library/x", Some("x:latest")),
            ("http:///me/mine", Some("me/mine:latest")),
            ("http://h:1/me/mine", Some("h:1/me/mine:latest")),
            ("http://me/mine", None),
            ("a/b/c/d", None),
            ("me.too/mine", None),
            ("localmodel:local", Some("localmodel:latest")),
            (":local", None),
            ("", None),
            (" ", None),
            ("no name", None),
            ("-a", None),
            ("a:", None),
            ("a//b", None),
            ("../../etc", None),
        ] {
            assert_eq!(ModelName::parse(text).as_ref().map(ModelName::as_str), name, "{text}");
        }
    }

    #[test]
    fn every_odd_name_is_read_as_ollama_reads_it() {
        let read = include_str!("../../tests/fixtures/go-reading.jsonl");
        let lines = read.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        for line in lines {
            let Some(text) = line["name"].as_str() else { continue };
            let name = ModelName::parse(text);
            assert_eq!(name.as_ref().map_or("", ModelName::as_str), line["canonical"], "{text:?}");
        }
    }

    #[test]
    fn a_stored_name_is_told_without_being_parsed() {
        for (stored, asked, is_same) in [
            ("Llama3.2:latest", "llama3.2", true),
            ("llama3.2", "llama3.2:latest", true),
            ("llama3.2", "llama3.2:1b", false),
            ("llama3.2:1b", "llama3.2", false),
            ("library/llama3.2", "llama3.2", true),
            ("hf.co/a/b", "hf.co/a/b:latest", true),
            ("", "llama3.2", false),
        ] {
            assert_eq!(ModelName::parse(asked).unwrap().is(stored), is_same, "{stored} {asked}");
        }
    }

    #[test]
    fn a_cloud_model_is_told_by_its_tag() {
        for (text, is_cloud) in [
            ("gpt-oss:120b-cloud", true),
            ("qwen3:cloud", true),
            ("cloud:latest", false),
            ("my-cloud", false),
        ] {
            assert_eq!(ModelName::parse(text).unwrap().is_cloud(), is_cloud, "{text}");
        }
    }

    #[test]
    fn the_nearest_names_come_first_and_once() {
        let names = ["qwen3:4b", "llama3.2:latest", "llama3.1:8b", "llama3.2:latest"];
        assert_eq!(nearest("llama3.3", names.into_iter()), ["llama3.1:8b", "llama3.2:latest", "qwen3:4b"]);
    }
}
