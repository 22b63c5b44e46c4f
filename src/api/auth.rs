//! Who sent a request: API keys, and the caller id that separates one caller's cache and sessions from another's.
//!
//! Credentials are hashed at once; neither a credential nor its hash may reach a log, a label or a reply.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::error::Error;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const API_KEY: HeaderName = HeaderName::from_static("api-key");

/// The part of every cache key and session key that identifies the caller.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CallerId([u8; 32]);

impl std::fmt::Debug for CallerId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("CallerId(..)")
    }
}

impl CallerId {
    /// The caller id of all requests without a credential.
    pub fn public() -> Self {
        Self(Sha256::digest(b"public").into())
    }

    /// The caller id of a request: SHA-256 of `Authorization`, else of `x-api-key`, else of `api-key`, else
    /// [`CallerId::public`]. With `trusted` only that header counts.
    ///
    /// # Errors
    /// [`Error::AmbiguousCaller`] when the trusted header occurs more than once: behind a proxy that appends instead of
    /// replacing it, clients could choose their caller id.
    pub(crate) fn of(headers: &HeaderMap, trusted: Option<&HeaderName>) -> Result<Self, Error> {
        if let Some(name) = trusted {
            let mut values = headers.get_all(name).iter();
            return match (values.next(), values.next()) {
                (None, _) => Ok(Self::public()),
                (Some(value), None) => Ok(Self::named(value)),
                (Some(_), Some(_)) => Err(Error::AmbiguousCaller),
            };
        }
        let credential = [header::AUTHORIZATION, X_API_KEY, API_KEY]
            .iter()
            .find_map(|name| headers.get(name).filter(|value| !value.is_empty()));
        Ok(credential.map_or_else(Self::public, Self::named))
    }

    fn named(value: &HeaderValue) -> Self {
        Self(Sha256::digest(value.as_bytes()).into())
    }

    /// The 256 bits that are hashed into keys.
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The API keys; an empty list opens the service to everybody.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ApiKeys(Vec<[u8; 32]>);

impl std::fmt::Debug for ApiKeys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "ApiKeys({})", self.0.len())
    }
}

impl ApiKeys {
    /// The keys of a comma-separated list; white space around a key and empty entries are ignored.
    pub fn parse(list: &str) -> Self {
        let keys = list.split(',').map(str::trim).filter(|key| !key.is_empty());
        Self(keys.map(|key| Sha256::digest(key).into()).collect())
    }

    /// Whether the list is empty, so that no key is needed.
    pub fn is_open(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks that the request has one of the keys.
    ///
    /// # Errors
    /// [`Error::Unauthorized`] when keys are set and the request has none of them.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), Error> {
        if self.is_open() || self.is_held(headers) { Ok(()) } else { Err(Error::Unauthorized) }
    }

    /// Whether the request has one of the keys; `false` when the list is empty.
    ///
    /// Digests are compared in constant time, and always all of them, so that the duration reveals nothing.
    pub(crate) fn is_held(&self, headers: &HeaderMap) -> bool {
        let bearer = headers.get(header::AUTHORIZATION).and_then(bearer_token);
        let plain = [X_API_KEY, API_KEY].into_iter().filter_map(|name| headers.get(name));
        let mut known = Choice::from(0);
        for sent in bearer.into_iter().chain(plain.map(HeaderValue::as_bytes)) {
            let digest: [u8; 32] = Sha256::digest(sent).into();
            for key in &self.0 {
                known |= key.ct_eq(&digest);
            }
        }
        known.into()
    }
}

fn bearer_token(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn the_first_credential_in_the_documented_order_names_the_caller() {
        let of = |pairs| CallerId::of(&headers(pairs), None).unwrap();
        let bearer = of(&[("authorization", "Bearer a")]);
        assert_eq!(of(&[("authorization", "Bearer a"), ("x-api-key", "b")]), bearer);
        assert_ne!(of(&[("x-api-key", "b")]), bearer);
        assert_eq!(of(&[("x-api-key", "b"), ("api-key", "c")]), of(&[("x-api-key", "b")]));
        assert_ne!(of(&[("api-key", "c")]), of(&[("x-api-key", "b")]));
        assert_eq!(of(&[]), CallerId::public());
        assert_eq!(of(&[("authorization", "")]), CallerId::public());
        assert_eq!(bearer.as_bytes()[..], Sha256::digest("Bearer a")[..]);
    }

    #[test]
    fn a_trusted_header_replaces_credentials_and_must_be_unique() {
        let trusted = HeaderName::from_static("x-user");
        let of = |pairs| CallerId::of(&headers(pairs), Some(&trusted));
        assert_eq!(
            of(&[("x-user", "ann"), ("authorization", "x")]),
            of(&[("x-user", "ann"), ("authorization", "y")])
        );
        assert_eq!(of(&[("authorization", "x")]).unwrap(), CallerId::public());
        let mut twice = headers(&[("x-user", "ann")]);
        twice.append("x-user", HeaderValue::from_static("bob"));
        assert_eq!(CallerId::of(&twice, Some(&trusted)), Err(Error::AmbiguousCaller));
    }

    #[test]
    fn any_of_the_keys_opens_in_any_of_the_three_headers() {
        let keys = ApiKeys::parse("alpha, beta,");
        for (pairs, opens) in [
            (&[("authorization", "Bearer alpha")][..], true),
            (&[("authorization", "bearer beta")], true),
            (&[("x-api-key", "beta")], true),
            (&[("api-key", "alpha")], true),
            (&[("authorization", "Bearer other"), ("x-api-key", "alpha")], true),
            (&[("authorization", "alpha")], false),
            (&[("x-api-key", "")], false),
            (&[("x-api-key", "alph")], false),
            (&[], false),
        ] {
            assert_eq!(keys.check(&headers(pairs)).is_ok(), opens, "{pairs:?}");
        }
        assert!(ApiKeys::parse(" , ").check(&headers(&[])).is_ok());
    }
}
