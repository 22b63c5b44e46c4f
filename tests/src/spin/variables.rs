//! Application variables as Spin resolves them: names, `{{ templates }}`, defaults and overrides, and the guest's
//! `spin:variables` interface. Must never let a component see a variable outside its own map.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use wasmtime::component::Accessor;

use super::host::bindings::spin::variables::variables::{Error, Host, HostWithStore};
use super::host::{Spin, State};

/// Values by name.
pub type Values = BTreeMap<String, String>;

/// A string with `{{ name }}` places to fill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Variable(String),
}

impl Template {
    /// Splits `text` at its `{{ }}` expressions.
    pub fn parse(text: &str) -> Result<Self> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, tail)) = rest.split_once("{{") {
            let (name, tail) = tail.split_once("}}").context("unmatched '{{' in template")?;
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            parts.push(Part::Variable(name.trim().to_owned()));
            rest = tail;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        Ok(Self(parts))
    }

    /// The variables that the template refers to.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Variable(name) => Some(name.as_str()),
            Part::Literal(_) => None,
        })
    }

    /// Fills the template; a name without value is an error.
    pub fn resolve(&self, values: &Values) -> Result<String> {
        let mut text = String::new();
        for part in &self.0 {
            text.push_str(match part {
                Part::Literal(literal) => literal,
                Part::Variable(name) => {
                    values.get(name).with_context(|| format!("no value for variable {name:?}"))?
                }
            });
        }
        Ok(text)
    }
}

/// Checks an identifier of the manifest: words of one letter case, each starting with a letter, parted by `delimiter`.
pub(super) fn check_identifier(id: &str, delimiter: char, lower_case_only: bool) -> Result<()> {
    for word in id.split(delimiter) {
        let first = word
            .chars()
            .next()
            .with_context(|| format!("{id:?}: {delimiter:?}-separated words must not be empty"))?;
        ensure!(
            first.is_ascii_alphabetic(),
            "{id:?}: each word must start with an ASCII letter, got {first:?}"
        );
        for letter in word.chars() {
            ensure!(
                letter.is_ascii_alphanumeric(),
                "{id:?}: words hold ASCII letters and digits only, got {letter:?}"
            );
            let same_case =
                letter.is_ascii_digit() || letter.is_ascii_uppercase() == first.is_ascii_uppercase();
            ensure!(same_case, "{id:?}: a word must be all lower case or all UPPER CASE");
        }
        ensure!(!(lower_case_only && first.is_ascii_uppercase()), "{id:?} must be lower case");
    }
    Ok(())
}

/// The name rules that the host applies when a guest asks, which are laxer than the manifest's.
fn check_key(key: &str) -> Result<(), &'static str> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if key.is_empty() {
        Err("must not be empty")
    } else if !key.chars().all(allowed) {
        Err("variable names may contain only lower-case letters, numbers, and underscores")
    } else if !key.starts_with(|c: char| c.is_ascii_lowercase()) {
        Err("must start with a lowercase ASCII letter")
    } else if key.ends_with('_') {
        Err("must end with a lowercase ASCII letter or digit")
    } else if key.contains("__") {
        Err("must not contain multiple consecutive underscores")
    } else {
        Ok(())
    }
}

/// Refuses overrides of undeclared variables: the typing error they most often are would pass unnoticed.
pub(super) fn overlay(
    defaults: &Values,
    overrides: &Values,
    declared: impl Fn(&str) -> bool,
) -> Result<Values> {
    let mut values = defaults.clone();
    for (name, value) in overrides {
        if !declared(name) {
            bail!("variable {name:?} is not declared in the manifest");
        }
        values.insert(name.clone(), value.clone());
    }
    Ok(values)
}

impl Host for State {}

impl<T: Send> HostWithStore<T> for Spin {
    async fn get(accessor: &Accessor<T, Self>, name: String) -> wasmtime::Result<Result<String, Error>> {
        if let Err(reason) = check_key(&name) {
            return Ok(Err(Error::InvalidName(format!("{name:?}: {reason}"))));
        }
        let (id, value) = accessor.with(|mut store| {
            let component = &store.get().component;
            (component.id.clone(), component.variables.get(&name).cloned())
        });
        Ok(value.ok_or_else(|| Error::Undefined(format!("no variable for {id:?}.{name:?}"))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> Values {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_template_is_filled() {
        let template = Template::parse("{{ scheme }}://{{host}}:6379").unwrap();
        assert_eq!(template.names().collect::<Vec<_>>(), ["scheme", "host"]);
        assert_eq!(
            template.resolve(&values(&[("scheme", "redis"), ("host", "h")])).unwrap(),
            "redis://h:6379"
        );
        assert!(template.resolve(&values(&[("scheme", "redis")])).is_err());
        assert!(Template::parse("{{ open").is_err());
    }

    #[test]
    fn each_word_of_a_name_starts_with_a_letter() {
        for good in ["a", "ollama_host2", "api_key"] {
            check_identifier(good, '_', true).unwrap();
        }
        for bad in ["", "ollama_host_2", "2x", "Api_key", "api-key", "a__b", "a_", "apiKey"] {
            assert!(check_identifier(bad, '_', true).is_err(), "{bad}");
        }
        check_identifier("chat-UI", '-', false).unwrap();
    }

    #[test]
    fn guests_may_ask_for_laxer_names() {
        assert!(check_key("ollama_host_2").is_ok());
        for bad in ["", "aX", "1bc", "_x", "x.y", "x_", "a__b", "x-y"] {
            assert!(check_key(bad).is_err(), "{bad}");
        }
    }
}
