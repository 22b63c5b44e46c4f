//! Model loads that continue although their clients left: at most one for each host and model.

use std::sync::Arc;

use crate::{fleet::ModelName, platform::Locked};

/// The loads of this process that continue without a client. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Orphans(Arc<Locked<Vec<(String, String)>>>);

/// One such load; dropping it removes it from the list.
pub(crate) struct Orphan {
    orphans: Orphans,
    load: (String, String),
}

impl Orphans {
    /// Adds a load of `model` on the host at `url`; `None` when there is one already, by whatever spelling of its name. What
    /// is no name counts as one model.
    pub(crate) fn admit(&self, url: &str, model: &str) -> Option<Orphan> {
        let model = ModelName::parse(model).map(|name| name.as_str().to_owned());
        let load = (url.to_owned(), model.unwrap_or_default());
        let mut loads = self.0.lock();
        if loads.contains(&load) {
            return None;
        }
        loads.push(load.clone());
        Some(Orphan { orphans: self.clone(), load })
    }

    /// How many loads continue without a client.
    #[cfg(test)]
    fn count(&self) -> usize {
        self.0.lock().len()
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        self.orphans.0.lock().retain(|load| *load != self.load);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_load_a_host_and_model_is_seen_through() {
        let orphans = Orphans::default();
        let first = orphans.admit("http://a:1", "llama3.2");
        for spelling in ["LLAMA3.2", "llama3.2:latest", " library/llama3.2", "llama3.2:local"] {
            assert!(first.is_some() && orphans.admit("http://a:1", spelling).is_none(), "{spelling}");
        }
        let unnamed = orphans.admit("http://a:1", &"x".repeat(1 << 20));
        assert!(unnamed.is_some() && orphans.admit("http://a:1", "no name").is_none());
        drop(unnamed);
        assert!(orphans.admit("http://b:1", "llama3.2").is_some(), "dropped at once, so that one is left");
        assert_eq!(orphans.count(), 1);
        drop(first);
        assert_eq!(orphans.count(), 0);
    }
}
