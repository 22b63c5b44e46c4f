//! The official Python clients, each with a script of checks in `tests/clients`.
//!
//! The interpreter is `PADDOCK_PYTHON`, which `make test` sets up with the clients' packages.

use std::{path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

use crate::artifacts::workspace;

/// Starting Python and a client's package takes seconds on a loaded machine.
const LIMIT: Duration = Duration::from_mins(3);

/// A client that its protocol's owner publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfficialClient {
    /// `ollama`, for Ollama's own protocol.
    Ollama,
    /// `openai`, for chat completions, completions, embeddings and responses.
    OpenAi,
    /// `anthropic`, for messages.
    Anthropic,
}

impl OfficialClient {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ollama, Self::OpenAi, Self::Anthropic];

    fn package(self) -> &'static str {
        match self {
            Self::Ollama => "ollama",
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
        }
    }

    /// Runs its checks against a base URL without trailing slash and gives what it says at the end: `ok 13 checks`.
    pub async fn check(self, url: &str) -> Result<String> {
        let package = self.package();
        let script = workspace().join(format!("tests/clients/{package}_client.py"));
        let mut command = Command::new(python()?);
        // What the environment says of proxies and keys is not for the stand-in.
        command.arg(script).arg(url).env_clear().env("NO_PROXY", "*");
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(LIMIT, command.output());
        let output = output.await.with_context(|| format!("{package} is not done within {LIMIT:?}"))??;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            !errors.contains(&format!("No module named '{package}'")),
            "the tests need a Python with the package {package}: name one in PADDOCK_PYTHON, as 'make test' does"
        );
        let said = String::from_utf8_lossy(&output.stdout);
        let last = said.lines().last().unwrap_or_default();
        let is_done = output.status.success() && last.starts_with("ok ") && last.ends_with(" checks");
        ensure!(is_done, "the client {package} is not content with {url}:\n{said}{errors}");
        Ok(last.to_owned())
    }
}

fn python() -> Result<PathBuf> {
    let named = std::env::var_os("PADDOCK_PYTHON").filter(|path| !path.is_empty());
    let missing = "PADDOCK_PYTHON is not set: it names a Python with the packages ollama, openai and anthropic, which \
        scripts/test-tools sets up";
    named.map(PathBuf::from).context(missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ollama::FakeOllama;

    #[tokio::test]
    async fn the_stand_in_satisfies_the_official_clients() -> Result<()> {
        let ollama = FakeOllama::start().await?;
        for client in OfficialClient::ALL {
            let said = client.check(&ollama.url()).await?;
            let checks: usize = said.split(' ').nth(1).unwrap_or_default().parse()?;
            assert!(checks >= 8, "{client:?}: {said}");
        }
        Ok(())
    }
}
