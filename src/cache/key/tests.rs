use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::wire::pace::{STEP, tests::pauses};

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

const HERE: KeyContext<'static> =
    KeyContext { path: "/chat", caller: None, digest: [1; 32], epochs: Epochs { all: 1, model: 2 } };

fn question<'a>(model: &'a str, messages: &'a [&'a str]) -> Chat<'a> {
    Chat { model, messages, format: None, options: None, think: None, tools: None }
}

fn key(model: &str, messages: &[&str]) -> CacheKey {
    CacheKey::of_chat(&HERE, &question(model, messages))
}

fn of_request(json: &str) -> CacheKey {
    CacheKey::of_request(&HERE, &Members::parse(json.as_bytes()).unwrap())
}

#[track_caller]
fn all_differ(keys: &[(&str, CacheKey)]) {
    for (index, (what, key)) in keys.iter().enumerate() {
        for (other, earlier) in keys.iter().take(index) {
            assert_ne!(key, earlier, "{what} {other}");
        }
    }
}

#[test]
fn each_circumstance_changes_the_key() {
    let caller = |credential| {
        let mut headers = HeaderMap::new();
        headers.insert("x-api-key", HeaderValue::from_static(credential));
        CallerId::of(&headers, None, None).unwrap()
    };
    let (ann, bob) = (caller("ann"), caller("bob"));
    let chat = question("m", &["hi"]);
    let body = Members::parse(br#"{"model":"m"}"#).unwrap();
    let cases = [
        ("shared", HERE),
        ("ann", KeyContext { caller: Some(&ann), ..HERE }),
        ("bob", KeyContext { caller: Some(&bob), ..HERE }),
        ("path", KeyContext { path: "/api/chat", ..HERE }),
        ("digest", KeyContext { digest: [2; 32], ..HERE }),
        ("emptied", KeyContext { epochs: Epochs { all: 2, model: 2 }, ..HERE }),
        ("model emptied", KeyContext { epochs: Epochs { all: 1, model: 3 }, ..HERE }),
    ];
    all_differ(&cases.map(|(what, here)| (what, CacheKey::of_chat(&here, &chat))));
    all_differ(&cases.map(|(what, here)| (what, CacheKey::of_request(&here, &body))));
    let repetition = |path, caller, key: &str| CacheKey::of_repetition(path, caller, key.as_bytes());
    all_differ(&[
        ("ann's", repetition("/chat", &ann, "1")),
        ("bob's", repetition("/chat", &bob, "1")),
        ("another", repetition("/chat", &ann, "2")),
        ("elsewhere", repetition("/api/chat", &ann, "1")),
    ]);
}

#[test]
fn each_field_of_a_question_changes_the_key() {
    let base = question("llama3.2", &["hi"]);
    let (one, two) = (raw(r#"{"seed":1,"top_k":2}"#), raw(r#"{"seed":2,"top_k":2}"#));
    let thinks = raw("false");
    let cases = [
        ("base", base),
        ("model", Chat { model: "llama3.1", ..base }),
        ("content", Chat { messages: &["hi "], ..base }),
        ("history", Chat { messages: &["a", "b", "hi"], ..base }),
        ("format", Chat { format: Some(&one), ..base }),
        ("options", Chat { options: Some(&one), ..base }),
        ("other options", Chat { options: Some(&two), ..base }),
        ("think", Chat { think: Some(&thinks), ..base }),
        ("the same value elsewhere", Chat { think: Some(&one), ..base }),
        ("tools", Chat { tools: Some(&one), ..base }),
    ];
    all_differ(&cases.map(|(what, question)| (what, CacheKey::of_chat(&HERE, &question))));
    assert_eq!(CacheKey::of_chat(&HERE, &base), key("llama3.2", &["hi"]));
}

#[test]
fn the_order_within_tools_and_options_of_a_question_counts() {
    let base = question("m", &["hi"]);
    let (one, other) = (raw(r#"{"a":1,"b":2}"#), raw(r#"{"b":2,"a":1}"#));
    let of = |question: Chat<'_>| CacheKey::of_chat(&HERE, &question);
    assert_ne!(of(Chat { tools: Some(&one), ..base }), of(Chat { tools: Some(&other), ..base }));
    assert_ne!(of(Chat { options: Some(&one), ..base }), of(Chat { options: Some(&other), ..base }));
    let spaced = raw(r#"{ "a": 1, "b": 2 }"#);
    assert_eq!(of(Chat { tools: Some(&one), ..base }), of(Chat { tools: Some(&spaced), ..base }));
}

#[test]
fn each_member_of_a_request_changes_the_key_but_stream() {
    let base = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
    let with = |more: &str| of_request(&base.replacen('{', &format!("{{{more},"), 1));
    all_differ(&[
        ("base", of_request(base)),
        ("system", with(r#""system":"be brief""#)),
        ("temperature", with(r#""temperature":0"#)),
        ("temperature, otherwise written", with(r#""temperature":0.0"#)),
        ("options", with(r#""options":{"seed":1}"#)),
        ("tools", with(r#""tools":[]"#)),
        ("images", with(r#""images":["aGk="]"#)),
        ("keep_alive", with(r#""keep_alive":5"#)),
        ("whatever comes", with(r#""novelty":null"#)),
    ]);
    for stream in [r#""stream":true"#, r#""stream":false"#, r#""stream":null"#] {
        assert_eq!(with(stream), of_request(base), "{stream}");
    }
}

#[test]
fn space_and_the_order_of_the_outermost_members_do_not_matter_and_every_other_order_does() {
    for (left, right) in [
        (r#"{"a":1,"b":[2,{"c":3,"d":4}]}"#, r#"{ "b" : [2, {"c":3 ,"d": 4}], "a":1}"#),
        (r#"{"a":"\u0062"}"#, r#"{"a":"b"}"#),
        (r#"{"a":{"\u0062":"\ud83e\udd99\n"}}"#, "{\"a\":{\"b\":\"\u{1f999}\\n\"}}"),
        (r#"{"format":{"a":1, "b":2}}"#, r#"{"format":{"a":1,"b":2}}"#),
    ] {
        assert_eq!(of_request(left), of_request(right), "{left}");
    }
    for (left, right) in [
        (r#"{"a":[1,2]}"#, r#"{"a":[2,1]}"#),
        (r#"{"a":"1"}"#, r#"{"a":1}"#),
        (r#"{"a":null}"#, "{}"),
        (r#"{"a":[[],1]}"#, r#"{"a":[[1]]}"#),
        (r#"{"a":["b","c"]}"#, r#"{"a":["bsc"]}"#),
        (r#"{"a":[1,2]}"#, r#"{"a":[12]}"#),
        (r#"{"a":["\"",1]}"#, r#"{"a":["\",1"]}"#),
        (r#"{"b":[2,{"c":3,"d":4}]}"#, r#"{"b":[2,{"d":4,"c":3}]}"#),
        (
            r#"{"messages":[{"tool_calls":[{"function":{"arguments":{"a":1,"b":2}}}]}]}"#,
            r#"{"messages":[{"tool_calls":[{"function":{"arguments":{"b":2,"a":1}}}]}]}"#,
        ),
        (
            r#"{"tools":[{"function":{"parameters":{"properties":{"a":{},"b":{}}}}}]}"#,
            r#"{"tools":[{"function":{"parameters":{"properties":{"b":{},"a":{}}}}}]}"#,
        ),
        (r#"{"format":{"a":1,"b":2}}"#, r#"{"format":{"b":2,"a":1}}"#),
        (r#"{"response_format":{"x":{"a":1,"b":2}}}"#, r#"{"response_format":{"x":{"b":2,"a":1}}}"#),
    ] {
        assert_ne!(of_request(left), of_request(right), "{left}");
    }
    // Names that Ollama treats as equal keep their order, because it takes the last one or joins them.
    for (left, right) in [
        (r#"{"a":1,"a":2}"#, r#"{"a":2,"a":1}"#),
        (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
        (r#"{"o":{"a":1},"o":{"b":1}}"#, r#"{"o":{"a":2},"o":{"b":1}}"#),
        (r#"{"temperature":0,"Temperature":1}"#, r#"{"Temperature":1,"temperature":0}"#),
        (r#"{"o":{"s":0,"\u017f":1}}"#, r#"{"o":{"\u017f":1,"s":0}}"#),
        (r#"{"Format":{"a":1,"b":2}}"#, r#"{"Format":{"b":2,"a":1}}"#),
        (r#"{"text":{"format":{"a":1,"b":2}}}"#, r#"{"text":{"format":{"b":2,"a":1}}}"#),
    ] {
        assert_ne!(of_request(left), of_request(right), "{left}");
    }
    assert_eq!(of_request(r#"{"a":1,"Stream":true}"#), of_request(r#"{"a":1}"#));
    // A form that Ollama cannot read is a part of the question, which it refuses.
    assert_ne!(of_request(r#"{"a":1,"stream":"yes"}"#), of_request(r#"{"a":1}"#));
    // Depth overflows no stack.
    let deep = |inner: &str| format!("{{\"a\":{}{inner}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    assert_ne!(of_request(&deep("1")), of_request(&deep("2")));
    assert_eq!(of_request(&deep("1")), of_request(&deep("1")));
}

#[test]
fn the_digests_of_a_model_count_once_each_and_in_any_order() {
    assert_eq!(digest_of(["a", "b", "a"]), digest_of(["b", "a"]));
    for (left, right) in
        [(&["a"][..], &["b"][..]), (&["a"], &["a", "b"]), (&[], &["a"]), (&["ab"], &["a", "b"])]
    {
        assert_ne!(digest_of(left.iter().copied()), digest_of(right.iter().copied()), "{left:?} {right:?}");
    }
}

#[test]
fn what_serves_one_form_alone_and_what_comes_later_has_a_key_of_its_own() {
    let (a, b) = (key("m", &["a"]), key("m", &["b"]));
    all_differ(&[
        ("both", a),
        ("a stream", a.in_form(Delivery::Stream)),
        ("a whole", a.in_form(Delivery::Whole)),
        ("later", a.later()),
        ("later still", a.later().later()),
        ("another", b),
        ("a stream of another", b.in_form(Delivery::Stream)),
    ]);
    assert_eq!(a.in_form(Delivery::Stream), key("m", &["a"]).in_form(Delivery::Stream));
}

#[test]
fn a_long_body_is_hashed_in_steps_and_its_key_stays_the_same() {
    let (text, escapes) = ("\u{20ac}".repeat(STEP), "\\u00e9".repeat(STEP / 2));
    let body =
        format!(r#"{{"model":"m","messages":["{text}","{escapes}",{}1]}}"#, "[7]   ,".repeat(STEP / 8));
    let members = Members::parse(body.as_bytes()).unwrap();
    let (key, broken) =
        pauses(async |pace: &mut Pace| CacheKey::of_request_in_steps(&HERE, &members, pace).await);
    assert_eq!(key, CacheKey::of_request(&HERE, &members));
    assert!(broken >= body.len() / STEP && broken <= 2 * body.len() / STEP, "{broken}");
    let messages = [&*text, &*text];
    let chat = question("m", &messages);
    let (key, broken) = pauses(async |pace: &mut Pace| CacheKey::of_chat_in_steps(&HERE, &chat, pace).await);
    assert_eq!((key, broken), (CacheKey::of_chat(&HERE, &chat), 7));
}

/// An upgrade must not forget what is stored.
#[test]
fn a_key_is_the_same_in_every_version() {
    let body = r#" {"b":[1.50,"a\u00e9\n\ud83d\ude00",{"":null}], "Model":"m","stream":true}"#;
    assert_eq!(of_request(body).to_hex(), "39a195f180c82fadba1fe376452faa5f79abcdbf3530f095e7606785dbf7f4ad");
    assert_eq!(
        key("m", &["hi", ""]).to_hex(),
        "14ae92e672f528a0769924f0f398e23555edeca49ed5db0e9df8b9ea93680ba2"
    );
}

proptest! {
    #[test]
    fn moving_a_boundary_between_neighbours_changes_the_key(
        text in "[a-z]{3,12}", cut: prop::sample::Index, further: prop::sample::Index,
    ) {
        // Two offsets in the text: the second is any of the others, counted on from the first and round the end.
        let places = text.len() - 1;
        let cut = cut.index(places);
        let (cut, other) = (1 + cut, 1 + (cut + 1 + further.index(places - 1)) % places);
        prop_assert_ne!(cut, other);
        let split = |at: usize| key("m", &[&text[..at], &text[at..]]);
        prop_assert_ne!(split(cut), split(other));
        let with_model = |at: usize| key(&text[..at], &[&text[at..]]);
        prop_assert_ne!(with_model(cut), with_model(other));
        let member = |at: usize| of_request(&format!(r#"{{"{}":"{}"}}"#, &text[..at], &text[at..]));
        prop_assert_ne!(member(cut), member(other));
    }

    #[test]
    fn equal_questions_alone_share_a_key(
        left in proptest::collection::vec("[ab\u{0}]{0,3}", 0..4),
        right in proptest::collection::vec("[ab\u{0}]{0,3}", 0..4),
    ) {
        let of = |texts: &[String]| {
            let messages: Vec<_> = texts.iter().map(String::as_str).collect();
            key("m", &messages)
        };
        prop_assert_eq!(of(&left) == of(&right), left == right);
    }

    #[test]
    fn equal_bodies_alone_share_a_key(
        left in proptest::collection::btree_map("[a-c]{1,2}", any::<(u8, bool)>(), 0..4),
        right in proptest::collection::btree_map("[a-c]{1,2}", any::<(u8, bool)>(), 0..4),
    ) {
        let body = |of: &std::collections::BTreeMap<String, (u8, bool)>| {
            serde_json::to_string(of).unwrap()
        };
        prop_assert_eq!(of_request(&body(&left)) == of_request(&body(&right)), left == right);
    }
}

#[test]
fn whatever_a_client_calls_a_model_its_epoch_has_a_name_of_bounded_length() {
    for (model, name) in [
        ("Llama3.2", "llama3.2:latest"),
        ("", UNNAMED),
        ("no such name", UNNAMED),
        (&"x".repeat(1 << 20), UNNAMED),
        (&"x".repeat(80), &format!("{}:latest", "x".repeat(80))),
    ] {
        assert_eq!(epoch_name(model), name, "{model:.40}");
    }
}
