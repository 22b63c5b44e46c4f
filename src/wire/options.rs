//! The options of a request on Ollama's own endpoints.
//!
//! In Ollama they are a map of their own: the spelling of a name counts, a repeated map is merged into the first, and a
//! `null` in place of the map empties it (`api/types.go`, `Options map[string]any` and `FromMap`). Nothing is kept of
//! options that Paddock does not read.

use serde_json::value::RawValue;

use super::members::{self, Members};

/// The options that Paddock reads.
const NAMES: [&str; 10] = [
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "use_mmap",
    "num_thread",
    "draft_num_predict",
    "num_predict",
    "seed",
    "temperature",
];

/// The options of one request.
#[derive(Debug, Default)]
pub(crate) struct Options<'a>([Option<&'a RawValue>; NAMES.len()]);

impl<'a> Options<'a> {
    /// The options of a request.
    pub(crate) fn of(request: &Members<'a>) -> Self {
        let mut options = Self::default();
        for map in request.all("options") {
            if map.get() == "null" {
                options = Self::default();
            }
            members::each_member(map, |name, value| {
                let place = NAMES.iter().zip(&mut options.0).find(|(known, _)| **known == name);
                if let Some((_, place)) = place {
                    *place = Some(value);
                }
            });
        }
        options
    }

    /// The value of an option; `null` counts as absent.
    fn raw(&self, name: &str) -> Option<&'a RawValue> {
        let (_, value) = NAMES.iter().zip(&self.0).find(|(known, _)| **known == name)?;
        value.filter(|value| value.get() != "null")
    }

    /// The value of an option that is a number.
    pub(crate) fn number(&self, name: &str) -> Option<f64> {
        self.raw(name)?.get().parse().ok()
    }

    /// The value of an option that is a number, without its fraction: Ollama reads a whole option as a float first, so
    /// that `2048`, `2048.0` and `2.048e3` are one. A number beyond 64 bits is the nearest of 64 bits.
    pub(crate) fn whole(&self, name: &str) -> Option<i64> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the fraction is dropped, and the range saturates"
        )]
        self.number(name).map(|number| number as i64)
    }

    /// The value of an option that is `true` or `false`.
    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        self.raw(name)?.get().parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_a_map_that_is_merged_and_emptied_and_whose_names_are_spelled_right() {
        for (body, context, seed) in [
            (r#"{"options":{"num_ctx":2048}}"#, Some(2048), None),
            (r#"{"Options":{"num_ctx":2.048e3,"seed":1.9}}"#, Some(2048), Some(1)),
            (r#"{"options":{"NUM_CTX":2048,"\u0073eed":-1}}"#, None, Some(-1)),
            (r#"{"options":{"num_ctx":1},"OPTIONS":{"seed":2}}"#, Some(1), Some(2)),
            (r#"{"options":{"num_ctx":1},"options":{"num_ctx":2}}"#, Some(2), None),
            (r#"{"options":{"num_ctx":1},"options":{"num_ctx":null}}"#, None, None),
            (r#"{"options":{"num_ctx":1},"options":null,"options":{"seed":3}}"#, None, Some(3)),
            (r#"{"options":{"num_ctx":"1","seed":[1]}}"#, None, None),
            (r#"{"options":[{"seed":1}]}"#, None, None),
            (r#"{"options":{"seed":1e300}}"#, None, Some(i64::MAX)),
            ("{}", None, None),
        ] {
            let members = Members::parse(body.as_bytes()).unwrap();
            let options = Options::of(&members);
            assert_eq!((options.whole("num_ctx"), options.whole("seed")), (context, seed), "{body}");
        }
        let members = Members::parse(br#"{"options":{"use_mmap":false,"temperature":0.5}}"#).unwrap();
        let options = Options::of(&members);
        assert_eq!((options.flag("use_mmap"), options.number("temperature")), (Some(false), Some(0.5)));
    }
}
