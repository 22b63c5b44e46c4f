//! A broadcast: the answer of a flight, for all requests that wait for it.
//!
//! The leader writes, and every receiver reads all events from the beginning. The fastest receiver sets the leader's
//! pace. A receiver that is slower than the buffer allows gets [`Item::Behind`]. The leader stops when no receiver is
//! left. Where one request cannot wake another, each flight has only the receiver of its own request.

mod receiver;

use std::{
    collections::{BTreeMap, VecDeque},
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, MutexGuard, Weak},
    task::{Poll, Waker},
};

use bytes::Bytes;

use super::{Head, Provenance};
use crate::{
    api::{
        error::Error,
        memory_budget::{HeldBytes, Reclaim},
        reply::ClientLeft,
    },
    cache::Entry,
    platform::{Locked, race},
};

pub(crate) use receiver::{Item, Receiver};

/// How many events the leader may be ahead of the fastest receiver.
const AHEAD: usize = 1;

/// What the leader is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WriterState {
    /// It looks for a stored answer.
    Looks,
    /// It asks upstream, so the answer is as young as any request may want it.
    Asks,
    /// It asked upstream, and had lost the store before it failed.
    LostStore,
}

/// Which events are buffered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Retention {
    /// All that fit, for receivers that join later.
    All,
    /// Those that a receiver has not read.
    Unread,
}

/// What becomes of a whole answer for followers in other processes.
#[derive(Debug, Default)]
pub(crate) enum WholeFate {
    /// The cache keeps it.
    #[default]
    Kept,
    /// The cache does not keep it, so this is handed over.
    Unkept(Entry),
    /// There is nothing that could be kept or handed over, because it has passed.
    Passed,
}

/// The broadcast of a flight. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Broadcast(Arc<Locked<BroadcastState>>);

#[derive(Debug)]
struct BroadcastState {
    head: Option<(Head, Provenance)>,
    events: VecDeque<Bytes>,
    /// How many events are no longer buffered.
    dropped: usize,
    bytes: usize,
    /// The most buffered bytes for receivers that join later; 0 where none may join.
    limit: usize,
    retention: Retention,
    /// The buffered bytes as they count in the memory budget.
    held: HeldBytes,
    is_complete: bool,
    /// Whether the stream ended without a terminator, and is none that failed.
    is_stopped: bool,
    /// Whether an event has reported the failure.
    is_told: bool,
    end: Option<Result<(), Error>>,
    /// What becomes of a whole answer for followers in other processes.
    whole_fate: WholeFate,
    writer: WriterState,
    /// How many events each receiver has read.
    receivers: BTreeMap<u64, usize>,
    receivers_so_far: u64,
    /// Wakers of receivers that wait for events, and of futures that wait for receivers. They are separate, so that one
    /// of hundreds of receivers wakes none of the others.
    listening: Vec<Waker>,
    watching: Vec<Waker>,
}

impl BroadcastState {
    fn written(&self) -> usize {
        self.dropped + self.events.len()
    }

    fn is_over(&self) -> bool {
        let is_stream = matches!(self.head, None | Some((Head::Stream { .. } | Head::Passing(_), _)));
        self.is_complete || self.is_stopped || self.end.is_some() || !is_stream
    }

    /// Drops buffered events beyond the limit: with a limit above 0 once the fastest receiver has read them, else once
    /// all have. While the events fit into the limit, all stay for receivers that join later, unless others need the room.
    fn trim(&mut self) {
        let slowest = self.receivers.values().copied().min().unwrap_or(self.dropped);
        let fastest = self.receivers.values().copied().max().unwrap_or(self.dropped);
        let heard = if self.limit > 0 { fastest } else { slowest };
        while (self.bytes > self.limit && self.dropped < heard
            || self.retention == Retention::Unread && self.dropped < slowest)
            && let Some(event) = self.events.pop_front()
        {
            self.bytes -= event.len();
            self.dropped += 1;
        }
    }

    /// Keeps nothing for receivers that join later.
    fn keep_no_more(&mut self) {
        self.retention = Retention::Unread;
        self.trim();
        self.held.shrink_to(self.bytes);
    }
}

impl Reclaim for Locked<BroadcastState> {
    /// Forgets what all receivers have read: those that join later ask anew, and the answer is not kept.
    fn reclaim(&self) {
        self.lock().keep_no_more();
    }
}

