//! The flights of this process: a request with the same question joins a flight instead of asking upstream.

use std::{
    collections::BTreeMap,
    sync::{Arc, MutexGuard},
    time::Duration,
};

use super::broadcast::{Broadcast, Receiver};
use crate::{
    api::memory_budget::HeldBytes,
    cache::{CacheKey, Delivery, Epochs},
    platform::Locked,
    store::FlightKey,
};

/// The most models whose epochs are remembered.
const EPOCHS_LIMIT: usize = 256;

/// The flights of this process. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct FlightTable {
    /// Whether one request may wake another, so that it may wait for the other's flight.
    wakes_other_requests: bool,
    table: Arc<Locked<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    /// The flights by join key, each with its question and delivery if the join key does not cover them.
    flights: BTreeMap<JoinKey, (Broadcast, Option<(CacheKey, Delivery)>)>,
    /// The epochs by model, as the store last reported them.
    epochs: BTreeMap<String, Epochs>,
}

/// By what requests find a flight that they may join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct JoinKey {
    /// What the flight brings, and in which form.
    pub(crate) flight: FlightKey,
    /// The greatest age of a stored answer that it may bring; `None` for any. A request that wants a younger answer joins
    /// only once it is certain that no stored answer will come.
    pub(crate) max_age: Option<Duration>,
}

/// The part of a request in a flight.
#[derive(Debug)]
pub(crate) enum Joined {
    /// It waits for the answer of another request's flight.
    Follow(Receiver),
    /// The `Idempotency-Key` belongs to another question.
    Reused,
    /// The question of the `Idempotency-Key` is being answered in the other delivery.
    InUse,
    /// It leads a new flight.
    Lead(Broadcast, Receiver, LeaderGuard),
}

/// Keeps a flight in the table; requests can join until it is dropped.
#[derive(Debug)]
pub(crate) struct LeaderGuard {
    flights: FlightTable,
    key: JoinKey,
    broadcast: Broadcast,
}

