//! Loads whose clients left: Ollama gives up loading a model when whoever asked for it leaves, so that a model that
//! loads slowly and whose clients are impatient would never load.
//!
//! While a host has not loaded the model, which only a first byte proves, the request is kept until its head arrives or
//! its limit passes, one for each host and model; every other request of a departed client is dropped at once.

use std::{future::Future, pin::Pin};

use super::slot::Slot;
use crate::{
    fleet::{AttemptFailure, HostEffect},
    host::{Platform, Service},
    platform::{Background, MaybeSend, UpstreamFailure},
};

/// Takes over the request of a client that left while it waited for the head, with its slot, where the model was being
/// loaded for it; else gives the slot back.
pub(crate) fn adopt_load<P: Platform, F, B>(
    service: &Service<P>,
    slot: Box<Slot>,
    model: Option<&str>,
    sending: Pin<Box<F>>,
) -> Option<Box<Slot>>
where
    F: Future<Output = Result<http::Response<B>, UpstreamFailure>> + MaybeSend + 'static,
    B: MaybeSend + 'static,
{
    // A first byte since would have proved that the model is loaded.
    let admitted = model
        .filter(|_| slot.cold && slot.is_taken())
        .and_then(|model| service.orphans().admit(slot.backend.url(), model));
    let Some(orphan) = admitted else { return Some(slot) };
    let (task_service, mut slot) = (service.clone(), slot);
    service.spawn(async move {
        let _orphan = orphan;
        // The head is all that was waited for.
        let effect = match sending.await {
            Ok(response) if response.status().is_success() => {
                slot.note_first_byte(&task_service);
                HostEffect::Answered
            }
            Ok(_) => HostEffect::Neutral,
            Err(failure) => AttemptFailure::from(failure).effect(),
        };
        slot.release(&task_service, effect).await;
    });
    None
}