impl Broadcast {
    /// A broadcast with its first receiver. `limit` is the most bytes that are buffered for receivers that join later, and
    /// `held` counts them.
    pub(crate) fn new(limit: usize, held: HeldBytes) -> (Self, Receiver) {
        let broadcast = Self(Arc::new(Locked::new(BroadcastState {
            head: None,
            events: VecDeque::new(),
            dropped: 0,
            bytes: 0,
            limit,
            retention: Retention::All,
            held,
            is_complete: false,
            is_stopped: false,
            is_told: false,
            end: None,
            whole_fate: WholeFate::Kept,
            writer: WriterState::Looks,
            receivers: BTreeMap::from([(0, 0)]),
            receivers_so_far: 1,
            listening: Vec::new(),
            watching: Vec::new(),
        })));
        let receiver = Receiver { broadcast: broadcast.clone(), id: 0 };
        (broadcast, receiver)
    }

    /// Another receiver; `None` when the first events are no longer buffered, or the broadcast has ended.
    pub(crate) fn join(&self) -> Option<Receiver> {
        let mut state = self.state();
        if state.dropped > 0 || state.end.is_some() || state.receivers.is_empty() {
            return None;
        }
        let id = state.receivers_so_far;
        state.receivers_so_far += 1;
        state.receivers.insert(id, 0);
        Some(Receiver { broadcast: self.clone(), id })
    }

