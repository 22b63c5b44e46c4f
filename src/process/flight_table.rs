//! The flights of this process that others may join: whoever asks what is being asked waits for the same answer.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::broadcast::{Feed, Reader};
use crate::{
    cache::{CacheKey, Epochs},
    store::FlightKey,
};

/// Models of which it is remembered how often their answers were forgotten.
const EPOCHS_LIMIT: usize = 256;

/// The flights of this process. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Flights(Arc<Mutex<Board>>);

#[derive(Debug, Default)]
struct Board {
    /// Each with what is asked, where its key does not say that.
    flights: BTreeMap<Gate, (Feed, Option<CacheKey>)>,
    /// How often the cache had been emptied when the store was asked last, by model.
    epochs: BTreeMap<String, Epochs>,
}

/// What a flight is for, and how old a stored answer may be that it brings instead: whoever wants a younger one takes
/// another, unless it is certain that this one brings none.
pub(crate) type Gate = (FlightKey, Option<Duration>);

/// How a request takes part in a flight.
#[derive(Debug)]
pub(crate) enum Boarding {
    /// It waits for what another asked for.
    Follow(Reader),
    /// The key stands for another question.
    Conflict,
    /// It asks.
    Lead(Feed, Reader, Seat),
}

/// The lead of a flight in this process; dropped when nobody may join it any more.
#[derive(Debug)]
pub(crate) struct Seat {
    flights: Flights,
    gate: Gate,
    feed: Feed,
}

impl Flights {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the flight, or begins one whose feed keeps as many bytes. Where one request must not wake another, each leads.
    pub(crate) fn board_flight(&self, gate: Gate, question: Option<CacheKey>, limit: usize) -> Boarding {
        let mut board = self.board();
        let (flight, wanted) = gate;
        let known = board.flights.range((flight, None)..=(flight, Some(Duration::MAX)));
        let mut known = known
            .filter(|((_, age), (feed, _))| is_young_enough(*age, wanted) || feed.is_fresh())
            .filter(|_| cfg!(not(target_family = "wasm")));
        if let Some((reader, asked)) = known.find_map(|(_, (feed, asked))| Some((feed.join()?, asked))) {
            return if *asked == question { Boarding::Follow(reader) } else { Boarding::Conflict };
        }
        let (feed, reader) = Feed::new(limit);
        board.flights.insert(gate, (feed.clone(), question));
        Boarding::Lead(feed.clone(), reader, Seat { flights: self.clone(), gate, feed })
    }

    /// How many flights others may join now.
    pub fn count(&self) -> usize {
        self.board().flights.len()
    }

    /// How often the cache had been emptied when the store was asked last; never, as long as it was not.
    pub(crate) fn epochs(&self, model: &str) -> Epochs {
        self.board().epochs.get(model).copied().unwrap_or_default()
    }

    /// Takes note of how often the cache was emptied.
    pub(crate) fn note_epochs(&self, model: &str, epochs: Epochs) {
        let mut board = self.board();
        if board.epochs.get(model).copied().unwrap_or_default() == epochs {
            return;
        }
        if board.epochs.len() >= EPOCHS_LIMIT {
            board.epochs.clear();
        }
        board.epochs.insert(model.to_owned(), epochs);
    }
}

/// Whether whoever takes an answer of at most `age` gets one that suits whoever wants one of at most `wanted`.
fn is_young_enough(age: Option<Duration>, wanted: Option<Duration>) -> bool {
    wanted.is_none_or(|wanted| age.is_some_and(|age| age <= wanted))
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut board = self.flights.board();
        if board.flights.get(&self.gate).is_some_and(|(known, _)| known.is(&self.feed)) {
            board.flights.remove(&self.gate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::auth::Scope,
        cache::{CacheKey, Form},
    };

    fn gate(name: &str, form: Form) -> Gate {
        (FlightKey { key: CacheKey::of_repetition("/chat", &Scope::public(), name.as_bytes()), form }, None)
    }

    #[test]
    fn whoever_asks_the_same_in_the_same_form_follows_until_the_flight_is_over() {
        let flights = Flights::default();
        let a = gate("a", Form::Whole);
        let younger = (a.0, Some(Duration::from_secs(1)));
        let Boarding::Lead(feed, leader, seat) = flights.board_flight(a, None, 10) else { panic!() };
        assert!(matches!(flights.board_flight(a, None, 10), Boarding::Follow(_)));
        assert!(matches!(flights.board_flight(a, Some(a.0.key), 10), Boarding::Conflict));
        for other in [gate("a", Form::Stream), gate("b", Form::Whole), younger] {
            assert!(matches!(flights.board_flight(other, None, 10), Boarding::Lead(..)), "{other:?}");
        }
        // Its own seat ends with each.
        assert_eq!(flights.count(), 1);
        feed.end(Ok(()));
        let Boarding::Lead(_, _, later) = flights.board_flight(a, None, 10) else { panic!() };
        drop((leader, seat));
        assert_eq!(flights.count(), 1, "the later one is still there");
        drop(later);
        assert_eq!(flights.count(), 0);
    }

    #[test]
    fn whoever_wants_a_younger_answer_follows_once_none_that_was_stored_can_come() {
        let flights = Flights::default();
        let aged = |seconds: Option<u64>| (gate("a", Form::Whole).0, seconds.map(Duration::from_secs));
        let Boarding::Lead(feed, _reader, _seat) = flights.board_flight(aged(Some(30)), None, 10) else {
            panic!()
        };
        for (wanted, follows) in [(None, true), (Some(60), true), (Some(30), true), (Some(29), false)] {
            let boarding = flights.board_flight(aged(wanted), None, 10);
            assert_eq!(matches!(boarding, Boarding::Follow(_)), follows, "{wanted:?}");
        }
        feed.note_fresh();
        assert!(matches!(flights.board_flight(aged(Some(1)), None, 10), Boarding::Follow(_)));
    }

    #[test]
    fn it_is_remembered_how_often_the_cache_was_emptied() {
        let flights = Flights::default();
        assert_eq!(flights.epochs("m"), Epochs::default());
        let epochs = Epochs { all: 1, model: 2 };
        flights.note_epochs("m", epochs);
        assert_eq!((flights.epochs("m"), flights.epochs("n")), (epochs, Epochs::default()));
        for number in 0..2 * EPOCHS_LIMIT {
            flights.note_epochs(&number.to_string(), epochs);
        }
        assert!(flights.board().epochs.len() <= EPOCHS_LIMIT);
    }
}
