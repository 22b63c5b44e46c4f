//! The command line, made from the table of settings: a flag overrides its environment variable, which overrides the
//! default.

use std::{collections::HashMap, time::Duration};

use clap::{Arg, ArgAction, ArgMatches, Command};
use paddock::config::settings::{Deployment, SETTINGS, Setting, Settings};

use crate::log::LogFormat;

const ABOUT: &str = "The AI service between clients and a herd of Ollama servers";
const LONG_ABOUT: &str = "\
Paddock answers POST /chat from a herd of Ollama servers: with a response cache that never mixes callers, with \
conversations, and with failover between hosts. GET /health, /livez and /metrics tell how it is.

Without any setting it listens on 127.0.0.1:8000, asks Ollama on this machine, and keeps everything in memory; \
LISTEN=0.0.0.0:8000 lets other machines in. Without Ollama, try: host-shim --demo";
const EXAMPLES: &str = "\
Examples:
  host-shim --demo
  host-shim --ollama-hosts http://10.0.0.1:11434,http://10.0.0.2:11434
  OLLAMA_HOST=http://ollama:11434 REDIS_HOST=redis host-shim

  curl http://127.0.0.1:8000/chat -d '{\"message\":\"Why is the sky blue?\"}'";

/// The command with a flag for every native setting.
pub(crate) fn command() -> Command {
    let flags = native_settings().map(|setting| {
        let mut help = setting.help.to_owned();
        if !setting.default.is_empty() {
            help = format!("{help} [default: {}]", setting.default);
        }
        Arg::new(setting.name)
            .long(setting.flag())
            .env(setting.name)
            .hide_env_values(setting.secret)
            .value_name("VALUE")
            .help(help)
    });
    Command::new("host-shim")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .long_about(LONG_ABOUT)
        .after_help(EXAMPLES)
        .args(flags)
        .arg(
            Arg::new("demo")
                .long("demo")
                .action(ArgAction::SetTrue)
                .help("Also start a stand-in Ollama inside this process and ask only that"),
        )
        .subcommand(
            Command::new("healthcheck")
                .about("Ask the service on this machine whether it lives; exit 0 if so. For containers")
                .arg(
                    Arg::new("ready")
                        .long("ready")
                        .action(ArgAction::SetTrue)
                        .help("Ask whether an Ollama host answers, too"),
                ),
        )
}

fn native_settings() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(|setting| setting.exists_in(Deployment::Native))
}

/// The values from the command line and the environment, as they are: the core says what an empty one means.
pub(crate) fn settings(matches: &ArgMatches) -> impl Settings {
    let values: HashMap<_, _> = native_settings()
        .filter_map(|setting| Some((setting.name, matches.get_one::<String>(setting.name)?.clone())))
        .collect();
    move |name: &str| values.get(name).cloned()
}

/// The settings that only the native binary reads.
#[derive(Debug, Clone)]
pub(crate) struct NativeSettings {
    pub(crate) listen: String,
    /// `None` for as many as the descriptors allow.
    pub(crate) max_connections: Option<usize>,
    pub(crate) drain_timeout: Duration,
    pub(crate) log_format: LogFormat,
}

impl NativeSettings {
    /// # Errors
    /// One sentence per mistake.
    pub(crate) fn load(settings: &impl Settings) -> Result<Self, Vec<String>> {
        let mut reader = paddock::config::SettingsReader::new(settings, Deployment::Native);
        let loaded = Self {
            listen: reader.text("LISTEN"),
            max_connections: reader.parsed("MAX_CONNECTIONS", |text| match text.parse() {
                Ok(limit) if limit > 0 => Ok(limit),
                _ => Err("must be a whole number above 0".to_owned()),
            }),
            drain_timeout: reader.duration("DRAIN_TIMEOUT"),
            log_format: reader.parsed("LOG_FORMAT", LogFormat::parse).unwrap_or(LogFormat::Human),
        };
        reader.finish(loaded).map(|(loaded, _)| loaded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound_and_names_every_setting() {
        command().debug_assert();
        let help = command().render_long_help().to_string();
        for setting in native_settings() {
            assert!(
                help.contains(&format!("--{}", setting.flag())) && help.contains(setting.name),
                "{}",
                setting.name
            );
        }
    }

    #[test]
    fn a_flag_sets_what_its_variable_sets() {
        let matches =
            command().get_matches_from(["host-shim", "--default-model", "qwen3", "--cache-ttl", ""]);
        let settings = settings(&matches);
        assert_eq!(settings.value("DEFAULT_MODEL").as_deref(), Some("qwen3"));
        assert_eq!(settings.value("CACHE_TTL").as_deref(), Some(""));
        assert_eq!(settings.value("CACHE_MODE"), None);
    }
}
