//! The contract itself.

use std::time::Duration;

use anyhow::Result;
use futures::future::join_all;
use paddock::{
    cache::{Delivery, EPOCHS, Entry},
    session::{Dialect, KEPT_TURNS, SessionHead, Span, Turn},
    store::{
        FleetState as _, FlightBoard as _, FlightEnd, FlightKey, Found, ResponseCache, Sessions as _,
        Store as _,
    },
};

use crate::{Subject, answer, asked, exchange, key, message, session, turns};

const LONG: Duration = Duration::from_hours(1);
const SHORT: Duration = Duration::from_millis(400);
/// More than `SHORT`.
const LATER: Duration = Duration::from_millis(500);

fn turn(id: &str) -> Turn {
    exchange(&format!("id-{id}"), &format!("question of {id}"), &format!("answer of {id}"))
}

fn ids(turns: &[Turn]) -> Vec<&str> {
    turns.iter().map(|turn| turn.id.as_str()).collect()
}

async fn found(store: &impl ResponseCache, question: &str) -> Result<Option<Entry>> {
    Ok(store.answer(&asked(question)).await?.map(|stored| stored.entry))
}

async fn an_answer_is_given_until_its_time_has_passed(subject: impl Subject) -> Result<()> {
    let store = subject.store().answers();
    assert_eq!(found(store, "q").await?, None);
    store.put_answer(&key("q"), &answer("a"), SHORT).await?;
    store.put_answer(&key("other"), &answer("b"), LONG).await?;
    assert_eq!(found(store, "other").await?, Some(answer("b")));
    subject.pass(LATER).await;
    assert_eq!(found(store, "q").await?, None);
    assert_eq!(found(store, "other").await?, Some(answer("b")));
    Ok(())
}

async fn an_answer_survives_whatever_it_says(subject: impl Subject) -> Result<()> {
    let store = subject.store().answers();
    for (index, text) in
        ["", "\0\u{1}\u{1f}", "\"\\\n", "熊猫🦙", &"x".repeat(1 << 20)].into_iter().enumerate()
    {
        let name = index.to_string();
        store.put_answer(&key(&name), &answer(text), LONG).await?;
        assert_eq!(found(store, &name).await?, Some(answer(text)));
    }
    Ok(())
}

async fn the_last_answer_put_is_the_answer(subject: impl Subject) -> Result<()> {
    let store = subject.store().answers();
    store.put_answer(&key("q"), &answer("first"), SHORT).await?;
    store.put_answer(&key("q"), &answer("second"), LONG).await?;
    subject.pass(LATER).await;
    assert_eq!(found(store, "q").await?, Some(answer("second")));
    Ok(())
}

async fn an_answer_tells_its_age(subject: impl Subject) -> Result<()> {
    let store = subject.store().answers();
    store.put_answer(&key("q"), &answer("a"), LONG).await?;
    subject.pass(LATER).await;
    let age = store.answer(&asked("q")).await?.map(|stored| stored.age);
    assert!(age.is_some_and(|age| age >= LATER && age < LATER * 20), "{age:?}");
    Ok(())
}

async fn emptying_the_cache_begins_a_new_epoch_of_all_or_of_one_model(subject: impl Subject) -> Result<()> {
    let store = subject.store().answers();
    let before = store.epochs("m:latest").await?;
    assert!(before.all != 0 && before.model == 0, "{before:?}");
    assert_eq!(store.epochs("m:latest").await?, before, "it stays");
    store.purge(Some("m:latest")).await?;
    let after = store.epochs("m:latest").await?;
    assert!(after.model != before.model && after.all == before.all, "{after:?}");
    assert_eq!(store.epochs("n:latest").await?, before);
    store.purge(None).await?;
    assert_ne!(store.epochs("n:latest").await?.all, before.all);
    assert_ne!(store.epochs("m:latest").await?.all, after.all);
    // Where they can be asked for all at once they are the same.
    if let Some(all) = store.all_epochs().await? {
        for model in ["m:latest", "n:latest"] {
            assert_eq!(all.of(model), store.epochs(model).await?, "{model}");
        }
    }
    Ok(())
}

