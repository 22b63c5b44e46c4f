//! Reads settings by their type, and collects all mistakes instead of stopping at the first.
//!
//! No crate serves: neither `figment`, `confique` nor derived parsers report all mistakes, hide secrets, and read
//! native settings and Spin variables from one table.

use std::{fmt::Display, str::FromStr, time::Duration};

use super::settings::{Deployment, Setting, Settings};

/// The longest duration: beyond a year, arithmetic on timestamps may overflow.
const DURATION_LIMIT: Duration = Duration::from_hours(366 * 24);

/// Reads settings and collects mistakes and warnings.
#[derive(Debug)]
pub struct SettingsReader<'a, S> {
    settings: &'a S,
    form: Deployment,
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl<'a, S: Settings> SettingsReader<'a, S> {
    /// A reader of these settings in this deployment.
    pub fn new(settings: &'a S, form: Deployment) -> Self {
        Self { settings, form, problems: Vec::new(), warnings: Vec::new() }
    }

    /// The deployment that the settings are for.
    pub fn form(&self) -> Deployment {
        self.form
    }

    /// Whether the setting was given, even if it is empty.
    pub(crate) fn is_given(&self, name: &str) -> bool {
        self.settings.value(name).is_some()
    }

    /// The value as it was given, if it was.
    pub(crate) fn raw(&self, name: &str) -> Option<String> {
        self.settings.value(name)
    }

    /// Whether the setting has a value that is not blank.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.settings.value(name).is_some_and(|value| !value.trim().is_empty())
    }

    /// Whether the value differs from the table's default. On Spin a variable always has a value.
    pub(crate) fn is_changed(&self, name: &'static str) -> bool {
        self.text(name) != default(name)
    }

    /// The trimmed value, else the table's default.
    pub fn text(&self, name: &'static str) -> String {
        let value = self.settings.value(name).map(|value| value.trim().to_owned());
        value.filter(|value| !value.is_empty()).unwrap_or_else(|| default(name).to_owned())
    }

    /// Records a mistake.
    pub fn problem(&mut self, name: &'static str, fault: &str) {
        let shown = match Setting::by_name(name) {
            Some(setting) if !setting.secret && !fault.contains('\'') => {
                format!(" (it is '{}')", self.text(name))
            }
            _ => String::new(),
        };
        // An address may contain credentials or a token by mistake, which must not be repeated.
        let shown = if shown.contains(['@', '?', '#']) { "" } else { shown.as_str() };
        self.problems.push(format!("{name} {fault}{shown}"));
    }

    /// Records a warning about a setting that is ignored.
    pub fn warning(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// A parsed value, `None` when it is empty; a malformed value is recorded as a mistake.
    pub fn parsed<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(name);
        if text.is_empty() {
            return None;
        }
        match parse(&text) {
            Ok(value) => Some(value),
            Err(fault) => {
                self.problem(name, &fault);
                // A placeholder: the recorded mistake makes the load fail.
                parse(default(name)).ok()
            }
        }
    }

    /// `true` or `false`, in the usual spellings.
    pub fn flag(&mut self, name: &'static str) -> bool {
        self.parsed(name, |text| match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            _ => Err("must be true or false".to_owned()),
        })
        .unwrap_or_default()
    }

    /// A whole number.
    pub(crate) fn number<T: FromStr<Err: Display> + Default>(&mut self, name: &'static str) -> T {
        let parse = |text: &str| text.parse().map_err(|_| "must be a whole number".to_owned());
        self.parsed(name, parse).unwrap_or_default()
    }

    /// A port from 1 to 65535.
    pub fn port(&mut self, name: &'static str) -> u16 {
        let parse = |text: &str| match text.parse() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err("must be a port from 1 to 65535".to_owned()),
        };
        self.parsed(name, parse).unwrap_or_default()
    }

    /// A duration above 0: seconds as a number, or a number with a unit such as `250ms` or `90m`.
    pub fn duration(&mut self, name: &'static str) -> Duration {
        let parse = |text: &str| {
            duration(text).ok_or_else(|| "must be a time such as 30, 250ms or 90m, more than 0".to_owned())
        };
        self.parsed(name, parse).unwrap_or_default()
    }

    /// A size above 0: bytes as a number, or a number with a unit such as `64KiB` or `1MiB`.
    pub fn bytes(&mut self, name: &'static str) -> u64 {
        let parse = |text: &str| match parse_size::Config::new().with_binary().parse_size(text) {
            Ok(bytes) if bytes > 0 => Ok(bytes),
            _ => Err("must be a size such as 1048576, 64KiB or 1MiB, more than 0".to_owned()),
        };
        self.parsed(name, parse).unwrap_or_default()
    }

    /// The result with its warnings.
    ///
    /// # Errors
    /// One sentence per mistake.
    pub fn finish<T>(self, read: T) -> Result<(T, Vec<String>), Vec<String>> {
        if self.problems.is_empty() { Ok((read, self.warnings)) } else { Err(self.problems) }
    }
}

/// Parses a duration above 0 and up to a year: seconds as a number, or a number with a unit such as `250ms` or `90m`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let seconds = text.parse().map(Duration::from_secs);
    let duration = seconds.or_else(|_| humantime::parse_duration(text)).ok()?;
    (!duration.is_zero() && duration <= DURATION_LIMIT).then_some(duration)
}

fn default(name: &str) -> &'static str {
    Setting::by_name(name).map_or("", |setting| setting.default)
}
