//! What receivers of a broadcast get, and what the leader waits for.

use std::{future::Future, pin::pin, time::Duration};

use futures::FutureExt;

use super::*;
use crate::api::memory_budget::MemoryBudget;

fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().unwrap()
}

fn event(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn next(receiver: &Receiver) -> Option<String> {
    match receiver.next().now_or_never()? {
        Item::Event(event) => Some(String::from_utf8_lossy(&event).into_owned()),
        Item::Last(event) => Some(format!("{} and no more", String::from_utf8_lossy(&event))),
        Item::Broken(error, _) => Some(error.code().to_owned()),
        Item::Behind => Some("behind".to_owned()),
        Item::Stopped => Some("stopped".to_owned()),
    }
}

#[test]
fn every_receiver_hears_all_and_the_fastest_sets_the_pace() {
    let (broadcast, first) = Broadcast::new(100, HeldBytes::default());
    let second = broadcast.join().unwrap();
    now(broadcast.write(event("a"))).unwrap();
    assert!(broadcast.write(event("b")).now_or_never().is_none(), "nobody has heard the first");
    assert_eq!(next(&second).as_deref(), Some("a"));
    now(broadcast.write(event("b"))).unwrap();
    let late = broadcast.join().unwrap();
    broadcast.complete(event("c"));
    for receiver in [&first, &late] {
        let heard: Vec<_> = (0..3).map(|_| next(receiver).unwrap()).collect();
        assert_eq!(heard, ["a", "b", "c and no more"]);
    }
    assert_eq!(broadcast.whole().unwrap(), "abc");
    assert!(first.ended().now_or_never().is_none());
    broadcast.end(Ok(()));
    assert_eq!(first.ended().now_or_never(), Some(Ok(())));
    assert!(broadcast.join().is_none(), "what is over is in the store, or nowhere");
}

#[test]
fn a_receiver_that_falls_behind_hears_so_and_nobody_joins_a_broadcast_without_a_beginning() {
    let (broadcast, fast) = Broadcast::new(3, HeldBytes::default());
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
    let (broadcast, receiver) = Broadcast::new(1, HeldBytes::default());
    for text in ["aa", "bb"] {
        now(broadcast.write(event(text))).unwrap();
        assert_eq!(next(&receiver).as_deref(), Some(text));
    }
    broadcast.complete(event("cc"));
    assert_eq!(next(&receiver).as_deref(), Some("cc and no more"));
    assert_eq!(broadcast.whole(), None);
}

#[test]
fn without_receivers_the_writer_gives_up_and_for_one_alone_nothing_is_kept() {
    let (broadcast, receiver) = Broadcast::new(0, HeldBytes::default());
    now(broadcast.write(event("a"))).unwrap();
    assert_eq!(next(&receiver).as_deref(), Some("a"));
    assert_eq!(broadcast.events_since(1), Some(Vec::new()));
    assert_eq!(broadcast.events_since(0), None);
    broadcast.end(Err(Error::ShuttingDown));
    assert_eq!(next(&receiver), Some(Error::ShuttingDown.code().to_owned()));
    assert!(broadcast.left().now_or_never().is_none());
    drop(receiver);
    assert!(now(broadcast.write(event("b"))).is_err());
    assert_eq!(now(broadcast.during(pin!(std::future::pending::<()>()))), Err(ClientLeft));
}

#[test]
fn a_stream_that_is_stopped_ends_without_a_terminator_and_without_a_failure() {
    let (broadcast, receiver) = Broadcast::new(100, HeldBytes::default());
    broadcast.open(Head::Stream { content_type: http::HeaderValue::from_static("a") }, Provenance::default());
    now(broadcast.write(event("a"))).unwrap();
    broadcast.stop();
    assert_eq!(next(&receiver).as_deref(), Some("a"));
    assert_eq!(next(&receiver).as_deref(), Some("stopped"));
    now(broadcast.over());
    assert!(broadcast.over_whole().now_or_never().is_none(), "there is a stream");
    broadcast.end(Ok(()));
    assert_eq!((next(&receiver).as_deref(), broadcast.failure()), (Some("stopped"), None));
}

#[test]
fn what_is_kept_for_later_counts_and_is_forgotten_when_others_need_the_room() {
    let budget = MemoryBudget::new(1 << 20, true);
    let large = || Bytes::from(vec![b'x'; 256 << 10]);
    let (broadcast, receiver) = Broadcast::new(4 << 20, budget.account(None));
    let write = || {
        now(broadcast.write(large())).unwrap();
        assert!(matches!(now(receiver.next()), Item::Event(_)));
    };
    (0..3).for_each(|_| write());
    assert_eq!(budget.held(), 768 << 10);
    let mut upload = budget.account(None);
    upload.grow_to(1 << 20, Duration::from_secs(9)).unwrap();
    assert!(
        broadcast.join().is_none() && broadcast.whole().is_none(),
        "it begins no longer at its beginning"
    );
    // Its receivers hear the rest all the same, also where nothing of it can be kept.
    write();
    broadcast.complete(event("end"));
    assert_eq!(next(&receiver).as_deref(), Some("end and no more"));
}

#[test]
fn a_receiver_that_is_slower_hears_all_of_what_is_forgotten_for_others() {
    let budget = MemoryBudget::new(1 << 20, true);
    let (broadcast, fast) = Broadcast::new(4 << 20, budget.account(None));
    let slow = broadcast.join().unwrap();
    for _ in 0..3 {
        now(broadcast.write(Bytes::from(vec![b'x'; 256 << 10]))).unwrap();
        assert!(matches!(now(fast.next()), Item::Event(_)));
    }
    assert!(budget.account(None).grow_to(1 << 20, Duration::from_secs(9)).is_err());
    for left in [512, 256, 0] {
        assert!(matches!(now(slow.next()), Item::Event(_)));
        assert_eq!(broadcast.state().bytes, left << 10);
    }
}

#[test]
fn where_there_is_no_room_the_fastest_receiver_hears_all_and_nothing_is_kept() {
    let budget = MemoryBudget::new(64 << 10, true);
    let (broadcast, receiver) = Broadcast::new(4 << 20, budget.account(None));
    for _ in 0..9 {
        now(broadcast.write(Bytes::from(vec![b'x'; 15 << 10]))).unwrap();
        assert!(matches!(now(receiver.next()), Item::Event(_)));
    }
    assert!(budget.held() <= 64 << 10 && broadcast.whole().is_none());
}
