//! The official Python clients, each with a script of checks in `tests/clients`, and snippets that use them.
//!
//! The interpreter is `PADDOCK_PYTHON`, which `make test` sets up with the clients' newest releases;
//! `PADDOCK_EARLIER_CLIENTS` is a folder with those of an earlier major version.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::artifacts::workspace;

/// Starting Python and a client's package takes seconds on a loaded machine.
const LIMIT: Duration = Duration::from_mins(3);

/// Which releases of the clients Python finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Releases {
    /// The newest, as whoever installs them today gets them.
    Newest,
    /// Those of an earlier major version, where there is one: programs go on using them.
    Earlier,
}

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
    fn package(self) -> &'static str {
        match self {
            Self::Ollama => "ollama",
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
        }
    }

    /// Runs its checks against a base URL without trailing slash and gives what it says at the end:
    /// `ok 17 checks of 3.57.0`.
    pub async fn check(self, releases: Releases, url: &str) -> Result<String> {
        let package = self.package();
        let script = workspace().join(format!("tests/clients/{package}_client.py"));
        let mut command = python(releases)?;
        let output = ended(command.arg(script).arg(url).stdin(Stdio::null()).output());
        let output = output.await.with_context(|| format!("running {package}"))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            !errors.contains(&format!("No module named '{package}'")),
            "the tests need a Python with the package {package}: name one in PADDOCK_PYTHON, as 'make test' does"
        );
        let said = String::from_utf8_lossy(&output.stdout);
        let last = said.lines().last().unwrap_or_default();
        let is_done = output.status.success() && last.starts_with("ok ") && last.contains(" checks of ");
        ensure!(is_done, "the client {package} is not content with {url}:\n{said}{errors}");
        Ok(last.to_owned())
    }
}

/// Types a snippet into an interactive Python, as who pastes it does, and gives what that printed.
///
/// # Errors
/// When a line of it fails.
pub async fn paste(releases: Releases, snippet: &str) -> Result<String> {
    let mut child = python(releases)?.args(["-i", "-q"]).stdin(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().context("no input")?;
    let lines = format!("{snippet}\n");
    // A Python that fails early does not read it all; what it says matters then.
    let typing = async move { input.write_all(lines.as_bytes()).await.ok() };
    let (output, _) = tokio::join!(ended(child.wait_with_output()), typing);
    let output = output?;
    // An interactive Python goes on after an error and ends well.
    let errors = String::from_utf8_lossy(&output.stderr);
    let said = String::from_utf8(output.stdout)?;
    let is_done = output.status.success() && !errors.contains("Error");
    ensure!(is_done, "the snippet does not work:\n{said}{errors}\nof:\n{snippet}");
    Ok(said)
}

async fn ended(output: impl Future<Output = std::io::Result<Output>>) -> Result<Output> {
    let output = tokio::time::timeout(LIMIT, output).await;
    Ok(output.with_context(|| format!("not done within {LIMIT:?}"))??)
}

/// A Python that finds these releases of the clients.
fn python(releases: Releases) -> Result<Command> {
    let named = |name| {
        let value = std::env::var_os(name).filter(|path| !path.is_empty());
        value.with_context(|| {
            format!("{name} is not set: scripts/test-tools sets up the clients and prints where they are")
        })
    };
    let mut command = Command::new(named("PADDOCK_PYTHON")?);
    // What the environment says of proxies and keys is not for the stand-in.
    command.env_clear().env("NO_PROXY", "*");
    if releases == Releases::Earlier {
        command.env("PYTHONPATH", named("PADDOCK_EARLIER_CLIENTS")?);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ollama::FakeOllama;

    /// How many checks there were, and the client's major version.
    fn numbers(said: &str) -> Option<(usize, usize)> {
        let (checks, version) = said.strip_prefix("ok ")?.split_once(" checks of ")?;
        Some((checks.parse().ok()?, version.split('.').next()?.parse().ok()?))
    }

    #[tokio::test]
    async fn the_stand_in_satisfies_the_official_clients() -> Result<()> {
        let ollama = FakeOllama::start().await?;
        for (client, releases, is_one) in [
            (OfficialClient::Ollama, Releases::Newest, (|_| true) as fn(usize) -> bool),
            (OfficialClient::OpenAi, Releases::Newest, |major| major >= 3),
            (OfficialClient::OpenAi, Releases::Earlier, |major| major == 2),
            (OfficialClient::Anthropic, Releases::Newest, |major| major >= 2),
            (OfficialClient::Anthropic, Releases::Earlier, |major| major == 0),
        ] {
            let said = client.check(releases, &ollama.url()).await?;
            let (checks, major) = numbers(&said).context("no numbers")?;
            assert!(checks >= 8 && is_one(major), "{client:?} {releases:?}: {said}");
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_snippet_that_fails_when_it_is_pasted_is_an_error() -> Result<()> {
        assert_eq!(paste(Releases::Newest, "print(\n  'a')").await?, "a\n");
        // The second needs an empty line before what is outside of the loop.
        for snippet in ["print(\"a\".encode())\nnone", "for a in 'b':\n  print(a)\nprint('c')"] {
            assert!(paste(Releases::Newest, snippet).await.is_err(), "{snippet}");
        }
        Ok(())
    }
}
