//! The loads of this process that are seen through although their clients left: one for each host and model.

use std::sync::{Arc, Mutex, PoisonError};

/// The loads that are seen through. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Orphans(Arc<Mutex<Vec<(String, String)>>>);

/// One load among the orphans.
pub(crate) struct Orphan {
    orphans: Orphans,
    load: (String, String),
}

impl Orphans {
    /// A place for a load of `model` on the host at `url`, unless there is one.
    pub(crate) fn admit(&self, url: &str, model: &str) -> Option<Orphan> {
        let load = (url.to_owned(), model.to_ascii_lowercase());
        let mut loads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if loads.contains(&load) {
            return None;
        }
        loads.push(load.clone());
        Some(Orphan { orphans: self.clone(), load })
    }

    /// How many loads are seen through now.
    #[cfg(test)]
    fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        self.orphans.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|load| *load != self.load);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_load_a_host_and_model_is_seen_through() {
        let orphans = Orphans::default();
        let first = orphans.admit("http://a:1", "llama3.2");
        assert!(first.is_some() && orphans.admit("http://a:1", "LLAMA3.2").is_none());
        assert!(orphans.admit("http://b:1", "llama3.2").is_some(), "dropped at once, so that one is left");
        assert_eq!(orphans.count(), 1);
        drop(first);
        assert_eq!(orphans.count(), 0);
    }
}