async fn however_many_models_are_purged_their_epochs_are_bounded_and_none_comes_back(
    subject: impl Subject,
) -> Result<()> {
    let store = subject.store().answers();
    let before = store.epochs("none").await?;
    store.purge(Some("first")).await?;
    let mut seen = vec![before, store.epochs("first").await?];
    let purged = async |numbers: std::ops::Range<usize>| {
        for number in numbers {
            store.purge(Some(&format!("m{number}"))).await?;
        }
        anyhow::Ok(())
    };
    purged(1..EPOCHS).await?;
    assert_eq!(store.epochs("first").await?, seen[1], "as many as these have one of their own");
    assert_eq!(store.epochs("none").await?.all, before.all);
    purged(EPOCHS..EPOCHS + 1).await?;
    for round in 0..3 {
        let now = store.epochs("first").await?;
        assert!(!seen.contains(&now), "{round}: {now:?} in {seen:?}");
        seen.push(now);
        store.purge(Some("first")).await?;
    }
    if let Some(all) = store.all_epochs().await? {
        assert!(all.models.len() <= EPOCHS, "{}", all.models.len());
    }
    Ok(())
}

async fn who_finds_no_answer_leads_or_finds_the_one_that_leads(subject: impl Subject) -> Result<()> {
    let store = subject.store();
    let flight = FlightKey { key: key("q"), form: Delivery::Whole };
    assert_eq!(store.flights().answer_or_lead(&flight, "first", None).await?, Found::Lead);
    // Asking again, because the reply was lost, changes nothing.
    assert_eq!(store.flights().answer_or_lead(&flight, "first", None).await?, Found::Lead);
    store.answers().put_answer(&flight.key, &answer("a"), LONG).await?;
    store.flights().end_flight(&flight, "first", 0, &[], &FlightEnd::Landed).await?;
    let found = store.flights().answer_or_lead(&flight, "second", None).await?;
    assert!(matches!(&found, Found::Answer(stored) if stored.entry == answer("a")), "{found:?}");
    Ok(())
}

async fn an_answer_that_is_too_old_for_whoever_asks_is_none(subject: impl Subject) -> Result<()> {
    let (store, flight) = (subject.store(), asked("q"));
    store.answers().put_answer(&flight.key, &answer("a"), LONG).await?;
    subject.pass(LATER).await;
    for (max_age, is_young) in [(Duration::ZERO, false), (SHORT, false), (LONG, true)] {
        let found = store.flights().answer_or_lead(&flight, "one", Some(max_age)).await?;
        assert_eq!(matches!(found, Found::Answer(_)), is_young, "{max_age:?}: {found:?}");
    }
    Ok(())
}

async fn what_serves_one_form_alone_stands_beside_what_serves_the_other(subject: impl Subject) -> Result<()> {
    let (store, whole) = (subject.store(), asked("q"));
    let stream = FlightKey { form: Delivery::Stream, ..whole };
    let entry = |form, text: &str| Entry::new(form, "text/plain", text.to_owned().into());
    let found = async |flight| {
        let found = store.answers().answer(flight).await?.map(|stored| stored.entry);
        let other = match store.flights().answer_or_lead(flight, "one", None).await? {
            Found::Answer(stored) => Some(stored.entry),
            Found::Lead | Found::Follow { .. } => None,
        };
        assert_eq!(found, other);
        anyhow::Ok(found)
    };
    let streamed = entry(Delivery::Stream, "in pieces").serving_one_delivery(true);
    store.answers().put_answer(&whole.key, &streamed, LONG).await?;
    assert_eq!((found(&stream).await?, found(&whole).await?), (Some(streamed.clone()), None));
    let single = entry(Delivery::Whole, "in one piece").serving_one_delivery(true);
    store.answers().put_answer(&whole.key, &single, LONG).await?;
    assert_eq!((found(&stream).await?, found(&whole).await?), (Some(streamed), Some(single)));
    // Of two that serve it is the younger.
    subject.pass(Duration::from_millis(20)).await;
    let both = entry(Delivery::Stream, "in pieces that can be put together");
    store.answers().put_answer(&whole.key, &both, LONG).await?;
    assert_eq!((found(&stream).await?, found(&whole).await?), (Some(both.clone()), Some(both.clone())));
    subject.pass(Duration::from_millis(20)).await;
    let streamed = entry(Delivery::Stream, "in pieces again").serving_one_delivery(true);
    store.answers().put_answer(&whole.key, &streamed, LONG).await?;
    assert_eq!((found(&stream).await?, found(&whole).await?), (Some(streamed), Some(both)));
    Ok(())
}

