//! A session as Markdown, for people to read: messages by role, tool calls and their results. Pure: it must never read
//! the store.

use std::fmt::Write as _;

use crate::{session::Session, wire::markdown};

/// The whole session: its system message, then each message under its role. A turn's new system message is written
/// before that turn.
pub(crate) fn markdown(session: &Session) -> String {
    let mut text = String::from("# Session\n");
    if let Some(model) = &session.head.model {
        // Writing into a string cannot fail.
        let _ = write!(text, "\nModel: {model}\n");
    }
    let mut told = None;
    // If no kept turn has a system message, the current one applied to all kept turns.
    let is_told_later = session.turns.iter().any(|turn| turn.system.is_some());
    let first = if is_told_later { session.head.system.as_deref() } else { session.system() };
    let systems = session.turns.iter().map(|turn| turn.system.as_deref());
    let turns = session.turns.iter().map(|turn| &*turn.messages);
    for (system, messages) in [(first, &[][..])].into_iter().chain(systems.zip(turns)) {
        if let Some(system) = system.filter(|system| told != Some(*system)) {
            let _ = write!(text, "\n## System\n\n{}\n", system.trim_end());
            told = Some(system);
        }
        for message in messages {
            markdown::write(&mut text, message.as_raw());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, value::to_raw_value};

    use super::*;
    use crate::session::{Dialect, RawMessage, SessionHead, Turn};

    fn turn(dialect: Dialect, system: Option<&str>, messages: &[Value]) -> Turn {
        let raw = |message| RawMessage::from(to_raw_value(message).unwrap());
        Turn {
            id: "1".into(),
            dialect,
            system: system.map(str::to_owned),
            messages: messages.iter().map(raw).collect(),
            prompt: None,
        }
    }

    #[test]
    fn everything_that_was_said_stands_under_its_role() {
        let call = json!({"role": "assistant", "content": "", "tool_calls":
            [{"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Bonn\"}"}}]});
        let session = Session {
            head: SessionHead {
                system: Some("be brief\n".into()),
                model: Some("m:1b".into()),
                ..SessionHead::default()
            },
            turns: vec![
                turn(
                    Dialect::OpenAi,
                    Some("be brief\n"),
                    &[json!({"role": "user", "content": "And the *weather*?"}), call],
                ),
                turn(
                    Dialect::OpenAi,
                    Some("be long"),
                    &[
                        json!({"role": "tool", "tool_call_id": "call_1", "content": "sunny\n```\n"}),
                        json!({"role": "assistant", "reasoning": "hm\nwell", "content": "Sunny."}),
                    ],
                ),
                turn(
                    Dialect::Ollama,
                    None,
                    &[json!({"role": "user", "content": "look", "images": ["/9j/AAAA", "iVBORw=="]})],
                ),
            ],
            ..Session::default()
        };
        let expected = "\
# Session

Model: m:1b

## System

be brief

## User

And the *weather*?

## Assistant

Calls `weather` (call_1):

```json
{\"city\":\"Bonn\"}
```

## System

be long

## Tool (call_1)

````
sunny
```
````

## Assistant

> hm
> well

Sunny.

## User

look

*Image: image/jpeg, 6 bytes*

*Image: image/png, 4 bytes*
";
        assert_eq!(markdown(&session), expected);
    }

    #[test]
    fn a_session_without_turns_is_its_heading() {
        assert_eq!(markdown(&Session::default()), "# Session\n");
    }
}
