//! Model loads that continue although their clients left: at most one for each host and model.

use std::sync::Arc;

use crate::platform::Locked;

/// The loads of this process that continue without a client. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Orphans(Arc<Locked<Vec<(String, String)>>>);

/// One such load; dropping it removes it from the list.
pub(crate) struct Orphan {
    orphans: Orphans,
    load: (String, String),
}

impl Orphans {
    /// Adds a load of `model` on the host at `url`; `None` when there is one already.
    pub(crate) fn admit(&self, url: &str, model: &str) -> Option<Orphan> {
        let load = (url.to_owned(), model.to_ascii_lowercase());
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
        assert!(first.is_some() && orphans.admit("http://a:1", "LLAMA3.2").is_none());
        assert!(orphans.admit("http://b:1", "llama3.2").is_some(), "dropped at once, so that one is left");
        assert_eq!(orphans.count(), 1);
        drop(first);
        assert_eq!(orphans.count(), 0);
    }
}
