//! What the README says about settings is what the table of settings says.

use anyhow::{Context as _, Result};
use paddock::config::settings::SETTINGS;
use paddock_tests::artifacts::workspace;

/// A row of a Markdown table, without the backticks.
fn cells(line: &str) -> Vec<String> {
    let row = line.trim().trim_start_matches('|').trim_end_matches('|');
    row.split('|').map(|cell| cell.trim().replace('`', "")).collect()
}

#[test]
fn the_readme_lists_every_setting_with_its_default() -> Result<()> {
    let text = std::fs::read_to_string(workspace().join("README.md"))?;
    let mut lines = text.lines().skip_while(|line| !line.starts_with("## Settings"));
    lines.next().context("the README has no part 'Settings'")?;
    let rows: Vec<_> = lines
        .take_while(|line| !line.starts_with("## "))
        .filter(|line| line.trim_start().starts_with("| `"))
        .map(cells)
        .collect();
    let listed: Vec<_> = rows.iter().map(|row| row[0].as_str()).collect();
    let known: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
    assert_eq!(listed, known, "names or their order differ");
    for (row, setting) in rows.iter().zip(SETTINGS) {
        assert_eq!(row[1], setting.default, "the default of {}", setting.name);
    }
    Ok(())
}
