use proptest::prelude::*;

use super::*;
use crate::wire::pace::{at_once, tests::pauses};

fn of_request(body: &[u8]) -> Result<Option<Members<'_>>, TooManyMembers> {
    at_once(Members::of_request(body, &mut Pace::unbroken()))
}

fn inserted(body: &[u8], insertions: Vec<(usize, &[u8])>) -> Bytes {
    at_once(insert(body, insertions, &mut Pace::unbroken()))
}

fn members(body: &str) -> Members<'_> {
    Members::parse(body.as_bytes()).unwrap()
}

#[test]
fn only_one_whole_object_in_utf_8_has_members() {
    for body in [
        "",
        "[]",
        "1",
        "null",
        "{",
        "{}{}",
        "{} x",
        "{\"a\":}",
        "{\"a\":1,}",
        "\"{}\"",
        "{1:2}",
        "{\u{c}}",
        "{,}",
        "{\"a\" 1}",
    ] {
        assert!(Members::parse(body.as_bytes()).is_none(), "{body}");
    }
    assert!(Members::parse(b"{\"a\":\"\xff\"}").is_none());
    assert!(Members::parse(b" \r\n{} \n").is_some());
}

#[test]
fn names_match_without_case_and_the_last_one_wins() {
    let body =
        members(r#"{"Model":"a","mo\u0064EL":"b","stream":true,"stream":null,"\u017fEED":7,"thinK":1}"#);
    assert_eq!(body.string("model").as_deref(), Some("b"));
    assert!(body.raw("stream").is_none());
    assert_eq!(body.number("seed"), Some(7));
    assert_eq!(body.number("think"), Some(1));
    assert!(body.raw("mode").is_none());
}

#[test]
fn a_later_null_leaves_a_string_and_takes_anything_else_away() {
    let members = Members::parse(br#"{"a":"x","A":null,"b":true,"b":null,"c":null,"d":1,"d":"y"}"#).unwrap();
    assert_eq!((members.string("a").as_deref(), members.raw("a").is_none()), (Some("x"), true));
    assert_eq!((members.boolean("b"), members.flag("b"), members.string("c")), (None, Some(true), None));
    assert_eq!((members.string("d").as_deref(), members.number("d")), (Some("y"), None));
    assert!(members.has("c") && members.has("C") && !members.has("e"));
}

#[test]
fn values_are_read_by_their_type_alone() {
    let body = members(
        r#"{"s":"plain","e":"a\n\u00e9\ud83d","t":true,"n":19,"a":[1,{"b":2}],"o":{"x":"y"},"f":1.5}"#,
    );
    assert!(matches!(body.string("s"), Some(Cow::Borrowed("plain"))));
    assert!(body.string("e").unwrap().starts_with("a\né\u{fffd}"));
    assert_eq!(body.boolean("t"), Some(true));
    assert_eq!(body.number("n"), Some(19));
    let array: Vec<_> = body.array("a").unwrap().iter().map(|value| value.get()).collect();
    assert_eq!(array, ["1", "{\"b\":2}"]);
    assert_eq!(body.object("o").unwrap().string("x").as_deref(), Some("y"));
    assert!(body.string("n").is_none() && body.boolean("s").is_none() && body.number("f").is_none());
    assert!(body.array("o").is_none() && body.object("a").is_none() && body.string("absent").is_none());
    assert!(!format!("{body:?}").contains("plain"));
}

#[test]
fn escapes_are_read_as_go_reads_them() {
    for (json, text) in [
        (r#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{c}\n\r\t"),
        (r#""\u0041\uD83E\uDD99!""#, "A🦙!"),
        (r#""\ud83ex\ude00\ud83e\u0041\\u0041""#, "\u{fffd}x\u{fffd}\u{fffd}A\\u0041"),
        (r#""é\u00e9""#, "éé"),
    ] {
        let value = RawValue::from_string(json.to_owned()).unwrap();
        assert_eq!(string(&value).as_deref(), Some(text), "{json}");
    }
    for json in [r#"{"a":"\x"}"#, r#"{"a":"\u12"}"#, "{\"a\":\"\n\"}"] {
        assert!(Members::parse(json.as_bytes()).is_none(), "{json}");
    }
}

#[test]
fn what_follows_the_object_of_a_request_is_not_looked_at() {
    for rest in ["", " \n", "}", "{\"model\":\"b\"}", "\0", "x", ",", "]"] {
        let body = format!(" {{\"model\" :\"a\"}}{rest}");
        let members = of_request(body.as_bytes()).unwrap().unwrap();
        assert_eq!((members.string("model").as_deref(), members.end()), (Some("a"), 14), "{body}");
    }
    let members = of_request(b"{\"a\":1}\xff").unwrap().unwrap();
    assert_eq!((members.number("a"), members.end()), (Some(1), 6));
    for body in ["", "[{}]", "null", "\"{}\"", "}{}", "{\"a\"", "\u{feff}{}"] {
        assert!(of_request(body.as_bytes()).unwrap().is_none(), "{body}");
    }
    let many = |count| format!("{{{}}}", vec!["\"\":0"; count].join(","));
    assert!(of_request(many(MEMBERS_LIMIT).as_bytes()).unwrap().is_some());
    let more = many(MEMBERS_LIMIT + 1);
    assert_eq!(of_request(more.as_bytes()).err(), Some(TooManyMembers));
}

#[test]
fn an_offset_is_where_the_value_starts() {
    let text = " { \"messages\" : [ {\"role\":\"user\"} ,2] } ";
    let body = members(text);
    let messages = body.array("messages").unwrap();
    assert_eq!(body.offset(messages[0]), text.find("{\"role"));
    assert_eq!(body.offset(messages[1]), text.find('2'));
    assert_eq!(body.offset(body.raw("messages").unwrap()), text.find('['));
    let elsewhere = RawValue::from_string(format!("\"{}\"", "x".repeat(100))).unwrap();
    let other = members(text);
    assert_eq!(other.offset(&elsewhere), None);
}

#[test]
fn insertions_keep_their_order_and_the_end_is_the_last_place() {
    assert_eq!(inserted(b"abc", vec![]), "abc");
    assert_eq!(inserted(b"abc", vec![(1, b"1")]), "a1bc");
    assert_eq!(inserted(b"abc", vec![(3, b"3"), (0, b"x"), (9, b"9"), (0, b"y")]), "xyabc39");
}

#[test]
fn a_long_object_is_read_and_grows_in_steps() {
    let text = "x".repeat(STEP / 2 - 10);
    let body = format!(
        "{{\"a\":[{}],{}}}",
        vec![format!("\"{text}\""); 8].join(","),
        vec![format!("\"{text}\":0"); 8].join(",")
    );
    let (members, broken) = pauses(async |pace: &mut Pace| Members::of_request(body.as_bytes(), pace).await);
    let members = members.unwrap().unwrap();
    assert_eq!(members.list.len(), 9);
    assert!(broken >= 4, "{broken}");
    let (elements, broken) = pauses(async |pace: &mut Pace| members.array_in_steps("a", pace).await);
    assert_eq!((elements.map(|elements| elements.len()), broken), (Some(8), 3));
    assert_eq!(members.array("a").map(|elements| elements.len()), Some(8));
    let (longer, broken) =
        pauses(async |pace: &mut Pace| insert(body.as_bytes(), vec![(1, b" ")], pace).await);
    assert_eq!((longer.len(), broken >= 7), (body.len() + 1, true));
    let (whole, _) =
        pauses(async |pace: &mut Pace| Members::parse_in_steps(body.as_bytes(), pace).await.is_some());
    assert!(whole);
    let (more, _) = pauses(async |pace: &mut Pace| Members::parse_in_steps(b"{}{}", pace).await.is_none());
    assert!(more);
}

proptest! {
    #[test]
    fn offsets_and_insertions_leave_every_other_byte(
        names in proptest::collection::vec("[a-zé\"\\\\]{0,4}", 1..6),
        space in "[ \n\t]{0,3}",
        text in "\\PC{0,12}",
        pick in any::<prop::sample::Index>(),
    ) {
        let value = serde_json::to_string(&text).unwrap();
        let list: Vec<_> = names
            .iter()
            .map(|name| format!("{space}{}{space}:{space}{value}{space}", serde_json::to_string(name).unwrap()))
            .collect();
        let body = format!("{space}{{{}}}{space}", list.join(","));
        let members = members(&body);
        prop_assert_eq!(members.list.len(), names.len());
        let raw = members.raw(&names[pick.index(names.len())]).unwrap();
        prop_assert_eq!(string(raw).unwrap(), text.as_str());
        let at = members.offset(raw).unwrap();
        prop_assert!(body[at..].starts_with(&value));
        let longer = inserted(body.as_bytes(), vec![(at, b"[1,"), (at + value.len(), b"]")]);
        let after = &body[at + value.len()..];
        prop_assert_eq!(longer, format!("{}[1,{value}]{after}", &body[..at]));
    }
}
