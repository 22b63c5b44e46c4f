//! How many client connections there may be at the same time, and which one makes room when there are too many.
//!
//! The one that has been without a request for longest makes room. A connection with an open request, or with a reply that
//! still goes out, must never be closed for another.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::AbortHandle;

use crate::half_close::Signs;

/// How many descriptors are kept for everything but clients and the hosts that are asked for them: Redis, files, probes.
const RESERVE: u64 = 64;
/// The most connections where no setting says otherwise: what they need of memory at least fits into a small container.
const USUAL: u64 = 4096;

/// Raises this process' limit of descriptors as far as it may; gives what it is then.
pub(crate) fn raise_descriptor_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // No number means no limit.
    let (Some(now), highest) = (current, maximum.unwrap_or(u64::MAX)) else { return u64::MAX };
    let raised = Rlimit { current: maximum, maximum };
    if now < highest && setrlimit(Resource::Nofile, raised).is_ok() { highest } else { now }
}

/// How many connections so many descriptors are enough for: a request needs one more, to a host.
pub(crate) fn usual_limit(descriptors: u64) -> usize {
    let limit = (descriptors.saturating_sub(RESERVE) / 2).clamp(1, USUAL);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// The open connections.
#[derive(Debug)]
pub(crate) struct Connections {
    limit: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    so_far: u64,
    known: BTreeMap<u64, Known>,
}

#[derive(Debug)]
struct Known {
    signs: Signs,
    /// The task that serves it; `None` until it runs.
    task: Option<AbortHandle>,
}

/// The place of one connection. It is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    connections: Arc<Connections>,
    number: u64,
}

impl Connections {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, open: Mutex::default() })
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// A place for one more connection; `None` when all are taken and none makes room.
    pub(crate) fn enter(self: &Arc<Self>, signs: &Signs) -> Option<Place> {
        let mut open = self.open();
        if open.known.len() >= self.limit {
            let idle =
                open.known.iter().filter_map(|(number, known)| Some((known.signs.idle_since()?, *number)));
            let (_, number) = idle.min()?;
            // Its task may have ended by itself.
            if let Some(task) = open.known.remove(&number).and_then(|known| known.task) {
                task.abort();
            }
        }
        open.so_far += 1;
        let number = open.so_far;
        open.known.insert(number, Known { signs: signs.clone(), task: None });
        drop(open);
        Some(Place { connections: Arc::clone(self), number })
    }

    /// Notes the task that serves the connection with this number.
    pub(crate) fn note_task(&self, number: u64, task: AbortHandle) {
        match self.open().known.get_mut(&number) {
            Some(known) => known.task = Some(task),
            // It made room already, or is over.
            None => task.abort(),
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open().known.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_descriptors_are_for_clients_within_reason() {
        for (descriptors, limit) in [(0, 1), (64, 1), (1024, 480), (20_000, 4096), (u64::MAX, 4096)] {
            assert_eq!(usual_limit(descriptors), limit, "{descriptors}");
        }
    }

    #[tokio::test]
    async fn the_connection_that_was_idle_for_longest_makes_room_and_a_busy_one_does_not() {
        let (connections, tracker) = (Connections::new(2), tokio_util::task::TaskTracker::new());
        let signs = [(); 4].map(|()| Signs::default());
        let places: Vec<_> = signs.iter().take(2).filter_map(|signs| connections.enter(signs)).collect();
        let tasks: Vec<_> = places
            .iter()
            .map(|place| {
                let task = tracker.spawn(std::future::pending::<()>());
                connections.note_task(place.number(), task.abort_handle());
                task
            })
            .collect();
        // The first is busy, so the second makes room, although it came later.
        signs[0].begin(true);
        let third = connections.enter(&signs[2]).unwrap();
        signs[2].begin(true);
        assert!(connections.enter(&signs[3]).is_none());
        let [first, second] = <[_; 2]>::try_from(tasks).unwrap();
        assert!(second.await.unwrap_err().is_cancelled() && !first.is_finished());
        // Once its reply is over it makes room as others do.
        drop(third);
        assert!(connections.enter(&signs[3]).is_some());
        signs[0].end();
        assert!(connections.enter(&signs[1]).is_some());
    }
}
