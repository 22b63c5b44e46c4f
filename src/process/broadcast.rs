//! A broadcast: the answer of a flight, for all requests that wait for it.
//!
//! The leader writes, and every receiver reads all events from the beginning. The fastest receiver sets the leader's
//! pace. A receiver that is slower than the buffer allows gets [`Item::Behind`]. The leader stops when no receiver is
//! left. Where one request cannot wake another, each flight has only the receiver of its own request.

use std::{
    collections::{BTreeMap, VecDeque},
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, MutexGuard},
    task::{Poll, Waker},
};

use bytes::Bytes;
use futures::future::{Either, select};

use super::{Head, Provenance};
use crate::{
    api::{error::Error, reply::ClientLeft},
    cache::Entry,
    platform::Locked,
};

/// How many events the leader may be ahead of the fastest receiver.
const AHEAD: usize = 1;

/// What a receiver gets next.
#[derive(Debug)]
pub(crate) enum Item {
    Event(Bytes),
    /// The terminator; no item follows.
    Last(Bytes),
    /// The end without a terminator, and whether an event has already reported the failure.
    Broken(Error, bool),
    /// The receiver is so slow that its next event is no longer buffered.
    Behind,
}

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

/// The broadcast of a flight. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Broadcast(Arc<Locked<BroadcastState>>);

#[derive(Debug)]
struct BroadcastState {
    opening: Option<(Head, Provenance)>,
    events: VecDeque<Bytes>,
    /// How many events are no longer buffered.
    dropped: usize,
    bytes: usize,
    /// The most buffered bytes for receivers that join later; 0 where none may join.
    limit: usize,
    is_complete: bool,
    /// Whether an event has reported the failure.
    is_told: bool,
    end: Option<Result<(), Error>>,
    /// The whole answer for followers in other processes, if the cache does not keep it.
    unkept: Option<Entry>,
    writer: WriterState,
    /// How many events each receiver has read.
    readers: BTreeMap<u64, usize>,
    readers_so_far: u64,
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
        let is_stream = matches!(self.opening, None | Some((Head::Stream { .. }, _)));
        self.is_complete || self.end.is_some() || !is_stream
    }

    /// Drops buffered events beyond the limit: with a limit above 0 once the fastest receiver has read them, else once
    /// all have. While the events fit into the limit, all stay for receivers that join later.
    fn trim(&mut self) {
        let heard = self.readers.values().copied();
        let heard = if self.limit > 0 { heard.max() } else { heard.min() }.unwrap_or(self.dropped);
        while self.bytes > self.limit
            && self.dropped < heard
            && let Some(event) = self.events.pop_front()
        {
            self.bytes -= event.len();
            self.dropped += 1;
        }
    }
}

impl Broadcast {
    /// A broadcast with its first receiver. `limit` is the most bytes that are buffered for receivers that join later.
    pub(crate) fn new(limit: usize) -> (Self, Receiver) {
        let broadcast = Self(Arc::new(Locked::new(BroadcastState {
            opening: None,
            events: VecDeque::new(),
            dropped: 0,
            bytes: 0,
            limit,
            is_complete: false,
            is_told: false,
            end: None,
            unkept: None,
            writer: WriterState::Looks,
            readers: BTreeMap::from([(0, 0)]),
            readers_so_far: 1,
            listening: Vec::new(),
            watching: Vec::new(),
        })));
        let reader = Receiver { broadcast: broadcast.clone(), id: 0 };
        (broadcast, reader)
    }

