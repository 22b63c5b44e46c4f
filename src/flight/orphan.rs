//! Loads whose clients left: Ollama gives up loading a model when whoever asked for it leaves, so that a model that
//! loads slowly and whose clients are impatient would never load.
//!
//! While a host has not loaded the model, the request is kept until its head arrives or its limit passes, one for
//! each host and model; every other request of a departed client is dropped at once.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::{Either, select};

use crate::{
    fleet::{BackendHost, is_same_model},
    host::{Host, MaybeSend},
    survey,
};

/// How long a host may take to say what it has loaded: whatever it computes for a client that left must end soon.
const PATIENCE: Duration = Duration::from_millis(700);

/// The loads that are seen through. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Orphans(Arc<Mutex<Vec<(String, String)>>>);

/// The place of one load among the orphans.
struct Place {
    orphans: Orphans,
    load: (String, String),
}

impl Orphans {
    /// A place for a load of `model` on the host at `url`, unless there is one.
    fn admit(&self, url: &str, model: &str) -> Option<Place> {
        let load = (url.to_owned(), model.to_ascii_lowercase());
        let mut loads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if loads.contains(&load) {
            return None;
        }
        loads.push(load.clone());
        Some(Place { orphans: self.clone(), load })
    }

    /// How many loads are seen through now.
    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.orphans.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|load| *load != self.load);
    }
}

/// Takes over the request of a client that left while it waited for the head.
pub(super) fn adopt<H: Host, F>(host: &H, backend: &BackendHost, model: Option<&str>, sending: Pin<Box<F>>)
where
    F: Future<Output: MaybeSend> + MaybeSend + 'static,
{
    let place = model.and_then(|model| Some((host.orphans().admit(backend.url(), model)?, model.to_owned())));
    let Some((place, model)) = place else { return };
    let (task_host, backend) = (host.clone(), backend.clone());
    host.spawn(async move {
        let _place = place;
        // Whichever is first: the head is all that was waited for.
        if let Either::Right((is_loaded, sending)) =
            select(sending, Box::pin(is_loaded(&task_host, &backend, &model))).await
            && is_loaded == Some(false)
        {
            let _ = sending.await;
        }
    });
}

/// Whether the host lists the model among those it has loaded; `None` when it does not say so soon.
async fn is_loaded<H: Host>(host: &H, backend: &BackendHost, model: &str) -> Option<bool> {
    let listed = Box::pin(survey::models(host, backend, "/api/ps"));
    let Either::Left((loaded, _)) = select(listed, Box::pin(host.sleep(PATIENCE))).await else { return None };
    Some(loaded.ok()?.iter().any(|loaded| is_same_model(loaded, model)))
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
