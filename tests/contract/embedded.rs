//! What only the embedded store promises: it is bounded.

use std::time::Duration;

use anyhow::Result;
use paddock::{
    host::memory::ManualClock,
    store::{ResponseCache as _, Sessions as _, Store as _, StoreError, memory::MemoryStore},
};

use crate::{answer, asked, exchange, noise, session, turns};

const LONG: Duration = Duration::from_hours(1);

#[tokio::test]
async fn answers_stay_within_the_limit_and_the_latest_is_there() -> Result<()> {
    let store = MemoryStore::new(ManualClock::default(), 2 << 20);
    let mut flights = Vec::new();
    for number in 0..400 {
        let flight = asked(&number.to_string());
        store.answers().put_answer(&flight.key, &answer(&noise(10_000, number)), LONG).await?;
        flights.push(flight);
    }
    let mut kept = 0;
    for flight in &flights {
        kept += usize::from(store.answers().answer(flight).await?.is_some());
    }
    // Half of the limit is for answers: 1 MiB, of which each takes 10,160 bytes.
    assert!((20..=103).contains(&kept), "{kept} of 400 answers are kept");
    Ok(())
}

#[tokio::test]
async fn a_session_too_large_for_the_store_is_refused_and_not_acknowledged() -> Result<()> {
    let store = MemoryStore::new(ManualClock::default(), 64 << 10);
    let key = session("s")?;
    let turn = exchange("1", &"x".repeat(1 << 20), "a");
    assert_eq!(store.sessions().append_turn(&key, &turn, LONG, 10).await, Err(StoreError::Full));
    Ok(())
}

#[tokio::test]
async fn many_sessions_stay_within_the_limit() -> Result<()> {
    let store = MemoryStore::new(ManualClock::default(), 2 << 20);
    let text = "x".repeat(5_000);
    let mut kept = 0;
    for number in 0..400 {
        let turn = exchange(&number.to_string(), &text, &text);
        // Acknowledged or refused, never silently dropped at once.
        let appended = store.sessions().append_turn(&session(&number.to_string())?, &turn, LONG, 10).await;
        let found = turns(store.sessions(), &session(&number.to_string())?).await?;
        assert_eq!(appended.is_ok(), found.len() == 1, "{number}");
    }
    for number in 0..400 {
        kept += turns(store.sessions(), &session(&number.to_string())?).await?.len();
    }
    assert!((20..=103).contains(&kept), "{kept} of 400 sessions are kept");
    Ok(())
}
