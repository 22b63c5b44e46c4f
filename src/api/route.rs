//! The table of routes: paths, methods and labels.

use http::Method;

use super::{endpoint::Endpoint, error::ErrorFormat, near_route};

/// What a path is for. The groups are what Spin's components answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// Questions to one host.
    Ask(AskRoute),
    /// The models of all hosts, and what this API is.
    Models(ModelsRoute),
    /// What is kept: sessions and answers.
    Sessions(SessionsRoute),
    /// What operators ask.
    Ops(OpsRoute),
    /// No path of ours, and whose errors it gets.
    Unknown(ErrorFormat),
}

/// A question to one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AskRoute {
    /// `POST /chat`.
    Chat,
    /// What one host answers.
    Relay(Endpoint),
}

/// What concerns the models of all hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ModelsRoute {
    /// The description of this API.
    OpenApi,
    /// `GET /`, which Ollama's clients use to check that a server is there.
    Banner,
    /// A list merged from all hosts.
    List(List),
    /// What changes the models of all hosts.
    Manage(Operation),
    /// An upload of a model, which is always refused.
    Upload(&'static str),
}

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionsRoute {
    /// `DELETE /cache`.
    Cache,
    /// `POST /sessions`.
    All,
    /// One session, by its id.
    One,
    /// A session to be kept elsewhere.
    Export,
}

/// What operators ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpsRoute {
    Health,
    Livez,
    Metrics,
    /// How the fleet stands.
    Fleet,
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

/// The paths of the routes that have one path each.
pub(super) fn fixed_paths() -> impl Iterator<Item = &'static str> {
    let own = ["/chat", "/health", "/livez", "/metrics", "/fleet", "/cache", "/sessions", "/openapi.json"];
    let endpoints = Endpoint::ALL.into_iter().map(Endpoint::path).filter(|path| !path.ends_with('/'));
    let lists = List::ALL.into_iter().map(List::path);
    own.into_iter().chain(endpoints).chain(lists).chain(Operation::ALL.into_iter().map(Operation::path))
}

const UPLOADS: [&str; 2] = ["/api/push", "/api/blobs/"];

impl Route {
    /// Whether what answers the route may ask hosts for the sake of the request.
    pub(crate) fn asks_hosts(self) -> bool {
        matches!(self, Self::Ask(_) | Self::Models(ModelsRoute::List(_) | ModelsRoute::Manage(_)))
    }

    pub(crate) fn of(path: &str) -> Self {
        Self::known(path).unwrap_or_else(|| Self::Unknown(near_route::family(path)))
    }

    /// The route of a path, if one has it.
    pub(super) fn known(path: &str) -> Option<Self> {
        let own = match path {
            "/chat" => Some(Self::Ask(AskRoute::Chat)),
            "/health" => Some(Self::Ops(OpsRoute::Health)),
            "/livez" => Some(Self::Ops(OpsRoute::Livez)),
            "/metrics" => Some(Self::Ops(OpsRoute::Metrics)),
            "/fleet" => Some(Self::Ops(OpsRoute::Fleet)),
            "/cache" => Some(Self::Sessions(SessionsRoute::Cache)),
            "/sessions" => Some(Self::Sessions(SessionsRoute::All)),
            "/openapi.json" => Some(Self::Models(ModelsRoute::OpenApi)),
            "/" => Some(Self::Models(ModelsRoute::Banner)),
            _ => session(path).map(|(_, export)| {
                if export {
                    Self::Sessions(SessionsRoute::Export)
                } else {
                    Self::Sessions(SessionsRoute::One)
                }
            }),
        };
        let is = |known: &str| {
            // A known path that ends in a slash matches every longer path that begins with it.
            if known.ends_with('/') {
                path.len() > known.len() && path.starts_with(known)
            } else {
                path == known
            }
        };
        own.or_else(|| {
            Endpoint::ALL
                .into_iter()
                .find(|endpoint| is(endpoint.path()))
                .map(|endpoint| Self::Ask(AskRoute::Relay(endpoint)))
        })
        .or_else(|| {
            List::ALL
                .into_iter()
                .find(|list| is(list.path()))
                .map(|found| Self::Models(ModelsRoute::List(found)))
        })
        .or_else(|| {
            Operation::ALL
                .into_iter()
                .find(|operation| is(operation.path()))
                .map(|found| Self::Models(ModelsRoute::Manage(found)))
        })
        .or_else(|| {
            UPLOADS
                .into_iter()
                .find(|upload| is(upload))
                .map(|found| Self::Models(ModelsRoute::Upload(found)))
        })
    }

