//! What the README says about settings is what the table of settings says, and what it says to paste works: Python with the
//! official clients, and curl with the answers that stand under it.

use std::{net::SocketAddr, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use paddock::config::settings::SETTINGS;
use paddock_tests::{
    artifacts::workspace,
    clients::{Releases, paste},
    gateway::{Form as _, HostShim, Native},
    ollama::FakeOllama,
    setup::Setup,
};
use tokio::process::Command;

fn readme() -> Result<String> {
    Ok(std::fs::read_to_string(workspace().join("README.md"))?)
}

/// A row of a Markdown table, without the backticks.
fn cells(line: &str) -> Vec<String> {
    let row = line.trim().trim_start_matches('|').trim_end_matches('|');
    row.split('|').map(|cell| cell.trim().replace('`', "")).collect()
}

#[test]
fn the_readme_lists_every_setting_with_its_default() -> Result<()> {
    let text = readme()?;
    let mut lines = text.lines().skip_while(|line| !line.starts_with("## Settings"));
    lines.next().context("the README has no part 'Settings'")?;
    let rows: Vec<_> = lines
        .take_while(|line| !line.starts_with("## "))
        .filter(|line| line.trim_start().starts_with("| `"))
        .map(cells)
        .collect();
    let listed: Vec<_> =
        rows.iter().flat_map(|row| names(&row[0]).into_iter().map(|name| (name, row[1].clone()))).collect();
    let known: Vec<_> =
        SETTINGS.iter().map(|setting| (setting.name.to_owned(), setting.default.to_owned())).collect();
    assert_eq!(listed, known, "names, their order or defaults differ");
    Ok(())
}

/// The settings of a row: one, or those from the first to the last, whose names end in digits.
fn names(cell: &str) -> Vec<String> {
    let Some((first, last)) = cell.split_once(" to ") else { return vec![cell.to_owned()] };
    let stem = first.trim_end_matches(|letter: char| letter.is_ascii_digit());
    let number = |name: &str| name.strip_prefix(stem).and_then(|digits| digits.parse::<u8>().ok());
    let numbers = number(first).zip(number(last));
    numbers.into_iter().flat_map(|(first, last)| first..=last).map(|it| format!("{stem}{it}")).collect()
}

#[tokio::test]
async fn the_readmes_python_works_when_it_is_pasted() -> Result<()> {
    let text = readme()?;
    let blocks: Vec<_> =
        text.split("```python\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    ensure!(!blocks.is_empty(), "the README has no Python");
    let ollama = FakeOllama::start().await?;
    let gateway = Native { redis: false }.start(Setup::new([&ollama])).await?;
    let url = gateway.url().context("it does not listen")?;
    for block in blocks {
        let snippet = block.replace("http://127.0.0.1:8000", &url);
        let calls = snippet.matches("import ").count();
        for releases in [Releases::Newest, Releases::Earlier] {
            let said = paste(releases, &snippet).await?;
            assert_eq!(said.matches("echo of Hello #").count(), calls, "{releases:?}: {said}");
        }
    }
    Ok(())
}

/// A call of curl and the lines that the README shows of what it prints.
#[derive(Debug, Default)]
struct Call {
    command: String,
    shown: Vec<String>,
}

/// Every line of an indented block that calls curl. What stands under it is what it prints where `$` is the prompt.
fn calls(text: &str) -> Vec<Call> {
    let mut calls = Vec::<Call>::new();
    let mut is_shown = false;
    for line in text.lines() {
        let Some(line) = line.strip_prefix("    ").map(str::trim) else {
            is_shown = is_shown && line.is_empty();
            continue;
        };
        let command = line.strip_prefix("$ ").unwrap_or(line);
        if command.starts_with("curl ") {
            is_shown = command != line;
            calls.push(Call { command: command.to_owned(), ..Call::default() });
        } else if let Some(call) = calls.last_mut().filter(|_| is_shown) {
            call.shown.push(line.to_owned());
        }
    }
    calls
}

/// A text without the ports of this machine, which are others each time.
fn without_ports(text: &str) -> String {
    let mut parts = text.split("127.0.0.1:");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| {
        all + "127.0.0.1:PORT" + part.trim_start_matches(|it: char| it.is_ascii_digit())
    })
}

/// Whether a text has the parts of a line of the README in their order, with anything in place of `...`.
fn shows(text: &str, line: &str) -> bool {
    line.split("...").try_fold(text, |rest, part| rest.split_once(part).map(|(_, rest)| rest)).is_some()
}

async fn curl(command: &str, address: SocketAddr) -> Result<String> {
    let here = ["127.0.0.1:8000", "localhost:8000"];
    let command = here.iter().fold(command.to_owned(), |text, name| text.replace(name, &address.to_string()));
    let mut shell = Command::new("bash");
    let path = std::env::var_os("PATH").unwrap_or_default();
    shell.args(["-c", &command]).env_clear().env("PATH", path).env("NO_PROXY", "*").stdin(Stdio::null());
    let output = shell.kill_on_drop(true).output().await?;
    let (said, errors) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success() && !said.contains("\"error\""), "{command}:\n{said}{errors}");
    Ok(said)
}

#[tokio::test]
async fn the_readmes_calls_of_curl_print_what_it_shows() -> Result<()> {
    let calls = calls(&readme()?);
    let shown = calls.iter().filter(|call| !call.shown.is_empty()).count();
    ensure!(shown >= 3 && calls.len() > shown, "most of them were not found: {calls:?}");
    let demo = HostShim::spawn(HostShim::command([])?.arg("--demo")).await?;
    for Call { command, shown } in calls {
        let said = without_ports(&curl(&command, demo.address()).await?);
        for line in shown {
            assert!(shows(&said, &without_ports(&line)), "{command}:\n{said}\nhas no\n{line}");
        }
    }
    Ok(())
}