    /// Whether both are the same broadcast.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn state(&self) -> MutexGuard<'_, BroadcastState> {
        self.0.lock()
    }

    fn change(&self, change: impl FnOnce(&mut BroadcastState)) {
        let mut state = self.state();
        change(&mut state);
        let listening = std::mem::take(&mut state.listening);
        let watching = std::mem::take(&mut state.watching);
        drop(state);
        listening.into_iter().chain(watching).for_each(Waker::wake);
    }

    /// Resolves with the first value that `ready` returns; `side` selects the wakers to wait with.
    async fn until<T>(
        &self,
        side: impl Fn(&mut BroadcastState) -> &mut Vec<Waker>,
        mut ready: impl FnMut(&mut BroadcastState) -> Option<T>,
    ) -> T {
        poll_fn(|context| {
            let mut state = self.state();
            if let Some(found) = ready(&mut state) {
                return Poll::Ready(found);
            }
            let (waiting, waker) = (side(&mut state), context.waker());
            if !waiting.iter().any(|known| known.will_wake(waker)) {
                waiting.push(waker.clone());
            }
            Poll::Pending
        })
        .await
    }

    /// Waits as a receiver does, for events.
    async fn heard<T>(&self, ready: impl FnMut(&mut BroadcastState) -> Option<T>) -> T {
        self.until(|state| &mut state.listening, ready).await
    }

    /// Waits for receivers, or for the end.
    async fn seen<T>(&self, ready: impl FnMut(&mut BroadcastState) -> Option<T>) -> T {
        self.until(|state| &mut state.watching, ready).await
    }

    /// Sets the head; a second head is ignored.
    pub(crate) fn open(&self, head: Head, source: Provenance) {
        self.change(|state| {
            state.head.get_or_insert((head, source));
        });
    }

    /// Whether the head is set.
    pub(crate) fn is_open(&self) -> bool {
        self.state().head.is_some()
    }

    /// Whether the pieces are those of a whole reply, and no events.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self.state().head, Some((Head::Passing(_), _)))
    }

    /// Writes one event as soon as a receiver can take it.
    pub(crate) async fn write(&self, event: Bytes) -> Result<(), ClientLeft> {
        self.room().await?;
        self.change(|state| {
            state.bytes += event.len();
            state.events.push_back(event);
            state.trim();
            let bytes = state.bytes;
            let holder = || Arc::downgrade(&self.0) as Weak<dyn Reclaim>;
            if state.held.keep(bytes, holder).is_err() {
                state.keep_no_more();
            }
        });
        Ok(())
    }

    /// Writes an event that reports a failure.
    pub(crate) async fn tell(&self, event: Bytes) -> Result<(), ClientLeft> {
        self.change(|state| state.is_told = true);
        self.write(event).await
    }

    /// Writes the terminator.
    pub(crate) fn complete(&self, event: Bytes) {
        self.change(|state| {
            state.bytes += event.len();
            state.events.push_back(event);
            state.is_complete = true;
        });
    }

    /// Ends the stream without a terminator, as Ollama ended it.
    pub(crate) fn stop(&self) {
        self.change(|state| state.is_stopped = true);
    }

    /// Ends the broadcast: the turn is stored, or the flight failed.
    pub(crate) fn end(&self, end: Result<(), Error>) {
        self.change(|state| {
            state.end.get_or_insert(end);
        });
    }

    /// A broadcast of a complete answer.
    pub(crate) fn of(events: Vec<Bytes>) -> Receiver {
        let (broadcast, receiver) = Self::new(usize::MAX, HeldBytes::default());
        broadcast.change(|state| {
            state.bytes = events.iter().map(Bytes::len).sum();
            state.events = events.into();
            state.is_complete = true;
            state.end = Some(Ok(()));
        });
        receiver
    }

    /// Resolves when the leader will write no more events.
    pub(crate) async fn over(&self) {
        self.seen(|state| state.is_over().then_some(())).await;
    }

    /// Resolves when the flight ended without a stream: with an answer in one piece, or with a failure.
    pub(crate) async fn over_whole(&self) {
        self.seen(|state| (state.is_over() && !state.is_complete && !state.is_stopped).then_some(())).await;
    }

    /// The failure with which it ended, if it did.
    pub(crate) fn failure(&self) -> Option<Error> {
        let state = self.state();
        match (&state.head, &state.end) {
            (Some((Head::Failed(error), _)), _) | (_, Some(Err(error))) => Some(error.clone()),
            _ => None,
        }
    }

    /// Records that the leader asks upstream.
    pub(crate) fn note_fresh(&self) {
        self.state().writer = WriterState::Asks;
    }

    /// Whether the leader asks upstream, so that no stored answer will come.
    pub(crate) fn is_fresh(&self) -> bool {
        self.state().writer != WriterState::Looks
    }

    /// Records that the leader has lost the store; called before the leader reports a failure.
    pub(crate) fn note_lost_store(&self) {
        self.state().writer = WriterState::LostStore;
    }

    /// Whether the leader had lost the store when it failed.
    pub(crate) fn has_lost_store(&self) -> bool {
        self.state().writer == WriterState::LostStore
    }

    /// Records what becomes of a whole answer that the cache does not keep; called before the answer is announced.
    pub(crate) fn note_unkept(&self, entry: Option<Entry>) {
        self.state().whole_fate = entry.map_or(WholeFate::Passed, WholeFate::Unkept);
    }

    /// What becomes of a whole answer. An answer to hand over is taken.
    pub(crate) fn take_fate(&self) -> WholeFate {
        std::mem::take(&mut self.state().whole_fate)
    }

    /// Whether at most one receiver is left.
    pub(crate) fn is_alone(&self) -> bool {
        self.state().receivers.len() <= 1
    }

    /// Resolves when at most one receiver is left.
    pub(crate) async fn alone(&self) {
        self.seen(|state| (state.receivers.len() <= 1).then_some(())).await;
    }

    /// Waits until a receiver can take another event.
    async fn room(&self) -> Result<(), ClientLeft> {
        self.seen(|state| {
            let Some(fastest) = state.receivers.values().max() else { return Some(Err(ClientLeft)) };
            (state.written() < fastest + AHEAD).then_some(Ok(()))
        })
        .await
    }

    /// Resolves when no receiver is left.
    pub(crate) async fn left(&self) {
        self.seen(|state| state.receivers.is_empty().then_some(())).await;
    }

    /// Runs `future` to its end; gives [`ClientLeft`] when all receivers leave first.
    pub(crate) async fn during<F: Future>(&self, future: Pin<&mut F>) -> Result<F::Output, ClientLeft> {
        race! {
            output = future => Ok(output),
            () = self.left() => Err(ClientLeft),
        }
    }

    /// The events so far except the first `known`; `None` when they are no longer buffered.
    pub(crate) fn events_since(&self, known: usize) -> Option<Vec<Bytes>> {
        let state = self.state();
        let skipped = known.checked_sub(state.dropped)?;
        Some(state.events.iter().skip(skipped).cloned().collect())
    }

    /// The whole answer as it came; `None` when its beginning is no longer buffered.
    pub(crate) fn whole(&self) -> Option<Bytes> {
        let events = self.events_since(0)?;
        Some(events.concat().into())
    }
}

#[cfg(test)]
mod tests;
