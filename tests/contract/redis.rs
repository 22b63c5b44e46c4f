//! What only the store over Redis promises: it shares a server with other versions, other users and other replicas.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::future::join_all;
use paddock::{
    cache::Delivery,
    session::{SessionHead, Span, Turn},
    store::{
        Audience, FLIGHT_LEASE, FleetState as _, FlightBoard as _, FlightEnd, FlightKey, Followed, Found,
        ResponseCache as _, Sessions as _, Store as _, StoreError, redis::RedisStore,
    },
};
use paddock_tests::{redis_commands::Connection, redis_server::RedisServer};

use crate::{OverRedis, answer, asked, exchange, key, limits, over_redis, session, turns};

const LONG: Duration = Duration::from_hours(1);

fn turn(id: &str) -> Turn {
    exchange(id, "q", "a")
}

async fn keys(redis: &OverRedis) -> Result<Vec<String>> {
    redis.connection.run(&["KEYS", &format!("{}:*", redis.prefix)]).await
}

#[tokio::test]
async fn every_key_has_the_prefix_and_every_value_its_end() -> Result<()> {
    let redis = over_redis().await?;
    redis.store.put_answer(&key("q"), &answer("a"), LONG).await?;
    redis.store.append_turn(&session("s")?, &turn("1"), LONG, 10).await?;
    let keys = keys(&redis).await?;
    // The answer, four that count the answers of its part, and the session.
    assert_eq!(keys.len(), 6, "{keys:?}");
    for key in keys {
        let left: i64 = redis.connection.run(&["PTTL", &key]).await?.concat().parse()?;
        assert!((1..=3_600_000).contains(&left), "{key} ends in {left} ms");
    }
    Ok(())
}

