//! `make simulate`: plays the scenarios and prints what the policies make of them.

use std::io::Write as _;

use anyhow::Result;
use paddock_simulation::scenarios;

fn main() -> Result<()> {
    let mut output = std::io::stdout().lock();
    for scenario in &scenarios::ALL {
        writeln!(output, "## {}\n\n{}\n", scenario.name, scenario.purpose)?;
    }
    Ok(())
}
