//! What a store gives back: answers, turns and sessions, damaged or from another version. What is read is written again as
//! the same.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use paddock::{
    cache::Entry,
    session::{SessionHead, Turn},
};

fuzz_target!(|data: &[u8]| {
    if let Some((entry, ttl)) = Entry::from_bytes(&Bytes::copy_from_slice(data)) {
        let body = entry.body();
        let again = Entry::from_bytes(&entry.to_bytes(ttl).into()).expect("what is written is read");
        assert_eq!((again.0.body(), again.1), (body, ttl));
    }
    if let Some(turn) = Turn::from_json(data) {
        assert_eq!(Turn::from_json(&turn.to_json()), Some(turn));
    }
    if let Some(head) = SessionHead::from_json(data) {
        assert_eq!(SessionHead::from_json(&head.to_json()), Some(head));
    }
});