#[tokio::test]
async fn epochs_have_no_end_and_where_they_are_lost_none_comes_back() -> Result<()> {
    let redis = over_redis().await?;
    let store = &redis.store;
    let mut seen = vec![store.epochs("m").await?];
    for _ in 0..2 {
        store.purge(Some("m")).await?;
        seen.push(store.epochs("m").await?);
        let name = keys(&redis).await?.concat();
        assert_eq!(redis.connection.run(&["PTTL", &name]).await?, ["-1"], "{name}");
        // The version before gave them an end.
        redis.connection.run(&["PEXPIRE", &name, "1000000"]).await?;
        store.purge(Some("m")).await?;
        seen.push(store.epochs("m").await?);
        assert_eq!(redis.connection.run(&["PTTL", &name]).await?, ["-1"], "{name}");
        redis.connection.run(&["DEL", &name]).await?;
        assert_ne!(store.all_epochs().await?.context("they are in Redis")?.all, 0);
        seen.push(store.epochs("m").await?);
    }
    for (place, epochs) in seen.iter().enumerate() {
        assert!(epochs.all != 0 && !seen[..place].contains(epochs), "{seen:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_value_of_another_version_is_none() -> Result<()> {
    let redis = over_redis().await?;
    redis.store.put_answer(&key("q"), &answer("a"), LONG).await?;
    let name = keys(&redis).await?.into_iter().find(|key| key.contains(":answer:")).unwrap_or_default();
    for value in
        ["{}", "[]", "no JSON", "", "{\"response\": \"a\"}", "{\"spoken\": {\"text\": \"a\"}}", "\u{0}"]
    {
        redis.connection.run(&["SET", &name, value]).await?;
        assert_eq!(redis.store.answer(&asked("q")).await?, None, "{value:?}");
    }
    Ok(())
}

#[tokio::test]
async fn one_alone_leads_where_a_value_cannot_be_read() -> Result<()> {
    let redis = over_redis().await?;
    redis.store.put_answer(&key("q"), &answer("a"), LONG).await?;
    let name = keys(&redis).await?.into_iter().find(|key| key.contains(":answer:")).unwrap_or_default();
    redis.connection.run(&["SET", &name, "no answer"]).await?;
    assert_eq!(redis.store.answer_or_lead(&asked("q"), "one", None).await?, Found::Lead);
    let found = redis.store.answer_or_lead(&asked("q"), "two", None).await?;
    assert_eq!(found, Found::Follow { leader: "one".into() });
    Ok(())
}

#[tokio::test]
async fn those_who_follow_a_flight_hear_all_of_it_and_how_it_ended() -> Result<()> {
    let redis = over_redis().await?;
    let (store, flight) = (&redis.store, FlightKey { key: key("q"), form: Delivery::Stream });
    let event = |text: &'static str| Bytes::from_static(text.as_bytes());
    assert_eq!(store.answer_or_lead(&flight, "one", None).await?, Found::Lead);
    let other = FlightKey { form: Delivery::Whole, ..flight };
    assert_eq!(
        store.answer_or_lead(&other, "two", None).await?,
        Found::Lead,
        "another form is another flight"
    );
    assert_eq!(store.publish(&flight, "one", 0, 0, &[event("lost")]).await?, Audience::None);
    assert_eq!(store.answer_or_lead(&flight, "two", None).await?, Found::Follow { leader: "one".into() });
    let nothing = Followed { events: vec![], end: None, is_led: true };
    assert_eq!(store.follow(&flight, "one", "two", 0).await?, nothing);
    assert_eq!(store.publish(&flight, "two", 0, 0, &[event("false")]).await?, Audience::Lost);
    assert_eq!(store.publish(&flight, "one", 0, 0, &[event("a"), event("\0b")]).await?, Audience::Some);
    let heard = Followed { events: vec![event("a"), event("\0b")], end: None, is_led: true };
    assert_eq!(store.follow(&flight, "one", "two", 0).await?, heard);
    // What was given up may have been done all the same, and comes once more with what follows.
    let again = [event("a"), event("\0b"), event("d")];
    assert_eq!(store.publish(&flight, "one", 0, 0, &again).await?, Audience::Some);
    let heard = Followed { events: vec![event("d")], end: None, is_led: true };
    assert_eq!(store.follow(&flight, "one", "two", 2).await?, heard);
    let gap = store.publish(&flight, "one", 4, 0, &[event("e")]).await?;
    assert_eq!(gap, Audience::Lost, "nobody hears an answer without its beginning");
    store.end_flight(&flight, "one", 2, &[event("d"), event("c")], &FlightEnd::Landed).await?;
    let rest = Followed { events: vec![event("c")], end: Some(FlightEnd::Landed), is_led: false };
    assert_eq!(store.follow(&flight, "one", "two", 3).await?, rest);
    assert_eq!(store.answer_or_lead(&flight, "three", None).await?, Found::Lead);
    store.end_flight(&flight, "one", 3, &[], &FlightEnd::Abandoned).await?;
    assert_eq!(
        store.publish(&flight, "three", 0, 0, &[]).await?,
        Audience::None,
        "what comes late changes nothing"
    );
    for key in keys(&redis).await? {
        assert_ne!(redis.connection.run(&["PTTL", &key]).await?.concat(), "-1", "{key}");
    }
    Ok(())
}

#[tokio::test]
async fn whoever_is_told_to_follow_listens_until_it_leaves() -> Result<()> {
    let redis = over_redis().await?;
    let (store, flight) = (&redis.store, FlightKey { key: key("q"), form: Delivery::Stream });
    assert_eq!(store.answer_or_lead(&flight, "one", None).await?, Found::Lead);
    for follower in ["two", "three"] {
        let found = store.answer_or_lead(&flight, follower, None).await?;
        assert_eq!(found, Found::Follow { leader: "one".into() });
    }
    assert_eq!(store.publish(&flight, "one", 0, 0, &[]).await?, Audience::Some);
    store.leave_flight(&flight, "two").await?;
    store.leave_flight(&flight, "two").await?;
    assert_eq!(store.publish(&flight, "one", 0, 0, &[]).await?, Audience::Some, "the other is still there");
    store.leave_flight(&flight, "three").await?;
    assert_eq!(store.publish(&flight, "one", 0, 0, &[]).await?, Audience::None);
    store.follow(&flight, "one", "two", 0).await?;
    assert_eq!(store.publish(&flight, "one", 0, 0, &[]).await?, Audience::Some);
    store.end_flight(&flight, "one", 0, &[], &FlightEnd::Abandoned).await?;
    // Whoever listened to one leader does not listen to the next.
    assert_eq!(store.answer_or_lead(&flight, "three", None).await?, Found::Lead);
    assert_eq!(store.follow(&flight, "one", "two", 0).await?.end, Some(FlightEnd::Abandoned));
    assert_eq!(store.publish(&flight, "three", 0, 0, &[]).await?, Audience::None);
    Ok(())
}

#[tokio::test]
async fn a_follower_that_vanishes_counts_for_a_while() -> Result<()> {
    let redis = over_redis().await?;
    let (store, flight) = (&redis.store, FlightKey { key: key("q"), form: Delivery::Stream });
    store.answer_or_lead(&flight, "one", None).await?;
    store.answer_or_lead(&flight, "two", None).await?;
    let started = Instant::now();
    while store.publish(&flight, "one", 0, 0, &[]).await? == Audience::Some {
        assert!(started.elapsed() < FLIGHT_LEASE * 10);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(started.elapsed() > Duration::from_secs(2));
    Ok(())
}

#[tokio::test]
async fn how_a_flight_ended_is_told_as_it_was_said() -> Result<()> {
    let redis = over_redis().await?;
    let (store, flight) = (&redis.store, FlightKey { key: key("q"), form: Delivery::Whole });
    let said = Bytes::from_static(b"\0\xff\n{}");
    for (number, end) in [
        FlightEnd::Landed,
        FlightEnd::Answered(said.clone()),
        FlightEnd::Failed(said),
        FlightEnd::Failed(Bytes::new()),
        FlightEnd::Abandoned,
    ]
    .into_iter()
    .enumerate()
    {
        let leader = number.to_string();
        assert_eq!(store.answer_or_lead(&flight, &leader, None).await?, Found::Lead);
        store.answer_or_lead(&flight, "two", None).await?;
        store.end_flight(&flight, &leader, 0, &[], &end).await?;
        let found = Followed { events: vec![], end: Some(end), is_led: false };
        assert_eq!(store.follow(&flight, &leader, "two", 0).await?, found);
    }
    Ok(())
}

#[tokio::test]
async fn what_another_version_hands_over_is_no_help() -> Result<()> {
    let redis = over_redis().await?;
    let (store, flight) = (&redis.store, FlightKey { key: key("q"), form: Delivery::Whole });
    for (number, said) in ["00000000?novelty", "00000000", "0", ""].into_iter().enumerate() {
        let leader = number.to_string();
        assert_eq!(store.answer_or_lead(&flight, &leader, None).await?, Found::Lead);
        store.answer_or_lead(&flight, "two", None).await?;
        store.end_flight(&flight, &leader, 0, &[], &FlightEnd::Landed).await?;
        let log = keys(&redis).await?.into_iter().find(|key| key.ends_with(&format!(":{leader}")));
        redis.connection.run(&["LSET", &log.unwrap_or_default(), "0", said]).await?;
        let found = store.follow(&flight, &leader, "two", 0).await;
        // A number that cannot be read is an error of its own, which is as good as none.
        assert!(found.is_err() || found.is_ok_and(|found| found.end == Some(FlightEnd::Abandoned)), "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn what_nobody_needs_any_more_is_forgotten_and_whoever_did_hears_that_it_fell_behind() -> Result<()> {
    let redis = over_redis().await?;
    let (store, flight) = (&redis.store, FlightKey { key: key("q"), form: Delivery::Stream });
    let event = |text: &'static str| Bytes::from_static(text.as_bytes());
    store.answer_or_lead(&flight, "one", None).await?;
    store.follow(&flight, "one", "two", 0).await?;
    for (from, forget, text) in [(0, 0, "a"), (1, 0, "b"), (2, 1, "c"), (3, 2, "d")] {
        assert_eq!(store.publish(&flight, "one", from, forget, &[event(text)]).await?, Audience::Some);
    }
    // Doing it late changes nothing.
    assert_eq!(store.publish(&flight, "one", 1, 0, &[event("b")]).await?, Audience::Some);
    for (heard, events, end) in [
        (0, vec![], Some(FlightEnd::Abandoned)),
        (1, vec![], Some(FlightEnd::Abandoned)),
        (2, vec![event("c"), event("d")], None),
        (3, vec![event("d")], None),
        (4, vec![], None),
    ] {
        assert_eq!(store.follow(&flight, "one", "two", heard).await?, Followed { events, end, is_led: true });
    }
    store.end_flight(&flight, "one", 4, &[event("e")], &FlightEnd::Landed).await?;
    let rest = Followed { events: vec![event("e")], end: Some(FlightEnd::Landed), is_led: false };
    assert_eq!(store.follow(&flight, "one", "two", 4).await?, rest);
    Ok(())
}

#[tokio::test]
async fn a_leader_that_says_nothing_loses_the_lead() -> Result<()> {
    let redis = over_redis().await?;
    let (store, flight) = (&redis.store, FlightKey { key: key("q"), form: Delivery::Stream });
    assert_eq!(store.answer_or_lead(&flight, "one", None).await?, Found::Lead);
    let started = Instant::now();
    while store.answer_or_lead(&flight, "two", None).await? != Found::Lead {
        assert!(started.elapsed() < FLIGHT_LEASE * 10);
        assert!(store.follow(&flight, "one", "two", 0).await?.end.is_none());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(started.elapsed() > FLIGHT_LEASE / 2);
    assert!(!store.follow(&flight, "one", "two", 0).await?.is_led);
    Ok(())
}

#[tokio::test]
async fn a_turn_of_another_version_is_passed_over() -> Result<()> {
    let redis = over_redis().await?;
    let id = session("s")?;
    redis.store.append_turn(&id, &turn("1"), LONG, 10).await?;
    let name = keys(&redis).await?.concat();
    let others =
        ["{}", "no JSON", "{\"id\": \"x\", \"messages\": [{\"role\": \"robot\", \"content\": \"x\"}]}"];
    for (number, value) in ["1", "2", "3"].into_iter().zip(others) {
        redis.connection.run(&["HSET", &name, number, value]).await?;
    }
    redis.connection.run(&["HSET", &name, "next", "4"]).await?;
    redis.store.append_turn(&id, &turn("2"), LONG, 10).await?;
    let found = turns(&redis.store, &id).await?;
    assert_eq!(found.iter().map(|turn| turn.id.as_str()).collect::<Vec<_>>(), ["1", "2"]);
    // A head that this version cannot read is an empty one, and its turns are there.
    redis.connection.run(&["HSET", &name, "head", "later"]).await?;
    redis.store.append_turn(&id, &turn("3"), LONG, 2).await?;
    let session = redis.store.session(&id, Span::ALL, LONG).await?.unwrap_or_default();
    assert_eq!(session.head, SessionHead::default());
    assert_eq!(session.turns.last().map(|turn| turn.id.as_str()), Some("3"));
    Ok(())
}

/// With a limit that was lower than this when the turn was stored.
#[tokio::test]
async fn a_turn_that_no_reply_may_hold_is_left_out_and_the_session_goes_on() -> Result<()> {
    let redis = over_redis().await?;
    let id = session("s")?;
    let text = "x".repeat(600_000);
    for (turn, text) in [("1", "q"), ("2", &*text), ("3", "q")] {
        redis.store.append_turn(&id, &exchange(turn, text, "a"), LONG, 10).await?;
    }
    let store = redis.store.clone().with_reply_limit(800_000);
    let read = async || anyhow::Ok(store.session(&id, Span::ALL, LONG).await?.context("it is there")?);
    let found = read().await?;
    assert_eq!(found.turns.iter().map(|turn| turn.id.as_str()).collect::<Vec<_>>(), ["3"]);
    assert_eq!(found.skipped, 2);
    let told = Turn { system: Some("y".repeat(600_000)), ..exchange("4", "q", "a") };
    store.append_turn(&id, &told, LONG, 10).await?;
    let found = read().await?;
    assert_eq!((found.turns.len(), found.skipped, found.system), (0, 4, None));
    assert!(store.append_turn_to(&id, found.generation, &exchange("5", "q", "a"), LONG, 10).await?);
    assert_eq!(redis.store.session(&id, Span::ALL, LONG).await?.unwrap_or_default().turns.len(), 5);
    Ok(())
}

/// A turn as the version before stored it.
fn stored(turn: &Turn) -> Result<String> {
    Ok(String::from_utf8(turn.to_json())?)
}

#[tokio::test]
async fn a_session_of_the_version_before_goes_on_with_its_turns_and_what_it_was_told() -> Result<()> {
    let redis = over_redis().await?;
    let id = session("s")?;
    // The name of a session is a secret of the store's: it is read from one that it made.
    redis.store.append_turn(&id, &turn("0"), LONG, 10).await?;
    let name = keys(&redis).await?.concat();
    let before = name.replace(":session:4:", ":session:3:");
    assert_ne!(name, before);
    redis.connection.run(&["DEL", &name]).await?;
    let told = Turn { system: Some("be \"brief\"\n".to_owned()), ..turn("2") };
    let turns = [stored(&turn("1"))?, stored(&told)?, "no JSON".to_owned(), stored(&turn("3"))?];
    redis.connection.run(&["RPUSH", &before, "1000 0 {\"model\":\"m\"}"]).await?;
    for turn in &turns {
        redis.connection.run(&["RPUSH", &before, turn]).await?;
    }
    redis.connection.run(&["PEXPIRE", &before, "60000"]).await?;
    let found = redis.store.session(&id, Span::ALL, LONG).await?.context("it is there")?;
    let ids = |turns: &[Turn]| turns.iter().map(|turn| turn.id.clone()).collect::<Vec<_>>();
    assert_eq!((ids(&found.turns), found.system), (vec!["1".into(), "2".into(), "3".into()], told.system));
    assert_eq!(found.head.model.as_deref(), Some("m"));
    assert!(found.age > LONG, "it began in 1970: {:?}", found.age);
    // While an older replica still runs it adds what it is told there.
    for value in ["1000 0 {}", &stored(&turn("3"))?, &stored(&turn("4"))?] {
        redis.connection.run(&["RPUSH", &before, value]).await?;
    }
    redis.store.append_turn(&id, &turn("2"), LONG, 10).await?;
    redis.store.append_turn(&id, &turn("5"), LONG, 10).await?;
    let found = redis.store.session(&id, Span::ALL, LONG).await?.context("it is there")?;
    assert_eq!(ids(&found.turns), ["1", "2", "3", "4", "5"]);
    assert_eq!(keys(&redis).await?, [name]);
    redis.connection.run(&["RPUSH", &before, "1000 0 {}"]).await?;
    assert!(redis.store.delete_session(&id).await?);
    assert!(keys(&redis).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_key_of_another_type_is_none_or_an_error_and_no_panic() -> Result<()> {
    let redis = over_redis().await?;
    redis.store.put_answer(&key("q"), &answer("a"), LONG).await?;
    redis.store.append_turn(&session("s")?, &turn("1"), LONG, 10).await?;
    for name in keys(&redis).await? {
        redis.connection.run(&["DEL", &name]).await?;
        redis.connection.run(&["RPUSH", &name, "a"]).await?;
    }
    assert_eq!(redis.store.answer(&asked("q")).await?, None);
    assert!(redis.store.answer_or_lead(&asked("q"), "one", None).await.is_err());
    assert!(turns(&redis.store, &session("s")?).await.is_err());
    assert!(redis.store.append_turn(&session("s")?, &turn("2"), LONG, 10).await.is_err());
    Ok(())
}

#[tokio::test]
async fn turns_of_many_connections_all_survive() -> Result<()> {
    let redis = over_redis().await?;
    let server = RedisServer::shared()?;
    let mut stores = Vec::new();
    for _ in 0..8 {
        let connection = Connection::open(&server).await?;
        stores.push(RedisStore::new(connection, &redis.prefix, limits(Duration::from_secs(20))));
    }
    let id = session("s")?;
    let expected: Vec<_> = (0..64).map(|number| turn(&format!("{number:032x}"))).collect();
    let appends = expected.iter().zip(stores.iter().cycle());
    for appended in join_all(appends.map(|(turn, store)| store.append_turn(&id, turn, LONG, 100))).await {
        appended?;
    }
    assert_eq!(turns(&redis.store, &id).await?.len(), 64);
    Ok(())
}

#[tokio::test]
async fn a_silent_server_costs_the_limit_and_a_late_write_does_no_harm() -> Result<()> {
    let server = RedisServer::start()?;
    let connection = Connection::open(&server).await?;
    let limit = Duration::from_millis(200);
    let store = RedisStore::new(connection.clone(), "late", limits(limit));
    let patient = RedisStore::new(connection, "late", limits(Duration::from_secs(20)));
    let id = session("s")?;
    patient.append_turn(&id, &turn("1"), LONG, 10).await?;
    server.pause()?;
    let started = Instant::now();
    assert_eq!(store.append_turn(&id, &turn("2"), LONG, 10).await, Err(StoreError::TimedOut));
    assert_eq!(store.ping().await, Err(StoreError::TimedOut));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    server.resume()?;
    // The turn that was given up may have been written; writing it again must not double it.
    patient.append_turn(&id, &turn("2"), LONG, 10).await?;
    assert_eq!(turns(&patient, &id).await?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_server_that_went_away_is_an_error() -> Result<()> {
    let server = RedisServer::start()?;
    let store = RedisStore::new(Connection::open(&server).await?, "gone", limits(Duration::from_secs(20)));
    store.ping().await?;
    server.stop()?;
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
    assert!(store.next_sequence().await.is_err());
    Ok(())
}
