//! The table of routes: paths, methods and labels.

use http::Method;

use super::{endpoint::Endpoint, error::ErrorFormat};

/// What a path means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// `POST /chat`.
    Chat,
    Health,
    Livez,
    Metrics,
    /// `GET /fleet`: the state of the hosts.
    Fleet,
    /// `DELETE /cache`.
    Cache,
    /// `POST /sessions`.
    Sessions,
    /// A session, by its id.
    Session,
    /// The export of a session.
    SessionExport,
    /// The OpenAPI description.
    OpenApi,
    /// `GET /`, which Ollama's clients use to check that a server is there.
    Banner,
    /// A list merged from all hosts.
    List(List),
    /// A request relayed to one host.
    Relay(Endpoint),
    /// A change of the models on all hosts.
    Manage(Operation),
    /// An upload of a model, which is always refused.
    Upload(&'static str),
    Unknown(ErrorFormat),
}

/// A list that is merged from the lists of all hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum List {
    /// The models that the hosts have, in Ollama's format.
    Tags,
    /// The loaded models.
    Running,
    /// The models that the hosts have, in OpenAI's format.
    Models,
}

/// A change that is made on every host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Pull,
    Create,
    Copy,
    Delete,
}

impl List {
    const ALL: [Self; 3] = [Self::Tags, Self::Running, Self::Models];

    /// The path, here and upstream.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Tags => "/api/tags",
            Self::Running => "/api/ps",
            Self::Models => "/v1/models",
        }
    }
}

impl Operation {
    const ALL: [Self; 4] = [Self::Pull, Self::Create, Self::Copy, Self::Delete];

    /// The path, here and upstream.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Pull => "/api/pull",
            Self::Create => "/api/create",
            Self::Copy => "/api/copy",
            Self::Delete => "/api/delete",
        }
    }

    /// The method, here and upstream.
    pub(crate) fn method(self) -> Method {
        match self {
            Self::Pull | Self::Create | Self::Copy => Method::POST,
            Self::Delete => Method::DELETE,
        }
    }
}

const SESSIONS: &str = "/sessions/";
const EXPORT: &str = "/export";

/// The id of the session in a path, still encoded.
pub(crate) fn session_id(path: &str) -> Option<&str> {
    session(path).map(|(id, _)| id)
}

/// The id of the session in a path, and whether the path asks for its export.
fn session(path: &str) -> Option<(&str, bool)> {
    let rest = path.strip_prefix(SESSIONS)?;
    let exported = rest.strip_suffix(EXPORT);
    let id = exported.unwrap_or(rest);
    (!id.is_empty() && !id.contains('/')).then_some((id, exported.is_some()))
}

const UPLOADS: [&str; 2] = ["/api/push", "/api/blobs/"];

impl Route {
    pub(crate) fn of(path: &str) -> Self {
        let own = match path {
            "/chat" => Some(Self::Chat),
            "/health" => Some(Self::Health),
            "/livez" => Some(Self::Livez),
            "/metrics" => Some(Self::Metrics),
            "/fleet" => Some(Self::Fleet),
            "/cache" => Some(Self::Cache),
            "/sessions" => Some(Self::Sessions),
            "/openapi.json" => Some(Self::OpenApi),
            "/" => Some(Self::Banner),
            _ => session(path).map(|(_, export)| if export { Self::SessionExport } else { Self::Session }),
        };
        let is = |known: &str| {
            // A known path that ends in a slash matches every longer path that begins with it.
            if known.ends_with('/') {
                path.len() > known.len() && path.starts_with(known)
            } else {
                path == known
            }
        };
        own.or_else(|| Endpoint::ALL.into_iter().find(|surface| is(surface.path())).map(Self::Relay))
            .or_else(|| List::ALL.into_iter().find(|list| is(list.path())).map(Self::List))
            .or_else(|| Operation::ALL.into_iter().find(|operation| is(operation.path())).map(Self::Manage))
            .or_else(|| UPLOADS.into_iter().find(|upload| is(upload)).map(Self::Upload))
            .unwrap_or_else(|| Self::Unknown(ErrorFormat::of(path)))
    }