    /// Another receiver; `None` when the first events are no longer buffered, or the broadcast has ended.
    pub(crate) fn join(&self) -> Option<Receiver> {
        let mut state = self.state();
        if state.dropped > 0 || state.end.is_some() || state.readers.is_empty() {
            return None;
        }
        let id = state.readers_so_far;
        state.readers_so_far += 1;
        state.readers.insert(id, 0);
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
    pub(crate) fn open(&self, opening: Head, source: Provenance) {
        self.change(|state| {
            state.opening.get_or_insert((opening, source));
        });
    }

    /// Whether the head is set.
    pub(crate) fn is_open(&self) -> bool {
        self.state().opening.is_some()
    }

    /// Writes one event as soon as a receiver can take it.
    pub(crate) async fn write(&self, event: Bytes) -> Result<(), ClientLeft> {
        self.room().await?;
        self.change(|state| {
            state.bytes += event.len();
            state.events.push_back(event);
            state.trim();
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

    /// Ends the broadcast: the turn is stored, or the flight failed.
    pub(crate) fn end(&self, end: Result<(), Error>) {
        self.change(|state| {
            state.end.get_or_insert(end);
        });
    }

    /// A broadcast of a complete answer.
    pub(crate) fn of(events: Vec<Bytes>) -> Receiver {
        let (broadcast, reader) = Self::new(usize::MAX);
        broadcast.change(|state| {
            state.bytes = events.iter().map(Bytes::len).sum();
            state.events = events.into();
            state.is_complete = true;
            state.end = Some(Ok(()));
        });
        reader
    }

    /// Resolves when the leader will write no more events.
    pub(crate) async fn over(&self) {
        self.seen(|state| state.is_over().then_some(())).await;
    }

    /// Resolves when the flight ended without a stream: with an answer in one piece, or with a failure.
    pub(crate) async fn over_whole(&self) {
        self.seen(|state| (state.is_over() && !state.is_complete).then_some(())).await;
    }

    /// The failure with which it ended, if it did.
    pub(crate) fn failure(&self) -> Option<Error> {
        let state = self.state();
        match (&state.opening, &state.end) {
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

    /// Records a whole answer that the cache does not keep; called before the answer is announced.
    pub(crate) fn note_unkept(&self, entry: Entry) {
        self.state().unkept = Some(entry);
    }

    /// Takes the whole answer that the cache does not keep.
    pub(crate) fn take_unkept(&self) -> Option<Entry> {
        self.state().unkept.take()
    }

    /// Whether at most one receiver is left.
    pub(crate) fn is_alone(&self) -> bool {
        self.state().readers.len() <= 1
    }

    /// Resolves when at most one receiver is left.
    pub(crate) async fn alone(&self) {
        self.seen(|state| (state.readers.len() <= 1).then_some(())).await;
    }

    /// Waits until a receiver can take another event.
    async fn room(&self) -> Result<(), ClientLeft> {
        self.seen(|state| {
            let Some(fastest) = state.readers.values().max() else { return Some(Err(ClientLeft)) };
            (state.written() < fastest + AHEAD).then_some(Ok(()))
        })
        .await
    }

    /// Resolves when no receiver is left.
    pub(crate) async fn left(&self) {
        self.seen(|state| state.readers.is_empty().then_some(())).await;
    }

    /// Runs `future` to its end; drops it and gives [`ClientLeft`] when all receivers leave first.
    pub(crate) async fn during<F: Future>(&self, future: F) -> Result<F::Output, ClientLeft> {
        match select(pin!(future), pin!(self.left())).await {
            Either::Left((output, _)) => Ok(output),
            Either::Right(((), _)) => Err(ClientLeft),
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

/// A receiver of a broadcast. Dropping it means that its client left.
#[derive(Debug)]
pub(crate) struct Receiver {
    broadcast: Broadcast,
    id: u64,
}

impl Receiver {
    /// The head of the broadcast.
    pub(crate) async fn opening(&self) -> (Head, Provenance) {
        self.broadcast.heard(|state| state.opening.clone()).await
    }

    /// The next item.
    pub(crate) async fn next(&self) -> Item {
        self.broadcast
            .heard(|state| {
                let heard = *state.readers.get(&self.id)?;
                let Some(at) = heard.checked_sub(state.dropped) else { return Some(Item::Behind) };
                if let Some(event) = state.events.get(at).cloned() {
                    state.readers.insert(self.id, heard + 1);
                    let is_last = state.is_complete && at + 1 == state.events.len();
                    // The leader waits until a receiver has read the event.
                    let watching = std::mem::take(&mut state.watching);
                    watching.into_iter().for_each(Waker::wake);
                    state.trim();
                    return Some(if is_last { Item::Last(event) } else { Item::Event(event) });
                }
                match &state.end {
                    Some(Err(error)) => Some(Item::Broken(error.clone(), state.is_told)),
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
        state.readers.remove(&self.id);
        state.trim();
        let watching = std::mem::take(&mut state.watching);
        drop(state);
        watching.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn now<T>(future: impl Future<Output = T>) -> T {
        future.now_or_never().unwrap()
    }

    fn event(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn next(reader: &Receiver) -> Option<String> {
        match reader.next().now_or_never()? {
            Item::Event(event) => Some(String::from_utf8_lossy(&event).into_owned()),
            Item::Last(event) => Some(format!("{} and no more", String::from_utf8_lossy(&event))),
            Item::Broken(error, _) => Some(error.code().to_owned()),
            Item::Behind => Some("behind".to_owned()),
        }
    }

    #[test]
    fn every_reader_hears_all_and_the_fastest_sets_the_pace() {
        let (broadcast, first) = Broadcast::new(100);
        let second = broadcast.join().unwrap();
        now(broadcast.write(event("a"))).unwrap();
        assert!(broadcast.write(event("b")).now_or_never().is_none(), "nobody has heard the first");
        assert_eq!(next(&second).as_deref(), Some("a"));
        now(broadcast.write(event("b"))).unwrap();
        let late = broadcast.join().unwrap();
        broadcast.complete(event("c"));
        for reader in [&first, &late] {
            let heard: Vec<_> = (0..3).map(|_| next(reader).unwrap()).collect();
            assert_eq!(heard, ["a", "b", "c and no more"]);
        }
        assert_eq!(broadcast.whole().unwrap(), "abc");
        assert!(first.ended().now_or_never().is_none());
        broadcast.end(Ok(()));
        assert_eq!(first.ended().now_or_never(), Some(Ok(())));
        assert!(broadcast.join().is_none(), "what is over is in the store, or nowhere");
    }

    #[test]
    fn a_reader_that_falls_behind_hears_so_and_nobody_joins_a_feed_without_a_beginning() {
        let (broadcast, fast) = Broadcast::new(3);
        let slow = broadcast.join().unwrap();
        for text in ["aa", "bb", "cc"] {
            now(broadcast.write(event(text))).unwrap();
            assert_eq!(next(&fast).as_deref(), Some(text));
        }
        assert_eq!(next(&slow).as_deref(), Some("behind"));
        assert!(broadcast.join().is_none() && broadcast.whole().is_none());
    }

    #[test]
    fn an_event_that_is_more_than_what_is_kept_is_heard_all_the_same() {
        let (broadcast, reader) = Broadcast::new(1);
        for text in ["aa", "bb"] {
            now(broadcast.write(event(text))).unwrap();
            assert_eq!(next(&reader).as_deref(), Some(text));
        }
        broadcast.complete(event("cc"));
        assert_eq!(next(&reader).as_deref(), Some("cc and no more"));
        assert_eq!(broadcast.whole(), None);
    }

    #[test]
    fn without_readers_the_writer_gives_up_and_for_one_alone_nothing_is_kept() {
        let (broadcast, reader) = Broadcast::new(0);
        now(broadcast.write(event("a"))).unwrap();
        assert_eq!(next(&reader).as_deref(), Some("a"));
        assert_eq!(broadcast.events_since(1), Some(Vec::new()));
        assert_eq!(broadcast.events_since(0), None);
        broadcast.end(Err(Error::ShuttingDown));
        assert_eq!(next(&reader), Some(Error::ShuttingDown.code().to_owned()));
        assert!(broadcast.left().now_or_never().is_none());
        drop(reader);
        assert!(now(broadcast.write(event("b"))).is_err());
        assert_eq!(now(broadcast.during(std::future::pending::<()>())), Err(ClientLeft));
    }
}
