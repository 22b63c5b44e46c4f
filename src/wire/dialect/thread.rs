//! Converts a conversation message by message, and matches results of tools with their calls.
//!
//! Dialects refer to a call by its id, by the tool's name, or by its position. The conversion adds the reference that
//! the target dialect needs, and changes no text.

use std::borrow::Cow;

use super::{Dialect, Message, MessageRole, RawMessage, read, role, write};

/// The state of a conversion: the calls seen so far.
#[derive(Debug, Default)]
pub(crate) struct Thread {
    /// The newest calls that have no result yet.
    calls: Vec<Awaited>,
}

#[derive(Debug)]
struct Awaited {
    id: Option<String>,
    name: String,
    /// The index of the call among the calls of its message.
    position: usize,
}

impl Thread {
    /// Converts the next message. One message becomes several when it holds several results of tools.
    ///
    /// User and assistant messages keep text, images, thinking and tool calls; results of tools keep their call ids. An
    /// unknown role becomes `user`. Several text parts become one text, and signatures of thinking are dropped. A call
    /// without an id gets one made from its index where the target dialect requires ids.
    pub(crate) fn convert(&mut self, message: &RawMessage, from: Dialect, to: Dialect) -> Vec<RawMessage> {
        let role = role(message.as_raw());
        if role == MessageRole::Assistant {
            let calls = read::read(message.as_raw()).calls.into_owned().into_iter().enumerate();
            self.calls =
                calls.map(|(position, call)| Awaited { id: call.id, name: call.name, position }).collect();
        }
        if from == to && role != MessageRole::Tool {
            return vec![message.clone()];
        }
        let mut said = read::results(message.as_raw());
        for result in said.iter_mut().filter(|said| said.role == MessageRole::Tool) {
            self.find_call(result, to);
        }
        if from == to {
            return vec![message.clone()];
        }
        said.iter().map(|said| write(said, to).into()).collect()
    }

    /// Finds the call that `result` belongs to, and adds its id and name.
    fn find_call(&mut self, result: &mut Message<'_>, to: Dialect) {
        let is_called = |call: &Awaited| match (&result.call_id, &result.tool_name) {
            (Some(id), _) => call.id.as_deref() == Some(id),
            (None, Some(name)) => call.name == **name,
            (None, None) => true,
        };
        let Some(found) = self.calls.iter().position(is_called) else { return };
        let Awaited { id, name, position } = self.calls.remove(found);
        // Ollama needs no ids.
        let id = id.or_else(|| (to != Dialect::Ollama).then(|| format!("call_{position}")));
        result.call_id = result.call_id.take().or_else(|| id.map(Cow::Owned));
        result.tool_name = result.tool_name.take().or(Some(Cow::Owned(name)));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    #[track_caller]
    fn check(messages: &[&str], from: Dialect, to: Dialect, expected: &[&str]) {
        let mut thread = Thread::default();
        let raw = |json: &&str| RawMessage::from(RawValue::from_string((*json).to_owned()).unwrap());
        let found: Vec<_> =
            messages.iter().map(raw).flat_map(|message| thread.convert(&message, from, to)).collect();
        let found: Vec<_> = found.iter().map(RawMessage::as_str).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn results_that_go_by_name_or_place_get_the_ids_of_their_calls() {
        let calls = r#"{"role":"assistant","content":"","tool_calls":[{"id":"a","function":{"name":"f","arguments":{}}},{"function":{"name":"g","arguments":{}}}]}"#;
        check(
            &[
                calls,
                r#"{"role":"tool","tool_name":"g","content":"1"}"#,
                r#"{"role":"tool","content":"2"}"#,
                r#"{"role":"tool","content":"3"}"#,
            ],
            Dialect::Ollama,
            Dialect::OpenAi,
            &[
                r#"{"role":"assistant","content":"","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}},{"id":"call_1","type":"function","function":{"name":"g","arguments":"{}"}}]}"#,
                r#"{"role":"tool","content":"1","tool_call_id":"call_1","name":"g"}"#,
                r#"{"role":"tool","content":"2","tool_call_id":"a","name":"f"}"#,
                r#"{"role":"tool","content":"3","tool_call_id":"call_0"}"#,
            ],
        );
    }

    #[test]
    fn results_that_go_by_id_get_the_names_of_their_calls_and_stay_apart() {
        let calls = r#"{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"f","input":{}},{"type":"tool_use","id":"b","name":"g","input":{}}]}"#;
        let results = r#"{"role":"user","content":[{"type":"tool_result","tool_use_id":"b","content":"1"},{"type":"text","text":"so?"},{"type":"tool_result","tool_use_id":"a","content":[{"type":"text","text":"2"}]}]}"#;
        check(
            &[calls, results],
            Dialect::Anthropic,
            Dialect::Ollama,
            &[
                r#"{"role":"assistant","content":"","tool_calls":[{"id":"a","function":{"index":0,"name":"f","arguments":{}}},{"id":"b","function":{"index":1,"name":"g","arguments":{}}}]}"#,
                r#"{"role":"tool","content":"1","tool_name":"g","tool_call_id":"b"}"#,
                r#"{"role":"tool","content":"2","tool_name":"f","tool_call_id":"a"}"#,
                r#"{"role":"user","content":"so?"}"#,
            ],
        );
        check(&[calls, results], Dialect::Anthropic, Dialect::Anthropic, &[calls, results]);
    }
}
