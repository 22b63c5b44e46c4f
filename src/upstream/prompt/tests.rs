//! What of a request's body is its prompt.

use super::*;
use crate::wire::pace::at_once;

fn read(body: &str) -> Option<Prefixes> {
    at_once(prefixes(body.as_bytes(), &mut Pace::unbroken()))
}

#[test]
fn the_same_conversation_is_the_same_prompt_whatever_else_a_request_says() {
    let message = r#"{"role":"user","content":[{"type":"text","text":"a"}]}"#;
    let marked = r#"{"role":"user","content":[{"type":"text","text":"a","cache_control":{"type":"ephemeral","ttl":"5m"}}]}"#;
    let marked_first =
        r#"{"role":"user","content":[{"cache_control":{"type":"ephemeral"},"type":"text","text":"a"}]}"#;
    let unmarked = r#"{"role":"user","content":[{"type":"text","text":"a","cache_control":null}]}"#;
    let expected = read(&format!(r#"{{"model":"m","system":"s","messages":[{message}]}}"#)).unwrap();
    for message in [marked, marked_first, unmarked] {
        let body = format!(r#"{{"messages":[{message}],"stream":true,"system":"s","model":"n"}}"#);
        assert_eq!(read(&body).unwrap(), expected, "{body}");
    }
}

#[test]
fn all_turns_of_a_conversation_open_alike_and_others_differently() {
    let opening = |body: &str| read(body).unwrap().opening();
    let body = |system, tools, said| {
        opening(&format!(
            r#"{{"messages":[{{"role":"system","content":"{system}"}},{{"role":"user","content":"{said}"}}],"tools":[{tools}]}}"#
        ))
    };
    let first = body("s", "{}", "a");
    let later = r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"a"},
        {"role":"assistant","content":"b"},{"role":"user","content":"c"}],"tools":[{}]}"#;
    assert_eq!(opening(later), first);
    for other in [body("t", "{}", "a"), body("s", "{},{}", "a"), body("s", "{}", "b")] {
        assert_ne!(other, first);
    }
    let text = "x y ".repeat(300);
    let generate = |prompt: &str| opening(&format!(r#"{{"system":"s","prompt":"{prompt}"}}"#));
    assert_eq!(generate(&format!("{text} and on")), generate(&text));
}

#[test]
fn what_has_no_prompt_has_no_beginnings() {
    for body in ["", "{}", "[]", "no JSON", r#"{"messages":null}"#] {
        assert_eq!(read(body), None, "{body}");
    }
}
