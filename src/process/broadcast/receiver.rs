//! A receiver of a broadcast: it reads every event from the beginning, at its own pace.
//!
//! It never writes. Dropping it tells the leader that its client left.

use std::task::Waker;

use bytes::Bytes;

use super::Broadcast;
use crate::{
    api::error::Error,
    process::{Head, Provenance},
};

/// What a receiver gets next.
#[derive(Debug)]
pub(crate) enum Item {
    Event(Bytes),
    /// The terminator; no item follows.
    Last(Bytes),
    /// The end of a stream that Ollama ended without a terminator; no item follows.
    Stopped,
    /// The end without a terminator that is a failure, and whether an event has already reported the failure.
    Broken(Error, bool),
    /// The receiver is so slow that its next event is no longer buffered.
    Behind,
}

/// A receiver of a broadcast. Dropping it means that its client left.
#[derive(Debug)]
pub(crate) struct Receiver {
    pub(super) broadcast: Broadcast,
    pub(super) id: u64,
}

impl Receiver {
    /// The head of the broadcast.
    pub(crate) async fn head(&self) -> (Head, Provenance) {
        self.broadcast.heard(|state| state.head.clone()).await
    }

    /// The next item.
    pub(crate) async fn next(&self) -> Item {
        self.broadcast
            .heard(|state| {
                let heard = *state.receivers.get(&self.id)?;
                let Some(at) = heard.checked_sub(state.dropped) else { return Some(Item::Behind) };
                if let Some(event) = state.events.get(at).cloned() {
                    state.receivers.insert(self.id, heard + 1);
                    let is_last = state.is_complete && at + 1 == state.events.len();
                    // The leader waits until a receiver has read the event.
                    let watching = std::mem::take(&mut state.watching);
                    watching.into_iter().for_each(Waker::wake);
                    state.trim();
                    return Some(if is_last { Item::Last(event) } else { Item::Event(event) });
                }
                match &state.end {
                    Some(Err(error)) => Some(Item::Broken(error.clone(), state.is_told)),
                    Some(Ok(())) | None if state.is_stopped => Some(Item::Stopped),
                    Some(Ok(())) | None => None,
                }
            })
            .await
    }

    /// Resolves at the end of the flight, when its turn is stored or it failed.
    pub(crate) async fn ended(&self) -> Result<(), Error> {
        self.broadcast.heard(|state| state.end.clone()).await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = self.broadcast.state();
        state.receivers.remove(&self.id);
        state.trim();
        let watching = std::mem::take(&mut state.watching);
        drop(state);
        watching.into_iter().for_each(Waker::wake);
    }
}