async fn turns_come_back_in_order_and_whole(subject: impl Subject) -> Result<()> {
    let (store, key) = (subject.store().sessions(), session("s")?);
    assert_eq!(turns(store, &key).await?, []);
    let mut expected = vec![turn("1"), turn("2"), turn("3")];
    expected[1].messages[0] = message("user", "\"quoted\" \\ \n \0 熊猫");
    expected[2].system = Some("be brief".to_owned());
    expected[2].dialect = Dialect::Anthropic;
    for turn in &expected {
        store.append_turn(&key, turn, LONG, 10).await?;
    }
    assert_eq!(turns(store, &key).await?, expected);
    assert_eq!(turns(store, &session("other")?).await?, []);
    Ok(())
}

async fn only_the_newest_turns_are_kept(subject: impl Subject) -> Result<()> {
    let (store, key) = (subject.store().sessions(), session("s")?);
    for id in ["1", "2", "3", "4", "5"] {
        store.append_turn(&key, &turn(id), LONG, 3).await?;
    }
    assert_eq!(ids(&turns(store, &key).await?), ["id-3", "id-4", "id-5"]);
    // Even a limit of none keeps what was just said.
    store.append_turn(&key, &turn("6"), LONG, 0).await?;
    assert_eq!(ids(&turns(store, &key).await?), ["id-6"]);
    Ok(())
}

async fn a_turn_that_is_appended_again_is_there_once(subject: impl Subject) -> Result<()> {
    let (store, key) = (subject.store().sessions(), session("s")?);
    for id in ["1", "1", "2", "3", "1", "2"] {
        store.append_turn(&key, &turn(id), LONG, 10).await?;
    }
    assert_eq!(ids(&turns(store, &key).await?), ["id-1", "id-2", "id-3"]);
    Ok(())
}

async fn a_turn_that_is_appended_again_is_found_among_all_that_are_kept(subject: impl Subject) -> Result<()> {
    let (store, key) = (subject.store().sessions(), session("s")?);
    for number in 0..60 {
        store.append_turn(&key, &turn(&number.to_string()), LONG, KEPT_TURNS).await?;
    }
    for id in ["0", "30", "59"] {
        store.append_turn(&key, &turn(id), LONG, KEPT_TURNS).await?;
    }
    let found = turns(store, &key).await?;
    assert_eq!((found.len(), found.last().map(|turn| turn.id.as_str())), (60, Some("id-59")));
    Ok(())
}

async fn the_turns_of_a_session_have_so_many_bytes_at_most(subject: impl Subject) -> Result<()> {
    let (store, key) = (subject.store().sessions(), session("s")?);
    let large = "x".repeat(1 << 20);
    for id in ["1", "2", "3", "4", "5"] {
        store.append_turn(&key, &exchange(id, id, &large), LONG, KEPT_TURNS).await?;
    }
    // Four have a little more than 4 MiB.
    assert_eq!(ids(&turns(store, &key).await?), ["3", "4", "5"]);
    let found = store.session(&key, Span::ALL, LONG).await?.unwrap_or_default();
    assert_eq!(found.skipped, 2);
    for id in ["6", "7"] {
        store.append_turn(&key, &exchange(id, id, "short"), LONG, KEPT_TURNS).await?;
    }
    assert_eq!(ids(&turns(store, &key).await?), ["3", "4", "5", "6", "7"]);
    Ok(())
}

