//! The `.wasm` files: what they import and how large they are.

use std::path::PathBuf;

use anyhow::Result;
use paddock_tests::{
    artifacts,
    spin::{component_imports, manifest::Manifest},
};

/// Every component of `spin.toml` with its file.
fn components() -> Result<Vec<(String, PathBuf)>> {
    let manifest = Manifest::load(&Manifest::workspace_path())?;
    let file = |(id, component): (&String, &paddock_tests::spin::manifest::Component)| {
        Ok((id.clone(), artifacts::component(&component.source)?))
    };
    manifest.components.iter().map(file).collect()
}

#[test]
fn a_component_imports_nothing_but_what_it_needs() -> Result<()> {
    for (id, file) in components()? {
        let imports = component_imports(&file)?;
        assert!(!imports.is_empty(), "{id}");
        for import in &imports {
            let allowed = ["wasi:", "spin:redis/", "spin:variables/"];
            assert!(allowed.iter().any(|prefix| import.starts_with(prefix)), "{id} imports {import}");
            let barred = ["wasi:sockets/", "wasi:filesystem/"];
            assert!(!barred.iter().any(|prefix| import.starts_with(prefix)), "{id} imports {import}");
        }
    }
    Ok(())
}

#[test]
fn a_component_is_smaller_than_1300_kb() -> Result<()> {
    for (id, file) in components()? {
        let size = file.metadata()?.len();
        assert!(size < 1_300_000, "{id} has {size} bytes");
    }
    Ok(())
}
