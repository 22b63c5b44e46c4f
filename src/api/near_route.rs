//! What a path that no route has was meant to be: Ollama's redirects for slashes too many, and the path that a refusal
//! names to the others.
//!
//! Pure functions over a path. A path in a reply is a route's own, written anew: it must never be made of the path that
//! came, which could lead to another server (`//evil.example`).

use http::{Method, StatusCode, request::Parts};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{
    error::{Error, ErrorFormat},
    route::{self, Route},
};

/// The longest path that is looked at, in bytes; a longer one is just unknown.
const PATH_LIMIT: usize = 512;
/// The most segments of a path that is looked at.
const SEGMENT_LIMIT: usize = 16;
/// How many letters may differ from a path that is named.
const DISTANCE_LIMIT: usize = 2;
/// What stays as it is in a segment of a path.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');

/// The refusal of a path that no route has. A path with slashes too many, or with letters that are encoded without need, moves to the route that allows the method, as
/// in Ollama: with 301 for GET and with 307, which repeats the body, for the others.
pub(crate) fn refusal(parts: &Parts) -> Error {
    let path = parts.uri.path();
    if let Some(mut location) = other_spelling(path, &parts.method) {
        if let Some(query) = parts.uri.query() {
            location.extend(["?", query]);
        }
        let is_get = parts.method == Method::GET;
        let status = if is_get { StatusCode::MOVED_PERMANENTLY } else { StatusCode::TEMPORARY_REDIRECT };
        return Error::Moved { status, location };
    }
    Error::NotFound { meant: meant(path).map(Route::label) }
}

/// The format of the errors of a path that no route has: that of the route which was meant, else the one whose clients
/// ask such paths.
pub(crate) fn family(path: &str) -> ErrorFormat {
    if let Some(route) = meant(path) {
        return route.family();
    }
    let is_in = |name: &str| path.split('/').take(8).any(|segment| segment.eq_ignore_ascii_case(name));
    if is_in("messages") {
        ErrorFormat::Anthropic
    } else if is_in("v1") {
        ErrorFormat::OpenAi
    } else if is_in("api") {
        ErrorFormat::Ollama
    } else {
        ErrorFormat::Own
    }
}

/// The path of the known route that this path is but for its slashes and for letters that are encoded without need, if that
/// route allows the method.
fn other_spelling(path: &str, method: &Method) -> Option<String> {
    // Ollama knows its fixed paths however they are encoded.
    let decoded = percent_decode_str(path).decode_utf8().ok()?;
    let plain = joined("", &segments(&decoded)?);
    if let Some(route) = known(&plain).filter(|route| route.label() == plain) {
        return (plain != path && route.allows(method)).then_some(plain);
    }
    let segments = segments(path)?;
    let plain = joined("", &segments);
    let route = known(&plain).filter(|route| plain != path && route.allows(method))?;
    // Every other route has fixed words and one name. Slashes behind a name are no part of a name.
    if path.ends_with('/') {
        return None;
    }
    let mut written = String::with_capacity(plain.len());
    for segment in segments {
        let decoded = percent_decode_str(segment).decode_utf8().ok()?;
        if matches!(&*decoded, "." | "..") {
            return None;
        }
        written.push('/');
        written.extend(utf8_percent_encode(&decoded, KEPT));
    }
    (known(&written) == Some(route)).then_some(written)
}

/// The route that a path may mean: the same in other letters, with a wrong beginning, or with a letter or two wrong.
fn meant(path: &str) -> Option<Route> {
    let lowered = path.to_ascii_lowercase();
    let segments = segments(&lowered)?;
    // `/v1/chat` is no question of our own.
    if let [.., "v1", "chat" | "complete"] = *segments {
        let path = if segments.ends_with(&["chat"]) { "/v1/chat/completions" } else { "/v1/completions" };
        return known(path);
    }
    // From the whole path to its last segment: each as it is, and below `/v1` and `/api`.
    let ends = (0..segments.len()).filter_map(|begin| segments.get(begin..));
    let found = ends.clone().find_map(|end| {
        let mut paths = ["", "/v1", "/api"].into_iter().map(|base| joined(base, end));
        paths.find_map(|path| known(&path))
    });
    found.or_else(|| {
        let whole = joined("", &segments);
        let distance = |known: &str| strsim::levenshtein(known, &whole);
        route::fixed_paths()
            .filter(|known| known.len().abs_diff(whole.len()) <= DISTANCE_LIMIT)
            .map(|known| (distance(known), known))
            .filter(|(distance, known)| *distance <= DISTANCE_LIMIT && known.len() > 2 * DISTANCE_LIMIT)
            .min_by_key(|(distance, _)| *distance)
            .and_then(|(_, path)| known(path))
    })
}

/// The route of a path that a client may be sent to. The banner is everybody's `/`, which nobody means by another path.
fn known(path: &str) -> Option<Route> {
    Route::known(path).filter(|_| path != "/")
}

/// The segments of a path that are not empty; `None` for a path that is too long to be one of ours.
fn segments(path: &str) -> Option<Vec<&str>> {
    let segments = path.split('/').filter(|segment| !segment.is_empty()).take(SEGMENT_LIMIT + 1);
    let segments: Vec<_> = Some(segments).filter(|_| path.len() <= PATH_LIMIT)?.collect();
    (segments.len() <= SEGMENT_LIMIT).then_some(segments)
}