async fn only_the_turns_that_are_wanted_are_read(subject: impl Subject) -> Result<()> {
    let (store, key) = (subject.store().sessions(), session("s")?);
    for id in ["1", "2", "3", "4", "5", "6"] {
        store.append_turn(&key, &turn(id), LONG, 5).await?;
    }
    let size = turn("1").to_json().len();
    for (before, most, bytes, expected, skipped) in [
        (None, 9, usize::MAX, vec!["id-2", "id-3", "id-4", "id-5", "id-6"], 1),
        (None, 2, usize::MAX, vec!["id-5", "id-6"], 4),
        (None, 0, usize::MAX, vec![], 6),
        (Some("id-5"), 2, usize::MAX, vec!["id-3", "id-4"], 2),
        (Some("id-3"), 2, usize::MAX, vec!["id-2"], 1),
        (Some("id-2"), 2, usize::MAX, vec![], 1),
        (Some("id-1"), 2, usize::MAX, vec![], 1),
        (None, 9, 2 * size, vec!["id-4", "id-5", "id-6"], 3),
        (None, 9, 2 * size - 1, vec!["id-5", "id-6"], 4),
        (Some("id-6"), 9, 0, vec!["id-5"], 4),
    ] {
        let span = Span { before, turns: most, bytes };
        let found = store.session(&key, span, LONG).await?.unwrap_or_default();
        assert_eq!((ids(&found.turns), found.skipped), (expected, skipped), "{span:?}");
    }
    Ok(())
}

async fn a_system_message_outlives_the_turn_that_brought_it(subject: impl Subject) -> Result<()> {
    let (store, key) = (subject.store().sessions(), session("s")?);
    for (id, system, told) in [
        ("1", None, None),
        ("2", Some("be \"brief\" 熊猫\n"), Some("be \"brief\" 熊猫\n")),
        ("3", None, Some("be \"brief\" 熊猫\n")),
        ("4", None, Some("be \"brief\" 熊猫\n")),
        ("5", Some(""), Some("")),
        ("2", Some("other"), Some("other")),
        ("5", Some("a repetition changes nothing"), Some("other")),
    ] {
        let turn = Turn { system: system.map(str::to_owned), ..turn(id) };
        store.append_turn(&key, &turn, LONG, 2).await?;
        let found = store.session(&key, Span::ALL, LONG).await?.unwrap_or_default();
        assert_eq!(found.system.as_deref(), told, "{id}");
    }
    Ok(())
}

async fn turns_appended_at_the_same_time_all_survive(subject: impl Subject) -> Result<()> {
    let (store, key) = (subject.store().sessions(), session("s")?);
    let expected: Vec<_> = (0..64).map(|number| turn(&format!("{number:02}"))).collect();
    for appended in join_all(expected.iter().map(|turn| store.append_turn(&key, turn, LONG, 100))).await {
        appended?;
    }
    let mut found = turns(store, &key).await?;
    found.sort_by(|left, right| left.id.cmp(&right.id));
    assert_eq!(found, expected);
    Ok(())
}

async fn a_session_ends_when_its_time_has_passed(subject: impl Subject) -> Result<()> {
    let (store, key) = (subject.store().sessions(), session("s")?);
    store.append_turn(&key, &turn("1"), SHORT, 10).await?;
    subject.pass(LATER).await;
    assert_eq!(turns(store, &key).await?, []);
    // What comes after is a new session.
    store.append_turn(&key, &turn("2"), LONG, 10).await?;
    assert_eq!(ids(&turns(store, &key).await?), ["id-2"]);
    Ok(())
}

async fn every_use_of_a_session_renews_its_time(subject: impl Subject) -> Result<()> {
    let store = subject.store().sessions();
    for (name, id) in [("read", "1"), ("appended", "2"), ("appended again", "1")] {
        let key = session(name)?;
        store.append_turn(&key, &turn("1"), SHORT, 10).await?;
        if name == "read" {
            turns(store, &key).await?;
        } else {
            store.append_turn(&key, &turn(id), LONG, 10).await?;
        }
        subject.pass(LATER).await;
        assert!(!turns(store, &key).await?.is_empty(), "{name}");
    }
    Ok(())
}

