use proptest::prelude::*;
use serde_json::{json, value::to_raw_value};

use super::*;
use crate::api::{auth::CallerId, error::Error};

const WIDE: HistoryLimits = HistoryLimits { messages: 40, bytes: 1000, tokens: usize::MAX };

fn message(role: &str, text: &str) -> RawMessage {
    RawMessage::from_raw(&to_raw_value(&json!({"role": role, "content": text})).unwrap())
}

fn exchange(text: &str) -> Turn {
    Turn {
        id: text.into(),
        dialect: Dialect::Ollama,
        system: None,
        messages: vec![message("user", text), message("assistant", text)],
        prompt: None,
    }
}

fn with_system(text: &str, system: &str) -> Turn {
    Turn { system: Some(system.into()), ..exchange(text) }
}

fn ids<'a>(history: &History<'a>) -> Vec<&'a str> {
    history.turns.iter().map(|turn| turn.id.as_str()).collect()
}

fn session(turns: &[Turn]) -> Session {
    Session { turns: turns.to_vec(), ..Session::default() }
}

#[track_caller]
fn check(turns: &[Turn], messages: usize, bytes: usize, kept: &[&str]) {
    assert_eq!(
        ids(&History::new(&session(turns), HistoryLimits { messages, bytes, tokens: usize::MAX })),
        kept
    );
}

#[test]
fn the_newest_turns_that_fit_are_kept_whole() {
    let turns = [exchange("1"), exchange("2"), exchange("3")];
    let size = turns[0].bytes();
    check(&turns, 10, 1000, &["1", "2", "3"]);
    check(&turns, 4, 1000, &["2", "3"]);
    check(&turns, 3, 1000, &["3"]);
    check(&turns, 10, 2 * size - 1, &["3"]);
    check(&turns, 1, 1000, &[]);
    check(&[], 1, 1, &[]);
}

#[test]
fn turns_are_kept_within_their_tokens_and_those_left_out_are_counted() {
    let session = session(&[exchange("1"), exchange("2"), exchange("3")]);
    let each = Rate::default().tokens(session.turns[0].weight());
    for (tokens, kept) in [(3 * each, 3), (3 * each - 1, 2), (2 * each, 2), (each - 1, 0)] {
        let history = History::new(&session, HistoryLimits { tokens, ..WIDE });
        assert_eq!((history.turns.len(), history.left_out), (kept, 3 - kept), "{tokens}");
    }
    let head = SessionHead { system: Some("s".repeat(300)), ..SessionHead::default() };
    let session = Session { head, ..session };
    let history = History::new(&session, HistoryLimits { tokens: 3 * each, ..WIDE });
    assert!(history.turns.is_empty() && history.system.is_some());
}

#[test]
fn ollamas_own_counts_correct_the_estimate() {
    let counted = |tokens| Turn {
        prompt: PromptCount::of(tokens, Weight { bytes: 1000, ..Weight::default() }),
        ..exchange(&"x".repeat(150))
    };
    let budget = HistoryLimits { tokens: 250, ..WIDE };
    for (turns, kept) in [
        (vec![counted(200), exchange("2")], 2),
        (vec![counted(200), counted(900)], 0),
        (vec![counted(900), counted(200)], 2),
    ] {
        assert_eq!(History::new(&session(&turns), budget).turns.len(), kept, "{turns:?}");
    }
}

