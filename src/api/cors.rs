//! CORS: which web pages may use the service (Ollama's rules for `Origin`), and the headers for their browsers.
//!
//! A page of another origin must not use a local model without its user's knowledge, so a request from it is refused
//! before anything else is checked. Requests without `Origin` come from no web page. Pure rules over headers.
//!
//! No crate serves: the layer of `tower-http` needs a service stack, which the core has not, and does not know Ollama's
//! rules.

use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{self, HeaderName},
    request::Parts,
};

use super::reply::ReplyBody;

/// The origins that Ollama always allows (`envconfig/config.go`, `AllowedOrigins`).
const DEFAULTS: [&str; 17] = [
    "http://localhost",
    "https://localhost",
    "http://localhost:*",
    "https://localhost:*",
    "http://127.0.0.1",
    "https://127.0.0.1",
    "http://127.0.0.1:*",
    "https://127.0.0.1:*",
    "http://0.0.0.0",
    "https://0.0.0.0",
    "http://0.0.0.0:*",
    "https://0.0.0.0:*",
    "app://*",
    "file://*",
    "tauri://*",
    "vscode-webview://*",
    "vscode-file://*",
];
const METHODS: HeaderValue = HeaderValue::from_static("GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS");
/// The headers that a page may send when its preflight does not name any.
const HEADERS: HeaderValue = HeaderValue::from_static(
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,X-Api-Key,X-Request-Id,X-Paddock-Session",
);
/// The reply headers that a page may read.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "X-Request-Id,X-Cache,X-Session,X-Session-Turn,X-Session-Left-Out,X-Paddock-Host,Retry-After",
);
/// How long a browser may cache a preflight: 12 hours in seconds, as in Ollama.
const MAX_AGE: HeaderValue = HeaderValue::from_static("43200");

/// The origins of the setting, which are allowed beside the service's own and Ollama's defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(Vec<String>);

impl Origins {
    /// Parses a comma-separated list: `https://app.example.com`, one `*` for a part, or `*` for all.
    ///
    /// # Errors
    /// A sentence when an entry cannot be an origin.
    pub fn parse(list: &str) -> Result<Self, String> {
        let entries: Vec<_> =
            list.split(',').map(|entry| entry.trim().trim_end_matches('/').to_ascii_lowercase()).collect();
        let is_origin = |entry: &String| {
            let name = entry.split_once("://").map_or("", |(_, name)| name);
            entry == "*" || !name.is_empty() && !name.contains('/') && entry.matches('*').count() < 2
        };
        if entries.iter().filter(|entry| !entry.is_empty()).all(is_origin) {
            Ok(Self(entries.into_iter().filter(|entry| !entry.is_empty()).collect()))
        } else {
            Err("must be origins such as https://app.example.com or https://*.example.com, or *".to_owned())
        }
    }

    /// What the request's `Origin` means for it.
    pub(crate) fn judge(&self, parts: &Parts) -> CorsVerdict {
        let Some(value) = parts.headers.get(header::ORIGIN) else { return CorsVerdict::NotBrowser };
        let Ok(origin) = value.to_str().map(str::to_ascii_lowercase) else { return CorsVerdict::Denied };
        let authority = parts.uri.authority().map(http::uri::Authority::as_str);
        let host = authority.or_else(|| parts.headers.get(header::HOST)?.to_str().ok());
        let is_own = host.is_some_and(|host| is_own(&origin, host));
        let is_allowed = || {
            let own = self.0.iter().map(String::as_str);
            own.chain(DEFAULTS).any(|pattern| matches(pattern, &origin))
        };
        if is_own {
            CorsVerdict::Own(value.clone())
        } else if is_allowed() {
            CorsVerdict::Allowed(value.clone())
        } else {
            CorsVerdict::Denied
        }
    }
}

/// The result of the `Origin` check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CorsVerdict {
    /// The request comes from no web page, or from the service's own origin without `Origin`.
    NotBrowser,
    /// A page of the service's own origin, which is this.
    Own(HeaderValue),
    /// A page of this origin, which is allowed to ask.
    Allowed(HeaderValue),
    /// A page of an origin that is not allowed.
    Denied,
}