    /// All routes.
    #[cfg(test)]
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let own = [Self::Chat, Self::Health, Self::Livez, Self::Metrics, Self::Fleet];
        own.into_iter()
            .chain([
                Self::Cache,
                Self::Sessions,
                Self::Session,
                Self::SessionExport,
                Self::OpenApi,
                Self::Banner,
            ])
            .chain(Endpoint::ALL.into_iter().map(Self::Relay))
            .chain(List::ALL.into_iter().map(Self::List))
            .chain(Operation::ALL.into_iter().map(Self::Manage))
            .chain(UPLOADS.into_iter().map(Self::Upload))
    }

    /// The route's label in metrics and logs; never the raw path, which clients choose.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Chat => "/chat",
            Self::Health => "/health",
            Self::Livez => "/livez",
            Self::Metrics => "/metrics",
            Self::Fleet => "/fleet",
            Self::Cache => "/cache",
            Self::Sessions => "/sessions",
            Self::Session => "/sessions/{id}",
            Self::SessionExport => "/sessions/{id}/export",
            Self::OpenApi => "/openapi.json",
            Self::Banner => "/",
            Self::List(list) => list.path(),
            Self::Relay(surface) => surface.label(),
            Self::Manage(operation) => operation.path(),
            Self::Upload(path) => path,
            Self::Unknown(_) => "other",
        }
    }

    /// The allowed methods, as in the header `Allow`.
    pub(crate) fn allow(self) -> &'static str {
        let method = match self {
            Self::Relay(surface) => surface.method(),
            Self::Manage(operation) => operation.method(),
            Self::Upload("/api/blobs/") => return "HEAD, POST",
            Self::Session => return "DELETE, GET, HEAD",
            Self::Cache => Method::DELETE,
            Self::Chat | Self::Sessions | Self::Upload(_) => Method::POST,
            Self::Health
            | Self::Livez
            | Self::Metrics
            | Self::Fleet
            | Self::SessionExport
            | Self::OpenApi
            | Self::Banner
            | Self::List(_)
            | Self::Unknown(_) => Method::GET,
        };
        match method {
            Method::GET => "GET, HEAD",
            Method::DELETE => "DELETE",
            _ => "POST",
        }
    }

    pub(crate) fn allows(self, method: &Method) -> bool {
        self.allow().split(", ").any(|allowed| allowed == method.as_str())
    }

    /// Whether the route needs no API key: probes and scrapers send none.
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Self::Health | Self::Livez | Self::Metrics)
    }

    /// Whether requests of this route are counted as requests for an answer.
    pub(crate) fn is_counted(self) -> bool {
        match self {
            Self::Chat => true,
            Self::Relay(surface) => surface.asks_a_model(),
            Self::Health
            | Self::Livez
            | Self::Metrics
            | Self::Fleet
            | Self::Cache
            | Self::Sessions
            | Self::Session
            | Self::SessionExport
            | Self::OpenApi
            | Self::Banner
            | Self::List(_)
            | Self::Manage(_)
            | Self::Upload(_)
            | Self::Unknown(_) => false,
        }
    }

    /// The format of the route's errors.
    pub(crate) fn family(self) -> ErrorFormat {
        match self {
            Self::Chat
            | Self::Health
            | Self::Livez
            | Self::Metrics
            | Self::Fleet
            | Self::Cache
            | Self::Sessions
            | Self::Session
            | Self::SessionExport
            | Self::OpenApi => ErrorFormat::Own,
            Self::Relay(surface) => surface.family(),
            Self::List(list) => ErrorFormat::of(list.path()),
            Self::Banner | Self::Manage(_) | Self::Upload(_) => ErrorFormat::Ollama,
            Self::Unknown(family) => family,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_whole_or_by_its_beginning() {
        for (path, label, allow) in [
            ("/", "/", "GET, HEAD"),
            ("/chat", "/chat", "POST"),
            ("/api/chat", "/api/chat", "POST"),
            ("/api/tags", "/api/tags", "GET, HEAD"),
            ("/api/delete", "/api/delete", "DELETE"),
            ("/api/blobs/sha256:0", "/api/blobs/", "HEAD, POST"),
            ("/v1/models", "/v1/models", "GET, HEAD"),
            ("/v1/models/a/b:c", "/v1/models/{model}", "GET, HEAD"),
            ("/v1/models/", "other", "GET, HEAD"),
            ("/cache", "/cache", "DELETE"),
            ("/sessions", "/sessions", "POST"),
            ("/sessions/a%2Fb", "/sessions/{id}", "DELETE, GET, HEAD"),
            ("/sessions/a/export", "/sessions/{id}/export", "GET, HEAD"),
            ("/sessions/export", "/sessions/{id}", "DELETE, GET, HEAD"),
            ("/sessions/export/export", "/sessions/{id}/export", "GET, HEAD"),
            ("/sessions/", "other", "GET, HEAD"),
            ("/sessions//export", "other", "GET, HEAD"),
            ("/sessions/a/b", "other", "GET, HEAD"),
            ("/sessions/a/", "other", "GET, HEAD"),
            ("/api/chat/", "other", "GET, HEAD"),
            ("/API/chat", "other", "GET, HEAD"),
        ] {
            let route = Route::of(path);
            assert_eq!((route.label(), route.allow()), (label, allow), "{path}");
        }
    }
}
