//! Who sent a request: API keys, the admin token, and the caller id that separates one caller's cache and sessions from
//! another's.
//!
//! Credentials are hashed at once; neither a credential nor its hash may reach a log, a label or a reply.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::error::Error;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const API_KEY: HeaderName = HeaderName::from_static("api-key");
/// What is hashed before a key. Clients that send a key as a Bearer token had this caller id before keys named the caller.
const KEY: &[u8] = b"Bearer ";
/// What is hashed before a caller id to name the owner of a share.
const OWNER: &[u8] = b"paddock owner 1\0";
/// What is hashed before the value of the trusted header, so that no credential gives the same caller id.
const TRUSTED: &[u8] = b"paddock caller header 1\0";

/// The part of every cache key and session key that identifies the caller.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CallerId {
    id: [u8; 32],
    /// Whether the service or the proxy before it knows the caller, so that nobody else can name it, or make one up.
    is_verified: bool,
}

/// Whose share of a pool (sessions, cached answers, the queue) something counts to: a verified caller's own one, or the one
/// that all callers have together whom nobody verified, because whoever makes up callers must not get a share for each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner([u8; 16]);

impl Owner {
    /// The share of all callers whom nobody verified.
    pub const UNVERIFIED: Self = Self([0; 16]);

    /// The owner that [`Owner::as_bytes`] told.
    pub fn of_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 128 bits of the owner.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl std::fmt::Debug for CallerId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("CallerId(..)")
    }
}

impl CallerId {
    /// The caller id of all requests without a credential.
    pub fn public() -> Self {
        Self { id: Sha256::digest(b"public").into(), is_verified: false }
    }

    /// The caller id of a request. With `trusted` only that header counts. Else it is that of the key that opened the
    /// service, `opened_by`, whichever header held it. Else it is that of the credential: `Authorization`, else
    /// `x-api-key`, else `api-key`, else [`CallerId::public`].
    ///
    /// # Errors
    /// [`Error::AmbiguousCaller`] when the trusted header is empty, or occurs more than once: behind a proxy that appends
    /// instead of replacing it, clients could choose their caller id.
    pub(crate) fn of(
        headers: &HeaderMap,
        trusted: Option<&HeaderName>,
        opened_by: Option<Self>,
    ) -> Result<Self, Error> {
        if let Some(name) = trusted {
            let mut values = headers.get_all(name).iter();
            return match (values.next(), values.next()) {
                (None, _) => Ok(Self::public()),
                (Some(value), None) if !value.as_bytes().trim_ascii().is_empty() => {
                    Ok(Self::of_parts(&[TRUSTED, value.as_bytes().trim_ascii()]).verified())
                }
                (Some(_), _) => Err(Error::AmbiguousCaller),
            };
        }
        if let Some(caller) = opened_by {
            return Ok(caller);
        }
        if let Some(value) = headers.get(header::AUTHORIZATION).filter(|value| !value.is_empty()) {
            return Ok(Self::of_authorization(value));
        }
        let plain =
            [X_API_KEY, API_KEY].iter().filter_map(|name| headers.get(name)).find(|value| !value.is_empty());
        Ok(plain.map_or_else(Self::public, |value| Self::of_parts(&[value.as_bytes().trim_ascii()])))
    }

    /// The caller id of whoever sends the key, in whichever header.
    pub fn of_key(key: &[u8]) -> Self {
        Self::of_parts(&[KEY, key]).verified()
    }

    fn verified(self) -> Self {
        Self { is_verified: true, ..self }
    }

    /// Whose share the caller uses.
    pub fn owner(&self) -> Owner {
        if !self.is_verified {
            return Owner::UNVERIFIED;
        }
        // Hashed once more: owners are stored, and no store may hold what a credential hashes to.
        let digest = Sha256::new().chain_update(OWNER).chain_update(self.id).finalize();
        Owner(digest.first_chunk().copied().unwrap_or_default())
    }

    /// The caller id of a credential. The case of its scheme and the blanks around it do not count (RFC 9110, section
    /// 11.4), so the scheme is hashed as it is usually written.
    fn of_authorization(value: &HeaderValue) -> Self {
        let value = value.as_bytes().trim_ascii();
        let Some(blank) = value.iter().position(|byte| *byte == b' ') else {
            return Self::of_parts(&[value]);
        };
        let (scheme, credential) = value.split_at(blank);
        // Nearly every client writes `Bearer`, for which nothing is allocated.
        let usual = match scheme {
            b"Bearer" | b"Basic" => Cow::Borrowed(scheme),
            _ => {
                let mut usual = scheme.to_ascii_lowercase();
                usual.iter_mut().take(1).for_each(u8::make_ascii_uppercase);
                Cow::Owned(usual)
            }
        };
        Self::of_parts(&[&usual, b" ", credential.trim_ascii()])
    }

