//! Model names, compared as Ollama compares them (`types/model/name.go`, Ollama 0.33).
//!
//! A name is `[host/][namespace/]model[:tag]`, compared without case; the defaults of the optional parts are
//! `registry.ollama.ai`, `library` and `latest`.

use std::fmt;

use crate::api::endpoint::Work;

/// The longest part of a name except its host, in bytes.
const PART_LIMIT: usize = 80;
/// The longest host of a name, in bytes.
const HOST_LIMIT: usize = 350;
/// What a request may write behind a name, for a model that a host has itself.
const LOCAL: &str = ":local";
/// How many similar names the error for an unknown model lists.
const NEAREST: usize = 10;

/// A model's name in its canonical spelling.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelName(String);

impl ModelName {
    /// Parses a name; `None` when Ollama would refuse it. Blanks around the name and `:local` at its end, which says where
    /// the model runs, are no part of it (`modelref.ParseRef`).
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
        let text = match text.len().checked_sub(LOCAL.len()).and_then(|at| text.split_at_checked(at)) {
            Some((name, source)) if source.eq_ignore_ascii_case(LOCAL) => name,
            _ => text,
        };
        let text = text.split_once("://").map_or(text, |(_, rest)| rest);
        let (path, tag) = match text.rsplit_once(':') {
            // A colon before a slash separates the host from its port.
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (text, "latest"),
        };
        let mut parts = path.rsplitn(3, '/');
        let model = parts.next()?;
        let namespace = parts.next().unwrap_or("library");
        let host = parts.next().unwrap_or("registry.ollama.ai");
        let is_valid = is_part(model, PART_LIMIT, ".")
            && is_part(tag, PART_LIMIT, ".")
            && is_part(namespace, PART_LIMIT, "")
            && is_part(host, HOST_LIMIT, ".:/");
        let name = match (host, namespace) {
            ("registry.ollama.ai", "library") => format!("{model}:{tag}"),
            ("registry.ollama.ai", _) => format!("{namespace}/{model}:{tag}"),
            _ => format!("{host}/{namespace}/{model}:{tag}"),
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
        self.0.rsplit_once(':').is_some_and(|(_, tag)| tag == "cloud" || tag.ends_with("-cloud"))
    }

    /// The name, in lower case and with its tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key of the lane for `work` with this model.
    pub fn lane(&self, work: Work) -> String {
        match work {
            Work::Answer => self.as_str().to_owned(),
            Work::Embedding => format!("{self}#embed"),
        }
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
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
