//! The tables: one a scenario, in Markdown.

use std::io::Write;

use anyhow::Result;

use crate::{figures::Figures, scenario::Scenario};

/// What each policy made of a scenario, the policy that the others are compared with first.
#[derive(Debug)]
pub struct Section<'a> {
    /// The scenario.
    pub scenario: &'a Scenario,
    /// The policies by name, with the medians of their figures.
    pub rows: Vec<(&'static str, Figures)>,
}

/// Writes the table of a scenario.
///
/// # Errors
/// When it cannot be written.
pub fn write(output: &mut impl Write, section: &Section<'_>) -> Result<()> {
    let Section { scenario, rows } = section;
    writeln!(output, "## {}\n\n{}\n", scenario.name, scenario.purpose)?;
    // Only where callers compete is it of interest how those fare who are not the first.
    let compete = scenario.callers.len() > 2;
    let (first, _) = rows.first().copied().unzip();
    write!(
        output,
        "| policy | p50 s | p95 s | {} p95 / its p95 | loads | shed | failed |",
        first.unwrap_or_default()
    )?;
    writeln!(output, "{}", if compete { " p95 s of the other callers | their losses |" } else { "" })?;
    writeln!(output, "|---|--:|--:|--:|--:|--:|--:|{}", if compete { "--:|--:|" } else { "" })?;
    let base = rows.first().map_or(0.0, |(_, figures)| figures.p95);
    for (name, figures) in rows {
        let Figures { p50, p95, others_p95, loads, shed, failed, others_lost } = figures;
        // Who answers nobody has no such time.
        let ratio = if *p95 > 0.0 { format!("{:.2}", base / p95) } else { "–".to_owned() };
        write!(output, "| {name} | {p50:.2} | {p95:.2} | {ratio} | {loads:.0} | {shed:.0} | {failed:.0} |")?;
        writeln!(
            output,
            "{}",
            if compete { format!(" {others_p95:.2} | {others_lost:.0} |") } else { String::new() }
        )?;
    }
    writeln!(output)?;
    Ok(())
}