    /// All routes.
    #[cfg(test)]
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let own = [
            Self::Ask(AskRoute::Chat),
            Self::Ops(OpsRoute::Health),
            Self::Ops(OpsRoute::Livez),
            Self::Ops(OpsRoute::Metrics),
            Self::Ops(OpsRoute::Fleet),
        ];
        own.into_iter()
            .chain([
                Self::Sessions(SessionsRoute::Cache),
                Self::Sessions(SessionsRoute::All),
                Self::Sessions(SessionsRoute::One),
                Self::Sessions(SessionsRoute::Export),
                Self::Models(ModelsRoute::OpenApi),
                Self::Models(ModelsRoute::Banner),
            ])
            .chain(Endpoint::ALL.into_iter().map(|endpoint| Self::Ask(AskRoute::Relay(endpoint))))
            .chain(List::ALL.into_iter().map(|found| Self::Models(ModelsRoute::List(found))))
            .chain(Operation::ALL.into_iter().map(|found| Self::Models(ModelsRoute::Manage(found))))
            .chain(UPLOADS.into_iter().map(|found| Self::Models(ModelsRoute::Upload(found))))
    }

    /// The route's label in metrics and logs; never the raw path, which clients choose.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Ask(AskRoute::Chat) => "/chat",
            Self::Ops(OpsRoute::Health) => "/health",
            Self::Ops(OpsRoute::Livez) => "/livez",
            Self::Ops(OpsRoute::Metrics) => "/metrics",
            Self::Ops(OpsRoute::Fleet) => "/fleet",
            Self::Sessions(SessionsRoute::Cache) => "/cache",
            Self::Sessions(SessionsRoute::All) => "/sessions",
            Self::Sessions(SessionsRoute::One) => "/sessions/{id}",
            Self::Sessions(SessionsRoute::Export) => "/sessions/{id}/export",
            Self::Models(ModelsRoute::OpenApi) => "/openapi.json",
            Self::Models(ModelsRoute::Banner) => "/",
            Self::Models(ModelsRoute::List(list)) => list.path(),
            Self::Ask(AskRoute::Relay(endpoint)) => endpoint.label(),
            Self::Models(ModelsRoute::Manage(operation)) => operation.path(),
            Self::Models(ModelsRoute::Upload(path)) => path,
            Self::Unknown(_) => "other",
        }
    }

    /// The allowed methods, as in the header `Allow`.
    pub(crate) fn allow(self) -> &'static str {
        let method = match self {
            Self::Ask(AskRoute::Relay(endpoint)) => endpoint.method(),
            Self::Models(ModelsRoute::Manage(operation)) => operation.method(),
            Self::Models(ModelsRoute::Upload("/api/blobs/")) => return "HEAD, POST",
            Self::Sessions(SessionsRoute::One) => return "DELETE, GET, HEAD",
            Self::Sessions(SessionsRoute::Cache) => Method::DELETE,
            Self::Ask(AskRoute::Chat)
            | Self::Sessions(SessionsRoute::All)
            | Self::Models(ModelsRoute::Upload(_)) => Method::POST,
            Self::Ops(_)
            | Self::Sessions(SessionsRoute::Export)
            | Self::Models(ModelsRoute::OpenApi | ModelsRoute::Banner | ModelsRoute::List(_))
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

    /// Whether the route needs no API key: probes and scrapers send none, nor do Ollama's clients when they look whether a
    /// server is there.
    pub(crate) fn is_open(self, method: &Method) -> bool {
        match self {
            Self::Ops(OpsRoute::Health | OpsRoute::Livez | OpsRoute::Metrics) => true,
            Self::Models(ModelsRoute::Banner) | Self::Ask(AskRoute::Relay(Endpoint::OllamaVersion)) => {
                self.allows(method)
            }
            Self::Ops(OpsRoute::Fleet)
            | Self::Ask(_)
            | Self::Models(_)
            | Self::Sessions(_)
            | Self::Unknown(_) => false,
        }
    }

    /// Whether the route changes models on the hosts.
    pub(crate) fn changes_models(self) -> bool {
        matches!(self, Self::Models(ModelsRoute::Manage(_) | ModelsRoute::Upload(_)))
    }

    /// Whether the route is for administrators: web pages of other origins may not use it, whatever they know.
    pub(crate) fn is_administrative(self) -> bool {
        self.changes_models()
            || matches!(self, Self::Sessions(SessionsRoute::Cache) | Self::Ops(OpsRoute::Fleet))
    }

    /// Whether requests of this route are counted as requests for an answer.
    pub(crate) fn is_counted(self) -> bool {
        match self {
            Self::Ask(AskRoute::Chat) => true,
            Self::Ask(AskRoute::Relay(endpoint)) => endpoint.asks_a_model(),
            Self::Models(_) | Self::Sessions(_) | Self::Ops(_) | Self::Unknown(_) => false,
        }
    }

    /// The format of the route's errors.
    pub(crate) fn family(self) -> ErrorFormat {
        match self {
            Self::Ask(AskRoute::Chat)
            | Self::Ops(_)
            | Self::Sessions(_)
            | Self::Models(ModelsRoute::OpenApi) => ErrorFormat::Own,
            Self::Ask(AskRoute::Relay(endpoint)) => endpoint.family(),
            Self::Models(ModelsRoute::List(list)) => ErrorFormat::of(list.path()),
            Self::Models(ModelsRoute::Banner | ModelsRoute::Manage(_) | ModelsRoute::Upload(_)) => {
                ErrorFormat::Ollama
            }
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