fn head() -> SessionHead {
    SessionHead {
        system: Some("be \"brief\" 熊猫\n".to_owned()), model: Some("m:1b".to_owned()), ttl: None
    }
}

async fn a_session_that_was_never_made_is_none(subject: impl Subject) -> Result<()> {
    let (store, key) = (subject.store().sessions(), session("s")?);
    assert_eq!(store.session(&key, Span::ALL, LONG).await?, None);
    assert!(!store.delete_session(&key).await?);
    assert_eq!(store.session(&key, Span::ALL, LONG).await?, None);
    Ok(())
}

async fn a_session_that_is_made_is_there_before_its_first_turn(subject: impl Subject) -> Result<()> {
    let (store, key) = (subject.store().sessions(), session("s")?);
    store.create_session(&key, &head(), LONG).await?;
    let found = store.session(&key, Span::ALL, LONG).await?.unwrap_or_default();
    assert_eq!((found.head, found.turns), (head(), vec![]));
    for id in ["1", "2", "3", "4"] {
        store.append_turn(&key, &turn(id), LONG, 2).await?;
    }
    // Dropping turns does not drop what holds for all of them.
    let found = store.session(&key, Span::ALL, LONG).await?.unwrap_or_default();
    assert_eq!((found.head, ids(&found.turns)), (head(), vec!["id-3", "id-4"]));
    assert_eq!(store.session(&session("other")?, Span::ALL, LONG).await?, None);
    Ok(())
}

async fn making_a_session_again_changes_nothing(subject: impl Subject) -> Result<()> {
    let store = subject.store().sessions();
    let (made, begun) = (session("made")?, session("begun")?);
    store.create_session(&made, &head(), LONG).await?;
    store.append_turn(&made, &turn("1"), LONG, 10).await?;
    store.append_turn(&begun, &turn("2"), LONG, 10).await?;
    for (key, expected, id) in [(&made, head(), "id-1"), (&begun, SessionHead::default(), "id-2")] {
        let other = SessionHead { system: Some("other".to_owned()), ..SessionHead::default() };
        store.create_session(key, &other, LONG).await?;
        let found = store.session(key, Span::ALL, LONG).await?.unwrap_or_default();
        assert_eq!((found.head, ids(&found.turns)), (expected, vec![id]));
    }
    Ok(())
}

async fn a_session_that_is_deleted_is_gone_and_a_later_turn_begins_another(
    subject: impl Subject,
) -> Result<()> {
    let (store, key) = (subject.store().sessions(), session("s")?);
    store.create_session(&key, &head(), LONG).await?;
    store.append_turn(&key, &turn("1"), LONG, 10).await?;
    assert!(store.delete_session(&key).await?);
    assert_eq!(store.session(&key, Span::ALL, LONG).await?, None);
    assert!(!store.delete_session(&key).await?);
    store.append_turn(&key, &turn("2"), LONG, 10).await?;
    let found = store.session(&key, Span::ALL, LONG).await?.unwrap_or_default();
    assert_eq!((found.head, ids(&found.turns)), (SessionHead::default(), vec!["id-2"]));
    Ok(())
}

async fn a_turn_is_not_appended_to_another_session_than_it_read(subject: impl Subject) -> Result<()> {
    let (store, key) = (subject.store().sessions(), session("s")?);
    store.create_session(&key, &head(), LONG).await?;
    let generation = store.session(&key, Span::ALL, LONG).await?.unwrap_or_default().generation;
    assert!(generation.is_some());
    assert!(store.append_turn_to(&key, generation, &turn("1"), LONG, 1).await?);
    assert!(store.append_turn_to(&key, generation, &turn("2"), LONG, 1).await?, "whatever was dropped");
    store.delete_session(&key).await?;
    assert!(!store.append_turn_to(&key, generation, &turn("3"), LONG, 1).await?);
    assert_eq!(store.session(&key, Span::ALL, LONG).await?, None);
    // Not even when there is one again.
    subject.pass(Duration::from_millis(5)).await;
    assert!(store.append_turn_to(&key, None, &turn("4"), LONG, 10).await?);
    assert!(!store.append_turn_to(&key, generation, &turn("5"), LONG, 10).await?);
    let found = store.session(&key, Span::ALL, LONG).await?.unwrap_or_default();
    assert_eq!(ids(&found.turns), ["id-4"]);
    assert!(found.generation.is_some() && found.generation != generation);
    Ok(())
}

