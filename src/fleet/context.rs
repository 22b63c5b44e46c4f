//! The context length of a model, read from a host's answer to `/api/show`.
//!
//! A host's answer may be malformed; what is not understood is left out.

use crate::wire::members::Members;

/// The context length of a model, in tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Context {
    /// The length that the Modelfile sets (`num_ctx`).
    pub set: Option<u64>,
    /// The length that the model was trained with; Ollama never loads it with more.
    pub longest: Option<u64>,
}

impl Context {
    /// Reads an answer to `/api/show`; `None` when it is no JSON object.
    pub(crate) fn read(shown: &[u8]) -> Option<Self> {
        let shown = Members::parse(shown)?;
        let set = shown.string("parameters").and_then(|parameters| parameters.lines().find_map(num_ctx));
        let longest = shown.object("model_info").and_then(|info| {
            let architecture = info.string("general.architecture")?;
            info.number(&format!("{architecture}.context_length")).filter(|length| *length > 0)
        });
        Some(Self { set, longest })
    }
}

/// The length in a line such as `num_ctx                        8192`. From a million on, Ollama writes it with an
/// exponent.
fn num_ctx(line: &str) -> Option<u64> {
    let value = line.trim_start().strip_prefix("num_ctx")?;
    let number: f64 = value.strip_prefix(char::is_whitespace)?.trim().parse().ok()?;
    // Lengths that no model has are ignored.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "its bounds are checked")]
    (1.0..=1e12).contains(&number).then_some(number as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(shown: &str, set: Option<u64>, longest: Option<u64>) {
        assert_eq!(Context::read(shown.as_bytes()), Some(Context { set, longest }), "{shown}");
    }

    #[test]
    fn the_context_is_the_modelfiles_and_the_longest_is_the_architectures() {
        let recorded = r#"{"parameters":"seed                           1\nstop                           \"num_ctx 5\"\nnum_ctx                        2048",
            "model_info":{"general.architecture":"llama","gemma.context_length":1,"llama.context_length":8192}}"#;
        check(recorded, Some(2048), Some(8192));
        check(r#"{"parameters":"num_ctx 1.048576e+06\nstop \"x\""}"#, Some(1_048_576), None);
        check(
            r#"{"model_info":{"general.architecture":"llama","llama.context_length":131072}}"#,
            None,
            Some(131_072),
        );
    }

    #[test]
    fn what_is_not_understood_is_left_out() {
        for shown in [
            "{}",
            r#"{"parameters":"num_ctx_x 5\nnum_ctx\nnum_ctx -1\nnum_ctx many\nnum_ctx 1e300\nnum_ctx NaN","model_info":null}"#,
            r#"{"parameters":5,"model_info":{"llama.context_length":8192}}"#,
            r#"{"model_info":{"general.architecture":"llama","llama.context_length":0}}"#,
        ] {
            check(shown, None, None);
        }
        for shown in ["", "[]", "<html>"] {
            assert_eq!(Context::read(shown.as_bytes()), None, "{shown}");
        }
    }
}