    fn of_parts(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(part);
        }
        Self { id: hash.finalize().into(), is_verified: false }
    }

    /// The 256 bits that are hashed into keys.
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.id
    }
}

/// What a key is sent for, which decides where a request may carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyUse {
    /// To ask: as a Bearer token, in `x-api-key` or `api-key`, or as the password of HTTP Basic.
    Ask,
    /// To delete, or to change models: as to ask, but never as a password, because a browser that knows a password sends
    /// it with whatever a page asks for.
    Change,
    /// As the admin token: as a Bearer token, or in `x-api-key`.
    Administer,
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

    /// The caller id of the first key that the request sends and the list has; `None` where it sends none of them.
    ///
    /// Digests are compared in constant time, and always all of them, so that the duration reveals nothing.
    pub(crate) fn opened_by(&self, headers: &HeaderMap, key_use: KeyUse) -> Option<CallerId> {
        let mut caller = None;
        for sent in sent_keys(headers, key_use) {
            let digest: [u8; 32] = Sha256::digest(&sent).into();
            let mut is_known = Choice::from(0);
            for key in &self.0 {
                is_known |= key.ct_eq(&digest);
            }
            if caller.is_none() && is_known.into() {
                caller = Some(CallerId::of_key(&sent));
            }
        }
        caller
    }
}

/// The admin token. It is one key, whatever characters it has; without one nobody is an admin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdminToken(ApiKeys);

impl AdminToken {
    /// The token; none for a blank text.
    pub fn parse(token: &str) -> Self {
        let token = Some(token.trim()).filter(|token| !token.is_empty());
        Self(ApiKeys(token.map(|token| Sha256::digest(token).into()).into_iter().collect()))
    }

    /// Checks that the request has the token.
    ///
    /// # Errors
    /// [`Error::Unauthorized`] when there is a token and the request does not have it.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), Error> {
        if self.0.is_open() || self.is_held(headers) { Ok(()) } else { Err(Error::Unauthorized) }
    }

    /// Whether the request has the token; `false` when there is none.
    pub(crate) fn is_held(&self, headers: &HeaderMap) -> bool {
        self.opened_by(headers).is_some()
    }

    /// The caller id of the token, if the request has it.
    pub(crate) fn opened_by(&self, headers: &HeaderMap) -> Option<CallerId> {
        self.0.opened_by(headers, KeyUse::Administer)
    }
}

/// The keys that a request sends, in the order in which they name the caller.
fn sent_keys(headers: &HeaderMap, key_use: KeyUse) -> impl Iterator<Item = Cow<'_, [u8]>> {
    let authorization = headers.get(header::AUTHORIZATION);
    let bearer = authorization.and_then(|value| credential(value, b"bearer")).map(Cow::Borrowed);
    let password = authorization.filter(|_| key_use == KeyUse::Ask).and_then(basic_password).map(Cow::Owned);
    let names = [Some(X_API_KEY), Some(API_KEY).filter(|_| key_use != KeyUse::Administer)];
    let plain = names.into_iter().flatten().filter_map(|name| headers.get(name));
    bearer.into_iter().chain(password).chain(plain.map(|value| Cow::Borrowed(value.as_bytes().trim_ascii())))
}

/// The credential of an `Authorization` of that scheme, which is given in lower case.
fn credential<'a>(value: &'a HeaderValue, scheme: &[u8]) -> Option<&'a [u8]> {
    let (found, credential) = value.as_bytes().split_at_checked(scheme.len())?;
    let is_apart = credential.first() == Some(&b' ');
    (is_apart && found.eq_ignore_ascii_case(scheme)).then(|| credential.trim_ascii())
}

