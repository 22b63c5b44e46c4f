//! The application manifest, `spin.toml` version 2, read as strictly as Spin reads it. Must never accept what
//! `spin up` would refuse; what the harness cannot run (files, key-value stores, dependencies) it refuses as well.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use super::outbound::AllowedHosts;
use super::variables::{self, Template, Values};

/// A checked manifest.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    spin_manifest_version: u32,
    /// `[application]`.
    pub application: Application,
    /// `[variables]`, by name.
    #[serde(default)]
    pub variables: BTreeMap<String, Variable>,
    trigger: Triggers,
    /// `[component.<id>]`, by id.
    #[serde(default, rename = "component")]
    pub components: BTreeMap<String, Component>,
}

/// `[application]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Application {
    /// The application's name.
    pub name: String,
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// What it is.
    #[serde(default)]
    pub description: String,
    /// Who wrote it.
    #[serde(default)]
    pub authors: Vec<String>,
    /// The hosts it is meant for, such as `spin-up:4.1`.
    #[serde(default)]
    pub targets: Vec<toml::Value>,
    /// Settings of other tools.
    #[serde(default)]
    pub tool: toml::Table,
}

/// One application variable.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variable {
    /// Used unless overridden.
    pub default: Option<String>,
    /// Must be given at start.
    #[serde(default)]
    pub required: bool,
    /// Must not be shown.
    #[serde(default)]
    pub secret: bool,
    /// What it is for.
    pub description: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Triggers {
    http: Vec<HttpTrigger>,
}

/// One `[[trigger.http]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpTrigger {
    /// An optional name.
    pub id: Option<String>,
    /// The path, exact or ending in `/...`.
    pub route: String,
    /// The component that answers.
    pub component: Option<String>,
    /// The fixed answer.
    pub static_response: Option<StaticResponse>,
}

/// An answer that the host gives without running a component.
#[derive(Debug, Clone, Deserialize)]
pub struct StaticResponse {
    /// 200 unless given.
    pub status_code: Option<u16>,
    /// Response headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Response body.
    pub body: Option<String>,
}

/// One component.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// The `.wasm` file, relative to the manifest.
    pub source: PathBuf,
    /// What it does.
    #[serde(default)]
    pub description: String,
    /// The variables it sees, as templates over the application's.
    #[serde(default)]
    pub variables: Values,
    /// Its static environment.
    #[serde(default)]
    pub environment: Values,
    /// The hosts it may reach, as templates.
    #[serde(default)]
    pub allowed_outbound_hosts: Vec<String>,
    /// How it is built.
    pub build: Option<Build>,
    /// Settings of other tools.
    #[serde(default)]
    pub tool: toml::Table,
    #[serde(default)]
    files: Vec<toml::Value>,
    #[serde(default)]
    exclude_files: Vec<toml::Value>,
    #[serde(default)]
    key_value_stores: Vec<toml::Value>,
    #[serde(default)]
    sqlite_databases: Vec<toml::Value>,
    #[serde(default)]
    ai_models: Vec<toml::Value>,
    #[serde(default)]
    dependencies: toml::Table,
}

/// `[component.<id>.build]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    /// The command line or lines.
    pub command: toml::Value,
    /// Where they run.
    pub workdir: Option<PathBuf>,
    /// What `spin watch` watches.
    #[serde(default)]
    pub watch: Vec<String>,
}

impl Manifest {
    /// Where this repository's `spin.toml` is.
    pub fn workspace_path() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join("spin.toml")
    }

    /// Reads and checks a manifest file.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Reads and checks a manifest.
    pub fn parse(text: &str) -> Result<Self> {
        let manifest: Self = toml::from_str(text)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The `[[trigger.http]]` entries, in order.
    pub fn routes(&self) -> &[HttpTrigger] {
        &self.trigger.http
    }

    /// The application variables' values under `overrides`, as `spin up --variable` gives them.
    pub fn resolve(&self, overrides: &Values) -> Result<Values> {
        let values =
            variables::overlay(&self.defaults(), overrides, |name| self.variables.contains_key(name))?;
        for name in self.variables.keys() {
            ensure!(values.contains_key(name), "required variable {name:?} has no value");
        }
        Ok(values)
    }

    fn defaults(&self) -> Values {
        let default =
            |(name, variable): (&String, &Variable)| Some((name.clone(), variable.default.clone()?));
        self.variables.iter().filter_map(default).collect()
    }

    fn check(&self) -> Result<()> {
        ensure!(self.spin_manifest_version == 2, "spin_manifest_version must be 2");
        for (name, variable) in &self.variables {
            variables::check_identifier(name, '_', true).context("variable name")?;
            ensure!(
                variable.required != variable.default.is_some(),
                "variable {name:?} must have `required` OR `default`"
            );
        }
        for (id, component) in &self.components {
            variables::check_identifier(id, '-', false).context("component id")?;
            component.check(self).with_context(|| format!("component {id:?}"))?;
        }
        let mut seen = BTreeSet::new();
        for trigger in self.routes() {
            trigger.check(self).with_context(|| format!("route {:?}", trigger.route))?;
            ensure!(
                seen.insert(&trigger.route),
                "route {:?} is given twice, the first would never be used",
                trigger.route
            );
        }
        Ok(())
    }
}

impl HttpTrigger {
    fn check(&self, manifest: &Manifest) -> Result<()> {
        match (&self.component, &self.static_response) {
            (Some(id), None) => ensure!(manifest.components.contains_key(id), "no component {id:?}"),
            (None, Some(_)) => {}
            _ => bail!("a trigger must specify either component or static_response"),
        }
        let pattern = self.route.strip_suffix("/...").unwrap_or(&self.route);
        ensure!(
            !pattern.contains([':', '*', '[']),
            "named and inner wildcards are not supported by this harness"
        );
        Ok(())
    }
}

impl Component {
    fn check(&self, manifest: &Manifest) -> Result<()> {
        for (name, template) in &self.variables {
            variables::check_identifier(name, '_', true).context("variable name")?;
            for used in Template::parse(template)?.names() {
                ensure!(
                    manifest.variables.contains_key(used),
                    "variable {name:?} refers to unknown variable {used:?}"
                );
            }
        }
        AllowedHosts::check_manifest(&self.allowed_outbound_hosts, &manifest.defaults())
            .context("`allowed_outbound_hosts` is malformed")?;
        let lists = [
            &self.files,
            &self.exclude_files,
            &self.key_value_stores,
            &self.sqlite_databases,
            &self.ai_models,
        ];
        let unsupported = lists.iter().any(|list| !list.is_empty()) || !self.dependencies.is_empty();
        ensure!(
            !unsupported,
            "files, stores, databases, models and dependencies are not supported by this harness"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests;
