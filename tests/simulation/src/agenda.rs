//! What will happen when: events in the order of their time, and of their being planned where the time is the same.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use crate::gateway::{Failure, HostId, RequestId};

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A request reaches the gateway.
    Arrival(RequestId),
    /// A host has something to tell, unless something else changed it since: then its version is another.
    Change(HostId, u64),
    /// A host's refusal reaches the gateway.
    Refusal(RequestId, HostId, Failure),
    /// The time for the first byte of this attempt is over.
    FirstByteLimit(RequestId, u32),
    /// The fault of this place in the scenario begins.
    FaultBegins(usize),
    /// The time that open answers of a hanging host may stand still is over.
    BetweenBytesLimit(usize),
    /// The fault of this place in the scenario ends.
    FaultEnds(usize),
    /// A probe is sent.
    Probe(HostId),
    /// A probe was not answered in time.
    ProbeLimit(HostId),
    /// The gateway wanted to be asked.
    Wake,
}

#[derive(Debug)]
struct Entry {
    at: Duration,
    number: u64,
    event: Event,
}

/// The events that are still to come.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    entries: BinaryHeap<Reverse<Entry>>,
    number: u64,
}

impl Agenda {
    pub(crate) fn plan(&mut self, at: Duration, event: Event) {
        self.number += 1;
        self.entries.push(Reverse(Entry { at, number: self.number, event }));
    }

    pub(crate) fn next(&mut self) -> Option<(Duration, Event)> {
        self.entries.pop().map(|Reverse(entry)| (entry.at, entry.event))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}
