//! The publisher of a flight: it hands the leader's events over to followers in other processes, through the shared store.
//!
//! While no process follows, it hands nothing over, renews the leader's lease, and asks five times a second whether a
//! process follows. It keeps the flight going while other processes follow, although its own clients have left. Each event
//! is written to the store once. Of a stream the store keeps `CACHE_MAX_ENTRY` and one more hand-over, which is no larger.
//! A whole answer that the cache does not keep is handed over with the end of the flight, where it is at most twice as
//! large as `CACHE_MAX_ENTRY`. One that passes as it comes is never handed over in pieces: the publisher waits beside it, and
//! reads it only once no client of this process is left to set the pace.

use std::{collections::VecDeque, pin::pin, time::Duration};

use bytes::Bytes;

use super::failure;
use crate::{
    api::error::Error,
    host::{Platform, Service},
    platform::{Clock, Timer, race},
    process::broadcast::{Broadcast, Item, Receiver, WholeFate},
    store::{Audience, FLIGHT_LEASE, FlightBoard, FlightEnd, FlightKey, Store},
};

/// How often the publisher asks whether a process follows, and renews the lease.
const CALL: Duration = Duration::from_millis(200);
/// How long events are gathered before they are handed over together.
const GATHER: Duration = Duration::from_millis(50);

/// The publisher of one flight.
pub(super) struct Publisher<'a, P: Platform> {
    service: &'a Service<P>,
    broadcast: Broadcast,
    /// The publisher's own receiver keeps the flight going while other processes follow.
    receiver: Option<Receiver>,
    flight: FlightKey,
    leader: String,
    /// How many events were handed over so far.
    handed: usize,
    /// How many of them the store need not keep any more.
    forgotten: usize,
    /// The lengths of the others, in bytes.
    kept: VecDeque<usize>,
}

/// What happens while no process follows.
enum WaitSignal {
    /// The leader writes no more events.
    Over,
    /// It is time to ask whether a process follows: the pause is over, or the last client has left.
    Ask,
    /// The process ends, and other processes choose another leader.
    Shutdown,
}

/// What happens while events are gathered.
enum GatherSignal {
    Item(Item),
    /// The flight ended without a stream.
    Over,
    /// The time for gathering is over.
    Tick,
    /// The process ends, and other processes choose another leader.
    Shutdown,
}

impl<'a, P: Platform> Publisher<'a, P> {
    /// The publisher of the flight that `leader` leads; `None` where there are no other processes.
    pub(super) fn new(
        service: &'a Service<P>,
        broadcast: &Broadcast,
        flight: FlightKey,
        leader: String,
    ) -> Option<Self> {
        if !service.store().is_shared() {
            return None;
        }
        Some(Self {
            service,
            broadcast: broadcast.clone(),
            receiver: broadcast.join(),
            flight,
            leader,
            handed: 0,
            forgotten: 0,
            kept: VecDeque::new(),
        })
    }

    /// Runs until the flight is over, and tells the followers how it ended.
    pub(super) async fn publish(mut self) {
        let mut pending = Vec::new();
        let end = match self.wait().await {
            Some(end) => end,
            None => self.hand_over(&mut pending).await,
        };
        let store = self.service.store();
        // Where this fails, the followers see that the lease ends.
        let _ = store.flights().end_flight(&self.flight, &self.leader, self.handed, &pending, &end).await;
    }

    /// Waits until a process follows; gives how the flight ended, where that came first.
    async fn wait(&mut self) -> Option<FlightEnd> {
        loop {
            let signal = race! {
                () = self.broadcast.over() => WaitSignal::Over,
                () = self.service.shutdown().begun() => WaitSignal::Shutdown,
                () = self.broadcast.alone() => WaitSignal::Ask,
                () = self.service.sleep(CALL) => WaitSignal::Ask,
            };
            match signal {
                WaitSignal::Over => return Some(self.end()),
                WaitSignal::Shutdown => return Some(FlightEnd::Abandoned),
                WaitSignal::Ask => {}
            }
            match self
                .service
                .store()
                .flights()
                .publish(&self.flight, &self.leader, self.handed, 0, &[])
                .await
            {
                Ok(Audience::Some) => return None,
                Ok(Audience::None | Audience::Lost) | Err(_) => {
                    if self.broadcast.is_alone() {
                        return Some(self.abandon().await);
                    }
                }
            }
        }
    }

    /// Gives the receiver up, because no process waits for the flight any more.
    async fn abandon(&mut self) -> FlightEnd {
        self.receiver = None;
        self.broadcast.over().await;
        FlightEnd::Abandoned
    }

