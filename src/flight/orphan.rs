//! Loads whose clients left: Ollama gives up loading a model when whoever asked for it leaves, so that a model that
//! loads slowly and whose clients are impatient would never load.
//!
//! While a host has not loaded the model, which only a first byte proves, the request is kept until its head arrives or
//! its limit passes, one for each host and model; every other request of a departed client is dropped at once.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use super::place::Place;
use crate::{
    fleet::{AttemptFailure, Verdict},
    host::{Host, MaybeSend, UpstreamFailure},
};

/// The loads that are seen through. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Orphans(Arc<Mutex<Vec<(String, String)>>>);

/// One load among the orphans.
struct Orphan {
    orphans: Orphans,
    load: (String, String),
}

impl Orphans {
    /// A place for a load of `model` on the host at `url`, unless there is one.
    fn admit(&self, url: &str, model: &str) -> Option<Orphan> {
        let load = (url.to_owned(), model.to_ascii_lowercase());
        let mut loads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if loads.contains(&load) {
            return None;
        }
        loads.push(load.clone());
        Some(Orphan { orphans: self.clone(), load })
    }

    /// How many loads are seen through now.
    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        self.orphans.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|load| *load != self.load);
    }
}

/// Takes over the request of a client that left while it waited for the head, with its place, where the model was being
/// loaded for it; else gives the place back.
pub(super) fn adopt<H: Host, F, B>(
    host: &H,
    place: Box<Place>,
    model: Option<&str>,
    sending: Pin<Box<F>>,
) -> Option<Box<Place>>
where
    F: Future<Output = Result<http::Response<B>, UpstreamFailure>> + MaybeSend + 'static,
    B: MaybeSend + 'static,
{
    // A first byte since would have proved that the model is loaded.
    let admitted = model
        .filter(|_| place.cold && place.is_taken())
        .and_then(|model| host.orphans().admit(place.backend.url(), model));
    let Some(orphan) = admitted else { return Some(place) };
    let (task_host, mut place) = (host.clone(), place);
    host.spawn(async move {
        let _orphan = orphan;
        // The head is all that was waited for.
        let verdict = match sending.await {
            Ok(response) if response.status().is_success() => {
                place.note_first_byte(&task_host);
                Verdict::Answered
            }
            Ok(_) => Verdict::Neutral,
            Err(failure) => AttemptFailure::from(failure).verdict(),
        };
        place.settle(&task_host, verdict).await;
    });
    None
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
