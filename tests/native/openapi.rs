//! The service held against its own description by Schemathesis, which makes up requests, good and bad.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use paddock_tests::{gateway::HostShim, ollama::FakeOllama};
use tokio::process::Command;

/// Some seconds on an idle machine.
const LIMIT: Duration = Duration::from_mins(5);
/// What every reply is checked for.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_schema_conformance,response_headers_conformance";

/// How many operations Schemathesis says that it has tested.
fn tested(said: &str) -> Option<usize> {
    said.lines().find_map(|line| line.trim().strip_prefix("Tested: ")?.parse().ok())
}

#[tokio::test]
async fn no_request_gets_what_the_description_does_not_say() -> Result<()> {
    let python = std::env::var("PADDOCK_PYTHON").context("PADDOCK_PYTHON is not set; 'make test' sets it")?;
    // One answers for whatever model is made up, and lists none; the other lists its own.
    let (any, own) = (FakeOllama::start().await?, FakeOllama::start().await?);
    any.has_every_model();
    let hosts = [any.url(), own.url()].join(",");
    let shim = HostShim::start([(&"OLLAMA_HOSTS".to_owned(), &hosts)]).await?;
    let document = format!("http://{}/openapi.json", shim.address());
    let mut command = Command::new(python);
    command
        .args(["-m", "schemathesis.cli", "run", &document, "--checks", CHECKS])
        .args(["--phases", "coverage,fuzzing", "--max-examples", "12", "--seed", "1", "--no-color"])
        .args(["--generation-database", "none", "--request-timeout", "60"])
        .current_dir(std::env::temp_dir())
        .env_clear()
        .env("NO_PROXY", "*")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await.context("not done in time")??;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(tested(&said) > Some(30), "most of it was not tested: {said}");
    Ok(())
}