#[test]
fn a_turn_is_read_as_it_was_written_with_its_count_or_without() {
    let count = Some(PromptCount { tokens: 300, bytes: 1000 });
    for turn in [exchange("1"), Turn { prompt: count, ..with_system("2", "s") }] {
        assert_eq!(Turn::from_json(&turn.to_json()), Some(turn));
    }
    for prompt in ["[1]", "{}", "[1,2,3]", "[-1,2]", "\"later\""] {
        let json = format!(r#"{{"id":"1","dialect":"ollama","messages":[],"prompt":{prompt}}}"#);
        assert_eq!(Turn::from_json(json.as_bytes()).map(|turn| turn.prompt), Some(None), "{prompt}");
    }
}

#[test]
fn the_result_of_a_tool_stays_with_its_call_or_goes_with_it() {
    let call = Turn { messages: vec![message("user", "q"), message("assistant", "")], ..exchange("2") };
    let result = Turn { messages: vec![message("tool", "r"), message("assistant", "a")], ..exchange("3") };
    let session = session(&[exchange("1"), call, result, exchange("4")]);
    for (messages, kept) in [(8, vec!["1", "2", "3", "4"]), (6, vec!["2", "3", "4"]), (4, vec!["4"])] {
        let history = History::new(&session, HistoryLimits { messages, ..WIDE });
        assert_eq!(ids(&history), kept, "{messages}");
    }
}

#[test]
fn what_was_not_read_or_is_kept_no_more_counts_as_left_out() {
    let session = Session { skipped: 30, ..session(&[exchange("1"), exchange("2"), exchange("3")]) };
    for (messages, left_out) in [(6, 30), (4, 31), (1, 33)] {
        assert_eq!(
            History::new(&session, HistoryLimits { messages, ..WIDE }).left_out,
            left_out,
            "{messages}"
        );
    }
    let span = HistoryLimits { messages: 5, bytes: 1000, tokens: 1 }.span();
    assert_eq!((span.before, span.turns, span.bytes), (None, 3, 1000 + 3 * TURN_ENVELOPE));
}

#[test]
fn turns_are_kept_within_their_number_and_their_bytes_and_the_newest_always_is() {
    for (sizes, turns, expected) in [
        (vec![1; 5], 3, 3),
        (vec![1; 5], 9, 5),
        (vec![1; 5], 0, 1),
        (vec![KEPT_BYTES + 1, 1], 9, 1),
        (vec![1, KEPT_BYTES - 1, 1], 9, 2),
        (vec![1, KEPT_BYTES, 1], 9, 1),
    ] {
        assert_eq!(kept(sizes.iter().copied(), turns), expected, "{sizes:?} {turns}");
    }
}

#[test]
fn a_span_ends_with_the_turn_that_goes_over_its_bytes() {
    for (turns, bytes, expected) in [(9, 100, 4), (2, 100, 2), (9, 20, 3), (9, 19, 2), (9, 0, 1), (0, 9, 0)] {
        let span = Span { before: None, turns, bytes };
        assert_eq!(span.count([10; 4]), expected, "{turns} {bytes}");
    }
}

#[test]
fn a_result_that_is_brought_keeps_its_calls_whatever_the_budget() {
    let call = json!({"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]});
    let call = RawMessage::from_raw(&to_raw_value(&call).unwrap());
    let asked = Turn { messages: vec![message("user", "q"), call.clone()], ..exchange("2") };
    let again = Turn { messages: vec![message("tool", "r"), call], ..exchange("3") };
    let turns = [exchange("1"), asked, again];
    let found = Session { skipped: 5, ..session(&turns) };
    assert!(found.awaits_results() && !session(&turns[..1]).awaits_results());
    for (messages, kept) in [(2, vec!["2", "3"]), (6, vec!["1", "2", "3"])] {
        let history = History::with_calls(&found, HistoryLimits { messages, ..WIDE });
        assert_eq!((ids(&history), history.left_out), (kept.clone(), 8 - kept.len()), "{messages}");
    }
    assert_eq!(found.unread_exchange(), None);
    let unread = Session { skipped: 7, ..session(&turns[2..]) };
    assert_eq!(unread.unread_exchange().map(|turn| turn.id.as_str()), Some("3"));
    assert_eq!(Session { skipped: 0, ..unread }.unread_exchange(), None, "nothing more is kept");
    assert!(History::with_calls(&Session::default(), WIDE).turns.is_empty());
}

#[test]
fn the_newest_system_message_holds_whatever_the_budget() {
    let session = session(&[with_system("1", "old"), with_system("2", "new"), exchange("3")]);
    let history = History::new(&session, HistoryLimits { messages: 3, ..WIDE });
    assert_eq!((history.system, ids(&history)), (Some("new"), vec!["3"]));
    let none = History::new(&session, HistoryLimits { messages: 0, bytes: 0, tokens: 0 });
    assert_eq!((none.system, ids(&none)), (Some("new"), vec![]));
}

#[test]
fn a_system_message_is_stored_when_it_is_new_or_would_go_with_its_turn() {
    let before = session(&[with_system("1", "s"), exchange("2"), exchange("3")]);
    let kept = Session { system: Some("s".into()), turns: vec![exchange("3")], ..Session::default() };
    for (session, fresh, stored) in [
        (&kept, None, None),
        (&kept, Some("s"), None),
        (&kept, Some("t"), Some("t")),
        // An older version stored the system message in its turn only.
        (&before, None, Some("s")),
        (&before, Some("s"), Some("s")),
        (&before, Some("t"), Some("t")),
    ] {
        let history = History::new(session, WIDE);
        assert_eq!(history.system, Some("s"));
        let found = history.system_to_store(fresh.map(str::to_owned));
        assert_eq!(found.as_deref(), stored, "{fresh:?}");
    }
    assert_eq!(History::default().system_to_store(Some("t".into())).as_deref(), Some("t"));
    assert_eq!(History::default().system_to_store(None), None);
}

#[test]
fn the_heads_system_message_holds_until_a_turn_has_one_and_is_not_stored_again() {
    let head = SessionHead { system: Some("s".into()), ..SessionHead::default() };
    let budget = HistoryLimits { messages: 3, ..WIDE };
    let mut session = Session { head, turns: vec![exchange("1"), exchange("2")], ..Session::default() };
    let history = History::new(&session, budget);
    assert_eq!((history.system, ids(&history)), (Some("s"), vec!["2"]));
    for (fresh, stored) in [(None, None), (Some("s"), None), (Some("t"), Some("t"))] {
        let found = history.system_to_store(fresh.map(str::to_owned));
        assert_eq!(found.as_deref(), stored, "{fresh:?}");
    }
    session.system = Some("t".into());
    let history = History::new(&session, budget);
    assert_eq!((history.system, history.system_to_store(None)), (Some("t"), None));
    // Returning to the head's system message is a change as well.
    assert_eq!(history.system_to_store(Some("s".into())).as_deref(), Some("s"));
}

#[test]
fn a_head_is_read_as_it_was_written_and_another_versions_is_none() {
    for (head, json) in [
        (SessionHead::default(), "{}"),
        (
            SessionHead {
                system: Some("\"s\"".into()),
                model: Some("m".into()),
                ttl: Some(Duration::from_secs(90)),
            },
            r#"{"system":"\"s\"","model":"m","ttl":90}"#,
        ),
    ] {
        assert_eq!(head.to_json(), json.as_bytes());
        assert_eq!(SessionHead::from_json(json.as_bytes()), Some(head));
    }
    assert_eq!(SessionHead::from_json(br#"{"ttl":0,"later":[]}"#), Some(SessionHead::default()));
    assert_eq!(SessionHead::from_json(b"later"), None);
}

#[test]
fn an_id_is_bounded_and_a_foreign_id_is_another_session() {
    let ann = CallerId::public();
    assert!(SessionId::parse(&"é".repeat(128)).is_ok());
    for invalid in ["", "a\nb", &"é".repeat(129)] {
        assert_eq!(SessionId::parse(invalid), Err(Error::InvalidSessionId), "{invalid:?}");
    }
    assert_eq!(RequestedSession::of("").checked(), Ok(None));
    assert_eq!(RequestedSession::of("a\nb").checked(), Err(Error::InvalidSessionId));
    let mut headers = http::HeaderMap::new();
    headers.insert("x-api-key", http::HeaderValue::from_static("bob"));
    let bob = CallerId::of(&headers, None, None).unwrap();
    let id = SessionId::parse("s").unwrap();
    assert_eq!(RequestedSession::of("s").checked(), Ok(Some(&id)));
    assert_ne!(SessionKey::of(&ann, &id), SessionKey::of(&bob, &id));
}

proptest! {
    #[test]
    fn what_is_kept_is_the_newest_part_within_the_budget(
        texts in proptest::collection::vec((any::<bool>(), "[a-z]{0,20}"), 0..30),
        messages in 0usize..40, bytes in 0usize..2000,
    ) {
        let turn = |(has, text): &(bool, String)| if *has { with_system(text, text) } else { exchange(text) };
        let turns: Vec<_> = texts.iter().map(turn).collect();
        let session = session(&turns);
        let history = History::new(&session, HistoryLimits { messages, bytes, tokens: usize::MAX });
        prop_assert_eq!(history.turns, &turns[turns.len() - history.turns.len()..]);
        let newest = turns.iter().rev().find_map(|turn| turn.system.as_deref());
        prop_assert_eq!(history.system, newest);
        if !history.turns.is_empty() {
            let system = usize::from(newest.is_some());
            prop_assert!(history.turns.len() * 2 + system <= messages);
            let size: usize = history.turns.iter().map(Turn::bytes).sum();
            prop_assert!(size + newest.map_or(0, str::len) <= bytes);
        }
    }
}