/// Whether `origin` equals the scheme and host under which the client addressed the service.
fn is_own(origin: &str, host: &str) -> bool {
    let Some((scheme, name)) = origin.split_once("://") else { return false };
    let port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    name == host.to_ascii_lowercase().trim_end_matches(port)
}

/// Whether `origin` matches the pattern; one `*` in it stands for a part of the name or for the port.
fn matches(pattern: &str, origin: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == origin };
    let part = origin.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
    part.is_some_and(|part| {
        if pattern == "*" || before.ends_with("://") && after.is_empty() {
            true
        } else if before.ends_with(':') {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit())
        } else {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
        }
    })
}

/// The reply to a CORS preflight; `None` when the request is none.
pub(crate) fn preflight(parts: &Parts) -> Option<Response<ReplyBody>> {
    let wanted = &parts.headers;
    if parts.method != Method::OPTIONS || !wanted.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
        return None;
    }
    let mut response = Response::new(ReplyBody::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    let asked = wanted.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned().unwrap_or(HEADERS);
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    for name in [header::ACCESS_CONTROL_REQUEST_METHOD, header::ACCESS_CONTROL_REQUEST_HEADERS] {
        vary(headers, &name);
    }
    Some(response)
}

/// Adds the headers that let a page of `origin` read the reply.
pub(crate) fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    vary(headers, &header::ORIGIN);
}

fn vary(headers: &mut HeaderMap, name: &HeaderName) {
    headers.append(header::VARY, HeaderValue::from_name(name.clone()));
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(origin: &str, host: &'static str) -> Parts {
        let request = Request::get("/chat").header(header::ORIGIN, origin).header(header::HOST, host);
        request.body(()).unwrap().into_parts().0
    }

    #[track_caller]
    fn check(list: &str, origin: &str, host: &'static str, is_welcome: bool) {
        let verdict = Origins::parse(list).unwrap().judge(&parts(origin, host));
        assert_eq!(verdict != CorsVerdict::Denied, is_welcome, "{list} {origin} {host}");
    }

    #[test]
    fn our_own_pages_local_ones_and_those_of_the_setting_may_ask() {
        check("", "http://ai.example.com", "ai.example.com", true);
        check("", "https://AI.example.com", "ai.example.com:443", true);
        check("", "http://ai.example.com:8000", "ai.example.com:8000", true);
        check("", "http://ai.example.com:8001", "ai.example.com:8000", false);
        check("", "http://evil.example", "ai.example.com", false);
        for local in
            ["http://localhost:3000", "https://127.0.0.1", "http://0.0.0.0:1", "app://obsidian.md", "file://"]
        {
            check("", local, "ai.example.com", true);
        }
        check("", "http://localhost.evil.example", "ai", false);
        check("", "http://localhost:3000.evil.example", "ai", false);
        check("", "null", "ai", false);
        check("https://a.example, https://*.b.example/", "https://a.example", "ai", true);
        check("https://a.example,https://*.b.example", "https://x.y.b.example", "ai", true);
        check("https://*.b.example", "https://b.example", "ai", false);
        check("https://*.b.example", "https://evil/.b.example", "ai", false);
        check("*", "https://anywhere.example", "ai", true);
    }

    #[test]
    fn a_page_of_our_own_is_told_from_one_that_may_ask() {
        let origins = Origins::parse("https://app.example.com").unwrap();
        for (origin, is_own) in [
            ("http://localhost:8000", true),
            ("http://localhost:3000", false),
            ("app://obsidian.md", false),
            ("https://app.example.com", false),
        ] {
            let verdict = origins.judge(&parts(origin, "localhost:8000"));
            assert_eq!(matches!(verdict, CorsVerdict::Own(_)), is_own, "{origin}");
            assert_eq!(matches!(verdict, CorsVerdict::Allowed(_)), !is_own, "{origin}");
        }
    }

    #[test]
    fn a_request_that_comes_from_no_page_is_nobodys_business() {
        let request = Request::get("/chat").body(()).unwrap().into_parts().0;
        assert_eq!(Origins::default().judge(&request), CorsVerdict::NotBrowser);
    }

    #[test]
    fn what_can_be_no_origin_is_a_mistake() {
        for list in ["example.com", "https://", "https://a/b", "https://*.*"] {
            assert!(Origins::parse(list).is_err(), "{list}");
        }
        assert_eq!(Origins::parse(" , "), Ok(Origins::default()));
    }
}