async fn a_sessions_own_time_to_live_wins_over_its_users(subject: impl Subject) -> Result<()> {
    let store = subject.store().sessions();
    let (brief, lasting) = (session("brief")?, session("lasting")?);
    let own = |ttl| SessionHead { ttl: Some(ttl), ..head() };
    store.create_session(&brief, &own(Duration::from_secs(1)), LONG).await?;
    store.create_session(&lasting, &own(LONG), SHORT).await?;
    for key in [&brief, &lasting] {
        let ttl = if *key == brief { LONG } else { SHORT };
        store.append_turn(key, &turn("1"), ttl, 10).await?;
        assert!(store.session(key, Span::ALL, ttl).await?.is_some());
    }
    subject.pass(Duration::from_millis(1100)).await;
    assert_eq!(store.session(&brief, Span::ALL, LONG).await?, None);
    let found = store.session(&lasting, Span::ALL, LONG).await?.unwrap_or_default();
    assert_eq!((found.head, found.turns.len()), (own(LONG), 1));
    assert!(found.age >= Duration::from_secs(1) && found.age < LONG, "{:?}", found.age);
    Ok(())
}

async fn turns_of_the_fleet_are_counted_from_0_and_given_once(subject: impl Subject) -> Result<()> {
    let store = subject.store().fleet();
    assert_eq!((store.next_sequence().await?, store.next_sequence().await?), (0, 1));
    let mut turns = Vec::new();
    for turn in join_all((0..30).map(|_| store.next_sequence())).await {
        turns.push(turn?);
    }
    turns.sort_unstable();
    assert_eq!(turns, (2..32).collect::<Vec<_>>());
    Ok(())
}

async fn a_store_that_is_there_says_so(subject: impl Subject) -> Result<()> {
    Ok(subject.store().ping().await?)
}

crate::contract! {
    an_answer_is_given_until_its_time_has_passed,
    an_answer_survives_whatever_it_says,
    the_last_answer_put_is_the_answer,
    an_answer_tells_its_age,
    emptying_the_cache_begins_a_new_epoch_of_all_or_of_one_model,
    however_many_models_are_purged_their_epochs_are_bounded_and_none_comes_back,
    who_finds_no_answer_leads_or_finds_the_one_that_leads,
    an_answer_that_is_too_old_for_whoever_asks_is_none,
    what_serves_one_form_alone_stands_beside_what_serves_the_other,
    turns_come_back_in_order_and_whole,
    only_the_newest_turns_are_kept,
    a_turn_that_is_appended_again_is_there_once,
    a_turn_that_is_appended_again_is_found_among_all_that_are_kept,
    the_turns_of_a_session_have_so_many_bytes_at_most,
    only_the_turns_that_are_wanted_are_read,
    a_system_message_outlives_the_turn_that_brought_it,
    turns_appended_at_the_same_time_all_survive,
    a_session_ends_when_its_time_has_passed,
    every_use_of_a_session_renews_its_time,
    a_session_that_was_never_made_is_none,
    a_session_that_is_made_is_there_before_its_first_turn,
    making_a_session_again_changes_nothing,
    a_session_that_is_deleted_is_gone_and_a_later_turn_begins_another,
    a_turn_is_not_appended_to_another_session_than_it_read,
    a_sessions_own_time_to_live_wins_over_its_users,
    turns_of_the_fleet_are_counted_from_0_and_given_once,
    a_store_that_is_there_says_so,
}
