//! The engine and the compiled components, shared by all applications of a test process, and the build that makes the
//! `.wasm` files. Must never serve a file older than the sources.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use anyhow::{Context as _, Result, anyhow, ensure};
use wasmparser::{Parser, Payload};
use wasmtime::component::Component;
use wasmtime::{Config, Engine};
use wasmtime_wasi_http::p3::bindings::ServicePre;

use super::host::{self, State};
use crate::artifacts;

/// The names of the imports of the component in file `wasm`, such as `wasi:http/types@0.3.0`.
pub fn component_imports(wasm: &Path) -> Result<Vec<String>> {
    let bytes = std::fs::read(wasm).with_context(|| format!("reading {}", wasm.display()))?;
    let mut imports = Vec::new();
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(&bytes) {
        let payload = payload?;
        if matches!(payload, Payload::ModuleSection { .. } | Payload::ComponentSection { .. }) {
            depth += 1;
        } else if matches!(payload, Payload::End(_)) {
            depth = depth.saturating_sub(1);
        } else if let (Payload::ComponentImportSection(section), 0) = (payload, depth) {
            for import in section {
                imports.push(import?.name.name.to_owned());
            }
        }
    }
    Ok(imports)
}

/// Builds this workspace's components, once a process, as `spin build` does.
pub fn build_components() -> Result<()> {
    static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
    BUILT
        .get_or_init(|| cargo_build().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(|error| anyhow!(error))
}

fn cargo_build() -> Result<()> {
    let output = artifacts::cargo()
        .args(["build", "--target", "wasm32-wasip2", "--release", "--locked"])
        .output()
        .context("running cargo")?;
    ensure!(
        output.status.success(),
        "building the components failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Where a component's `source` is: beside the manifest, or where `CARGO_TARGET_DIR` moved the target directory.
pub(super) fn source_path(manifest: &Path, source: &Path) -> PathBuf {
    match (std::env::var_os("CARGO_TARGET_DIR"), source.strip_prefix("target")) {
        (Some(target), Ok(rest)) => Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(target).join(rest),
        _ => manifest.parent().unwrap_or_else(|| Path::new("")).join(source),
    }
}

/// The process's engine.
pub(super) fn engine() -> Result<&'static Engine> {
    static ENGINE: OnceLock<Result<Engine, String>> = OnceLock::new();
    let engine = ENGINE.get_or_init(|| {
        let mut config = Config::new();
        config.wasm_component_model_async(true);
        Engine::new(&config).map_err(|error| format!("{error:?}"))
    });
    engine.as_ref().map_err(|error| anyhow!(error.clone()))
}

/// The component in file `wasm`, compiled and linked; compiled once as long as the file does not change.
pub(super) fn load(wasm: &Path) -> Result<ServicePre<State>> {
    type Compiled = HashMap<PathBuf, (SystemTime, ServicePre<State>)>;
    static COMPILED: OnceLock<Mutex<Compiled>> = OnceLock::new();
    let modified = wasm
        .metadata()
        .and_then(|file| file.modified())
        .with_context(|| format!("reading {}", wasm.display()))?;
    let mut compiled = COMPILED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((at, service)) = compiled.get(wasm)
        && *at == modified
    {
        return Ok(service.clone());
    }
    let engine = engine()?;
    let component = Component::from_file(engine, wasm)?;
    let service = ServicePre::new(host::linker(engine)?.instantiate_pre(&component)?)?;
    compiled.insert(wasm.to_owned(), (modified, service.clone()));
    Ok(service)
}