/// The password of HTTP Basic (RFC 7617), whoever the user is.
fn basic_password(value: &HeaderValue) -> Option<Vec<u8>> {
    let pair = STANDARD.decode(credential(value, b"basic")?).ok()?;
    let colon = memchr::memchr(b':', &pair)?;
    pair.get(colon + 1..).map(<[u8]>::to_vec)
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
        let of = |pairs| CallerId::of(&headers(pairs), None, None).unwrap();
        assert_eq!(of(&[("authorization", "BEARER  a ")]), of(&[("authorization", "Bearer a")]));
        assert_eq!(of(&[("authorization", "basic YTpi")]), of(&[("authorization", "Basic YTpi")]));
        assert_ne!(of(&[("authorization", "Basic YTpi")]), of(&[("authorization", "Bearer YTpi")]));
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
    fn only_a_verified_caller_has_a_share_of_its_own() {
        let trusted = HeaderName::from_static("x-user");
        let made_up = |pairs| CallerId::of(&headers(pairs), None, None).unwrap().owner();
        for pairs in [&[][..], &[("authorization", "Bearer a")], &[("x-api-key", "b")]] {
            assert_eq!(made_up(pairs), Owner::UNVERIFIED, "{pairs:?}");
        }
        let user = |name| CallerId::of(&headers(&[("x-user", name)]), Some(&trusted), None).unwrap().owner();
        let key = |name: &str| {
            let sent = headers(&[("x-api-key", "alpha"), ("api-key", "beta")]);
            ApiKeys::parse(name).opened_by(&sent, KeyUse::Ask).unwrap().owner()
        };
        let owners = [Owner::UNVERIFIED, user("ann"), user("bob"), key("alpha"), key("beta")];
        for (place, owner) in owners.iter().enumerate() {
            assert!(!owners[..place].contains(owner), "{place}");
        }
    }

    #[test]
    fn a_trusted_header_replaces_credentials_and_must_be_unique() {
        let trusted = HeaderName::from_static("x-user");
        let of = |pairs| CallerId::of(&headers(pairs), Some(&trusted), None);
        assert_eq!(
            of(&[("x-user", "ann"), ("authorization", "x")]),
            of(&[("x-user", "ann"), ("authorization", "y")])
        );
        assert_eq!(of(&[("authorization", "x")]).unwrap(), CallerId::public());
        // No credential and no missing header gives the caller id of a trusted header.
        let trusted_caller =
            |user| CallerId::of(&headers(&[("x-user", user)]), Some(&trusted), None).unwrap();
        assert_ne!(trusted_caller("public"), CallerId::public());
        assert_ne!(trusted_caller("Bearer a"), CallerId::of_key(b"a"));
        assert_eq!(of(&[("x-user", " ")]), Err(Error::AmbiguousCaller));
        let mut twice = headers(&[("x-user", "ann")]);
        twice.append("x-user", HeaderValue::from_static("bob"));
        assert_eq!(CallerId::of(&twice, Some(&trusted), None), Err(Error::AmbiguousCaller));
    }

    #[test]
    fn any_of_the_keys_opens_in_any_of_the_three_headers_and_names_the_caller() {
        let keys = ApiKeys::parse("alpha, beta,");
        let (alpha, beta) = (Some("alpha"), Some("beta"));
        for (pairs, opener) in [
            (&[("authorization", "Bearer alpha")][..], alpha),
            (&[("authorization", "bearer   beta")], beta),
            (&[("x-api-key", "beta")], beta),
            (&[("x-api-key", " beta")], beta),
            (&[("api-key", "alpha")], alpha),
            (&[("authorization", "Bearer other"), ("x-api-key", "alpha")], alpha),
            (&[("authorization", "Bearer beta"), ("x-api-key", "alpha")], beta),
            // `any:alpha`, `:alpha` and `alpha` without a colon.
            (&[("authorization", "Basic YW55OmFscGhh")], alpha),
            (&[("authorization", "basic OmFscGhh")], alpha),
            (&[("authorization", "Basic YWxwaGE=")], None),
            (&[("authorization", "Basic alpha")], None),
            (&[("authorization", "Basic")], None),
            (&[("authorization", "Beareralpha")], None),
            (&[("authorization", "alpha")], None),
            (&[("x-api-key", "")], None),
            (&[("x-api-key", "alph")], None),
            (&[], None),
        ] {
            let found = keys.opened_by(&headers(pairs), KeyUse::Ask);
            assert_eq!(found, opener.map(|key| CallerId::of_key(key.as_bytes())), "{pairs:?}");
            let caller = CallerId::of(&headers(pairs), None, found.clone()).unwrap();
            assert!(found.is_none_or(|found| found == caller), "{pairs:?}");
        }
        // The caller id that a client had which sent its key as a Bearer token, before keys named the caller.
        assert_eq!(CallerId::of_key(b"alpha").as_bytes()[..], Sha256::digest("Bearer alpha")[..]);
    }

    #[test]
    fn a_password_opens_to_ask_alone_and_the_admin_token_is_one_key_in_two_headers() {
        let keys = ApiKeys::parse("alpha");
        let token = AdminToken::parse(" alpha ");
        for (pairs, asks, changes, administers) in [
            (("authorization", "Basic YW55OmFscGhh"), true, false, false),
            (("api-key", "alpha"), true, true, false),
            (("x-api-key", "alpha"), true, true, true),
            (("authorization", "Bearer alpha"), true, true, true),
        ] {
            let sent = headers(&[pairs]);
            let opens = |key_use| keys.opened_by(&sent, key_use).is_some();
            let found = (opens(KeyUse::Ask), opens(KeyUse::Change), token.is_held(&sent));
            assert_eq!(found, (asks, changes, administers), "{pairs:?}");
        }
        let list = AdminToken::parse("z,9f86");
        for (key, is_held) in [("z", false), ("9f86", false), ("z,9f86", true)] {
            assert_eq!(list.check(&headers(&[("x-api-key", key)])).is_ok(), is_held, "{key}");
        }
        let none = AdminToken::parse(" ");
        assert!(none.check(&headers(&[])).is_ok() && !none.is_held(&headers(&[("x-api-key", "")])));
    }
}
