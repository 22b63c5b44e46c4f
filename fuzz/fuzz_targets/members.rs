//! The members of a body: one object for another reader is one here, and writing what was read changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use paddock::wire::members::Members;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let read = Members::parse(data);
    if let Ok(Value::Object(_)) = serde_json::from_slice::<Value>(data) {
        assert!(read.is_some(), "an object for another reader is none here");
    }
});