fn joined(base: &str, segments: &[&str]) -> String {
    segments.iter().fold(base.to_owned(), |path, segment| path + "/" + segment)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn refusal_of(method: &str, uri: &str) -> Error {
        refusal(&Request::builder().method(method).uri(uri).body(()).unwrap().into_parts().0)
    }

    #[test]
    fn a_path_with_slashes_too_many_moves_to_the_routes_own_path() {
        for (method, path, status, location) in [
            ("POST", "/api/chat/", 307, "/api/chat"),
            ("POST", "//api/chat", 307, "/api/chat"),
            ("POST", "/api//chat//", 307, "/api/chat"),
            ("DELETE", "/api/delete/", 307, "/api/delete"),
            ("GET", "//v1/models", 301, "/v1/models"),
            ("GET", "/v1/models/", 301, "/v1/models"),
            ("HEAD", "/v1/models/", 307, "/v1/models"),
            ("GET", "///api/tags/?a=//b&c", 301, "/api/tags?a=//b&c"),
            ("POST", "/v1/chat/completions/", 307, "/v1/chat/completions"),
            ("POST", "/%61pi/chat", 307, "/api/chat"),
            ("POST", "/api%2Fchat", 307, "/api/chat"),
            ("GET", "/v1/%6Dodels", 301, "/v1/models"),
            ("POST", "//v1/messages?beta=true", 307, "/v1/messages?beta=true"),
            ("POST", "/chat/", 307, "/chat"),
            ("GET", "/health/", 301, "/health"),
            ("GET", "//v1/models/me/qwen3:4b", 301, "/v1/models/me/qwen3:4b"),
            ("GET", "//v1/models/qwen3%3A4b", 301, "/v1/models/qwen3:4b"),
            ("GET", "//sessions/a%2Fb%20c", 301, "/sessions/a%2Fb%20c"),
        ] {
            let moved =
                Error::Moved { status: StatusCode::from_u16(status).unwrap(), location: location.to_owned() };
            assert_eq!(refusal_of(method, path), moved, "{method} {path}");
        }
    }

    #[test]
    fn a_path_that_leads_elsewhere_moves_nowhere() {
        for path in [
            "//evil.example",
            "//evil.example/",
            "//evil.example//",
            "//",
            "/\\evil.example",
            "/%2F%2Fevil.example/api/chat/",
            "/..%2fmetrics",
            "/x/..%2f..%2fapi%2ftags",
            "/%2e/api/tags",
            "/v1/models/../../internal/",
            "//v1/models/%2e%2e/x",
            "/v1/models/x/",
            "//evil.example/api/tags",
        ] {
            let refused = refusal_of("GET", path);
            assert!(matches!(refused, Error::NotFound { .. }), "{path}: {refused:?}");
        }
        // A method that the route does not allow would only be refused there.
        assert_eq!(refusal_of("GET", "/api/chat/"), Error::NotFound { meant: Some("/api/chat") });
    }

    #[test]
    fn a_wrong_path_names_the_right_one_in_the_shape_of_its_clients() {
        use ErrorFormat::{Anthropic, Ollama, OpenAi, Own};
        for (path, shape, right) in [
            ("/v1/v1/messages", Anthropic, Some("/v1/messages")),
            ("/messages", Anthropic, Some("/v1/messages")),
            ("/api/messages", Anthropic, Some("/v1/messages")),
            ("/anthropic/v1/messages", Anthropic, Some("/v1/messages")),
            ("/v1/api/chat", Ollama, Some("/api/chat")),
            ("/API/Chat", Ollama, Some("/api/chat")),
            ("/ollama/api/tags", Ollama, Some("/api/tags")),
            ("/generate", Ollama, Some("/api/generate")),
            ("/v1/generate", Ollama, Some("/api/generate")),
            ("/chat/completions", OpenAi, Some("/v1/chat/completions")),
            ("/api/chat/completions", OpenAi, Some("/v1/chat/completions")),
            ("/openai/v1/chat/completions", OpenAi, Some("/v1/chat/completions")),
            ("/v1/v1/chat/completions/", OpenAi, Some("/v1/chat/completions")),
            ("/v1/chat/completion", OpenAi, Some("/v1/chat/completions")),
            ("/v1/chat", OpenAi, Some("/v1/chat/completions")),
            ("/api/v1/models", OpenAi, Some("/v1/models")),
            ("/models", OpenAi, Some("/v1/models")),
            ("/v1/v1/models/llama3.2", OpenAi, Some("/v1/models/{model}")),
            ("/v1/health", Own, Some("/health")),
            ("/sesions", Own, Some("/sessions")),
            ("/v1/messages/batches", Anthropic, None),
            ("//v1/nothing", OpenAi, None),
            ("/v1", OpenAi, None),
            ("/api/nothing", Ollama, None),
            ("//api/nothing", Ollama, None),
            ("/api", Ollama, None),
            ("/nothing", Own, None),
        ] {
            assert_eq!(family(path), shape, "{path}");
            assert_eq!(refusal_of("PATCH", path), Error::NotFound { meant: right }, "{path}");
        }
        let long = format!("/{}", "v1/messages/".repeat(1000));
        assert_eq!(refusal_of("POST", &long), Error::NotFound { meant: None });
    }
}