impl FlightTable {
    /// A table without flights.
    pub(crate) fn new(wakes_other_requests: bool) -> Self {
        Self { wakes_other_requests, table: Arc::default() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }

    /// Joins a flight, or begins one whose broadcast buffers `limit` bytes, counted in what `held` gives. Where one request cannot wake another,
    /// every request leads.
    pub(crate) fn join_or_lead(
        &self,
        key: JoinKey,
        repeated: Option<(CacheKey, Delivery)>,
        limit: usize,
        held: impl FnOnce() -> HeldBytes,
    ) -> Joined {
        let mut table = self.table();
        let of_any_age = JoinKey { max_age: None, ..key }..=JoinKey { max_age: Some(Duration::MAX), ..key };
        let mut known = table
            .flights
            .range(of_any_age)
            .filter(|(known, (broadcast, _))| {
                is_young_enough(known.max_age, key.max_age) || broadcast.is_fresh()
            })
            .filter(|_| self.wakes_other_requests);
        if let Some((receiver, asked)) =
            known.find_map(|(_, (broadcast, asked))| Some((broadcast.join()?, asked)))
        {
            return match (*asked, repeated) {
                (asked, repeated) if asked == repeated => Joined::Follow(receiver),
                (Some((asked, _)), Some((repeated, _))) if asked == repeated => Joined::InUse,
                _ => Joined::Reused,
            };
        }
        let (broadcast, receiver) = Broadcast::new(limit, held());
        table.flights.insert(key, (broadcast.clone(), repeated));
        Joined::Lead(broadcast.clone(), receiver, LeaderGuard { flights: self.clone(), key, broadcast })
    }

    /// The epochs that the store last reported; zero before it reported any.
    pub(crate) fn epochs(&self, model: &str) -> Epochs {
        self.table().epochs.get(model).copied().unwrap_or_default()
    }

    /// Records the epochs that the store reported.
    pub(crate) fn note_epochs(&self, model: &str, epochs: Epochs) {
        let mut table = self.table();
        if table.epochs.get(model).copied().unwrap_or_default() == epochs {
            return;
        }
        if table.epochs.len() >= EPOCHS_LIMIT {
            table.epochs.clear();
        }
        table.epochs.insert(model.to_owned(), epochs);
    }
}

/// Whether an answer of at most `age` is young enough for a request that wants one of at most `wanted`; `None` means
/// any age.
fn is_young_enough(age: Option<Duration>, wanted: Option<Duration>) -> bool {
    wanted.is_none_or(|wanted| age.is_some_and(|age| age <= wanted))
}

impl Drop for LeaderGuard {
    fn drop(&mut self) {
        let mut table = self.flights.table();
        if table.flights.get(&self.key).is_some_and(|(known, _)| known.is(&self.broadcast)) {
            table.flights.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::auth::CallerId,
        cache::{CacheKey, Delivery},
    };

    fn key(name: &str, form: Delivery) -> JoinKey {
        let key = CacheKey::of_repetition("/chat", &CallerId::public(), name.as_bytes());
        JoinKey { flight: FlightKey { key, form }, max_age: None }
    }

    #[test]
    fn whoever_asks_the_same_in_the_same_form_follows_until_the_flight_is_over() {
        let flights = FlightTable::new(true);
        let a = key("a", Delivery::Whole);
        let younger = JoinKey { max_age: Some(Duration::from_secs(1)), ..a };
        let Joined::Lead(broadcast, leader, guard) = flights.join_or_lead(a, None, 10, HeldBytes::default)
        else {
            panic!()
        };
        assert!(matches!(flights.join_or_lead(a, None, 10, HeldBytes::default), Joined::Follow(_)));
        let repeated = |key: JoinKey| Some((key.flight.key, key.flight.form));
        assert!(matches!(flights.join_or_lead(a, repeated(a), 10, HeldBytes::default), Joined::Reused));
        for other in [key("a", Delivery::Stream), key("b", Delivery::Whole), younger] {
            assert!(
                matches!(flights.join_or_lead(other, None, 10, HeldBytes::default), Joined::Lead(..)),
                "{other:?}"
            );
        }
        // Each flight's guard removes only its own entry.
        assert_eq!(flights.table().flights.len(), 1);
        broadcast.end(Ok(()));
        let Joined::Lead(_, _, later) = flights.join_or_lead(a, None, 10, HeldBytes::default) else {
            panic!()
        };
        drop((leader, guard));
        assert_eq!(flights.table().flights.len(), 1, "the later one is still there");
        drop(later);
        assert_eq!(flights.table().flights.len(), 0);
    }

    #[test]
    fn a_key_of_a_repetition_stands_for_one_question_in_one_form() {
        let flights = FlightTable::new(true);
        let (a, b) = (key("a", Delivery::Whole), key("b", Delivery::Whole).flight.key);
        let question = a.flight.key;
        let lead = flights.join_or_lead(a, Some((question, Delivery::Stream)), 10, HeldBytes::default);
        assert!(matches!(lead, Joined::Lead(..)));
        for (asked, form, expected) in [
            (question, Delivery::Stream, "follow"),
            (question, Delivery::Whole, "in use"),
            (b, Delivery::Stream, "reused"),
            (b, Delivery::Whole, "reused"),
        ] {
            let found = match flights.join_or_lead(a, Some((asked, form)), 10, HeldBytes::default) {
                Joined::Follow(_) => "follow",
                Joined::InUse => "in use",
                Joined::Reused => "reused",
                Joined::Lead(..) => "lead",
            };
            assert_eq!(found, expected, "{form:?}");
        }
    }

    #[test]
    fn whoever_wants_a_younger_answer_follows_once_none_that_was_stored_can_come() {
        let flights = FlightTable::new(true);
        let aged = |seconds: Option<u64>| JoinKey {
            max_age: seconds.map(Duration::from_secs),
            ..key("a", Delivery::Whole)
        };
        let Joined::Lead(broadcast, _receiver, _guard) =
            flights.join_or_lead(aged(Some(30)), None, 10, HeldBytes::default)
        else {
            panic!()
        };
        for (wanted, follows) in [(None, true), (Some(60), true), (Some(30), true), (Some(29), false)] {
            let joined = flights.join_or_lead(aged(wanted), None, 10, HeldBytes::default);
            assert_eq!(matches!(joined, Joined::Follow(_)), follows, "{wanted:?}");
        }
        broadcast.note_fresh();
        assert!(matches!(
            flights.join_or_lead(aged(Some(1)), None, 10, HeldBytes::default),
            Joined::Follow(_)
        ));
    }

    #[test]
    fn it_is_remembered_how_often_the_cache_was_emptied() {
        let flights = FlightTable::new(true);
        assert_eq!(flights.epochs("m"), Epochs::default());
        let epochs = Epochs { all: 1, model: 2 };
        flights.note_epochs("m", epochs);
        assert_eq!((flights.epochs("m"), flights.epochs("n")), (epochs, Epochs::default()));
        for number in 0..2 * EPOCHS_LIMIT {
            flights.note_epochs(&number.to_string(), epochs);
        }
        assert!(flights.table().epochs.len() <= EPOCHS_LIMIT);
    }
}
