//! Builds what the tests run, once a process, so that no test runs a binary older than its sources.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::Value;

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The cargo that runs the tests, in the workspace, as if it were not run by another cargo: what that one says about
/// the package under test would make build scripts run again.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let is_about_package = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"]
            .iter()
            .any(|prefix| name.to_string_lossy().starts_with(prefix));
        if is_about_package {
            cargo.env_remove(name);
        }
    }
    cargo.current_dir(workspace()).stdin(Stdio::null());
    cargo
}

/// The native binary.
pub fn host_shim() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build("host-shim").map_err(|error| format!("{error:#}")));
    built.clone().map_err(|error| anyhow!(error))
}

/// The file of a component, by the place that `spin.toml` names; built at the latest when an application starts.
pub fn component(source: &Path) -> Result<PathBuf> {
    crate::spin::build_components()?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let rest =
        source.strip_prefix("target").with_context(|| format!("{} is not in target", source.display()))?;
    Ok(workspace().join(target).join(rest))
}

/// Builds a package and gives its executable, which cargo names itself wherever it puts it.
fn build(package: &str) -> Result<PathBuf> {
    let output = cargo()
        .args(["build", "--locked", "--message-format=json-render-diagnostics", "-p", package])
        .output()
        .context("running cargo")?;
    ensure!(
        output.status.success(),
        "building {package} failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let messages = String::from_utf8(output.stdout)?;
    let mut executables = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        message.get("executable")?.as_str().map(PathBuf::from)
    });
    executables.next_back().with_context(|| format!("{package} has no executable"))
}
