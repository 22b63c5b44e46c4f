//! Loads whose clients left: Ollama gives up loading a model when whoever asked for it leaves, so that a model that
//! loads slowly and whose clients are impatient would never load.
//!
//! While a host has not loaded the model, which only a first byte proves, the request is kept until its head arrives or
//! its limit passes, one for each host and model; every other request of a departed client is dropped at once.

use std::{future::Future, pin::Pin};

use super::slot::Place;
use crate::{
    fleet::{AttemptFailure, Verdict},
    host::Host,
    platform::{MaybeSend, UpstreamFailure},
};

/// Takes over the request of a client that left while it waited for the head, with its place, where the model was being
/// loaded for it; else gives the place back.
pub(crate) fn adopt<H: Host, F, B>(
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
