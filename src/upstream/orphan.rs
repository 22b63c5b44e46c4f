//! Model loads whose clients left. Ollama stops loading a model when the client that asked for it leaves, so a model that
//! loads slowly would never load for impatient clients.
//!
//! A first byte is the only proof that a model is loaded. Before that, the request of a departed client is kept until its
//! head arrives or its limit passes, one for each host and model. Every other request of a departed client is dropped at
//! once.

use std::{future::Future, pin::Pin};

use super::slot::Slot;
use crate::{
    fleet::{AttemptFailure, HostEffect},
    host::{Platform, Service},
    platform::{Background, MaybeSend, UpstreamFailure},
};

/// Takes over the call of a departed client, with its slot, where the host is still loading the model for it. Otherwise it
/// returns the slot.
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
    // The call has no first byte yet, so the model of a cold slot is still loading.
    let admitted = model
        .filter(|_| slot.cold && slot.is_taken())
        .and_then(|model| service.orphans().admit(slot.backend.url(), model));
    let Some(orphan) = admitted else { return Some(slot) };
    let (task_service, mut slot) = (service.clone(), slot);
    service.spawn(async move {
        let _orphan = orphan;
        // The head proves that the model is loaded; the body is not read.
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
