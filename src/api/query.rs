//! The parameters of a URL's query.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The decoded value of a parameter; of several the first one.
pub(crate) fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, str>> {
    let mut pairs = query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    Some(percent_decode_str(value).decode_utf8_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_found_by_its_name_and_decoded() {
        for (query, value) in [
            (None, None),
            (Some("model=a"), Some("a")),
            (Some("x=1&model=a%2Fb%3Ac&model=d"), Some("a/b:c")),
            (Some("model"), Some("")),
            (Some("models=a"), None),
        ] {
            assert_eq!(parameter(query, "model").as_deref(), value, "{query:?}");
        }
    }
}