    /// Hands events over until the flight ends or no process follows any more. `pending` then holds what is left.
    async fn hand_over(&mut self, pending: &mut Vec<Bytes>) -> FlightEnd {
        let mut failing_since = None;
        loop {
            // Gather events, of an answer that has any to hand over.
            let end = if self.broadcast.is_passing() {
                self.wait_beside().await
            } else {
                self.gather(pending).await
            };
            if let Some(end) = end {
                return end;
            }

            // Hand them over, and renew the lease.
            let store = self.service.store();
            let told = store
                .flights()
                .publish(&self.flight, &self.leader, self.handed, self.forgotten, pending)
                .await;
            let now = self.service.now();
            failing_since = if told.is_err() { failing_since.or(Some(now)) } else { None };
            // The followers give up after this time.
            let has_lost_store = failing_since.is_some_and(|since| now.saturating_sub(since) >= FLIGHT_LEASE);

            // Forget what was handed over, or keep it for the next time.
            match told {
                Ok(Audience::Some) => {
                    self.count_handed(pending);
                    pending.clear();
                }
                Ok(Audience::None | Audience::Lost) if self.broadcast.is_alone() => {
                    return self.abandon().await;
                }
                Err(_) if has_lost_store && self.broadcast.is_alone() => return self.abandon().await,
                // A process that follows next must get every event, so these go with the next ones.
                Ok(Audience::None | Audience::Lost) | Err(_) => {
                    let waiting: usize = pending.iter().map(Bytes::len).sum();
                    if waiting as u64 > self.service.config().cache.max_entry {
                        pending.clear();
                        return FlightEnd::Abandoned;
                    }
                }
            }
        }
    }

    /// Notes that these events were handed over. Of more than `CACHE_MAX_ENTRY` the oldest are forgotten.
    fn count_handed(&mut self, events: &[Bytes]) {
        self.handed += events.len();
        self.kept.extend(events.iter().map(Bytes::len));
        let mut bytes: usize = self.kept.iter().sum();
        // The last event stays: from its position the store knows how many there were.
        while bytes as u64 > self.service.config().cache.max_entry
            && self.kept.len() > 1
            && let Some(length) = self.kept.pop_front()
        {
            bytes -= length;
            self.forgotten += 1;
        }
    }

    /// Gathers events for [`GATHER`] from the first on, which may take [`CALL`]; gives how the flight ended, if it did.
    async fn gather(&mut self, pending: &mut Vec<Bytes>) -> Option<FlightEnd> {
        let receiver = self.receiver.as_ref()?;
        let mut pause = pin!(self.service.sleep(if pending.is_empty() { CALL } else { GATHER }));
        loop {
            let signal = race! {
                item = receiver.next() => GatherSignal::Item(item),
                () = self.broadcast.over_whole() => GatherSignal::Over,
                () = self.service.shutdown().begun() => GatherSignal::Shutdown,
                () = pause.as_mut() => GatherSignal::Tick,
            };
            match signal {
                GatherSignal::Item(Item::Last(_)) if self.broadcast.is_passing() => return Some(self.end()),
                // It was taken for a stream until its first piece came.
                GatherSignal::Item(Item::Event(_)) if self.broadcast.is_passing() => return None,
                GatherSignal::Item(Item::Event(event)) => {
                    if pending.is_empty() {
                        pause.set(self.service.sleep(GATHER));
                    }
                    pending.push(event);
                }
                GatherSignal::Item(Item::Last(event)) => {
                    pending.push(event);
                    return Some(FlightEnd::Landed);
                }
                // The followers count themselves how often the answer repeats itself.
                GatherSignal::Item(Item::Stopped) => return Some(FlightEnd::Landed),
                GatherSignal::Item(Item::Broken(error, _)) => return Some(self.fail(&error)),
                GatherSignal::Item(Item::Behind) | GatherSignal::Shutdown => {
                    return Some(FlightEnd::Abandoned);
                }
                GatherSignal::Over => return Some(self.end()),
                GatherSignal::Tick => return None,
            }
        }
    }

    /// Waits [`CALL`] beside a whole answer that passes; gives how the flight ended, if it did.
    async fn wait_beside(&self) -> Option<FlightEnd> {
        let receiver = self.receiver.as_ref()?;
        let alone = async {
            loop {
                self.broadcast.alone().await;
                if let item @ (Item::Last(_) | Item::Stopped | Item::Broken(..) | Item::Behind) =
                    receiver.next().await
                {
                    return item;
                }
            }
        };
        race! {
            () = self.broadcast.over() => Some(self.end()),
            item = alone => Some(match item {
                Item::Broken(error, _) => self.fail(&error),
                Item::Event(_) | Item::Behind => FlightEnd::Abandoned,
                Item::Last(_) | Item::Stopped => self.end(),
            }),
            () = self.service.shutdown().begun() => Some(FlightEnd::Abandoned),
            () = self.service.sleep(CALL) => None,
        }
    }

    /// How the flight ended, where that was not with a terminator.
    fn end(&self) -> FlightEnd {
        if let Some(error) = self.broadcast.failure() {
            return self.fail(&error);
        }
        let limit = self.service.config().cache.max_entry.saturating_mul(2);
        match self.broadcast.take_fate() {
            WholeFate::Kept => FlightEnd::Landed,
            WholeFate::Unkept(entry) if entry.size() as u64 <= limit => {
                FlightEnd::Answered(entry.to_bytes(Duration::ZERO).into())
            }
            WholeFate::Unkept(_) | WholeFate::Passed => FlightEnd::Abandoned,
        }
    }

    fn fail(&self, error: &Error) -> FlightEnd {
        failure::record(error, self.broadcast.has_lost_store())
            .map_or(FlightEnd::Abandoned, FlightEnd::Failed)
    }
}
