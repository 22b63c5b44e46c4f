//! Route matching as Spin does it: exact routes first, then the longest `/...` prefix, slashes at either end of a path
//! ignored. Must never look at anything but the path.

use super::manifest::HttpTrigger;

/// A matched route.
#[derive(Debug)]
pub struct RouteMatch<'a> {
    /// The trigger that answers.
    pub trigger: &'a HttpTrigger,
    /// What the trailing wildcard took, with its slash: Spin's `spin-path-info`.
    pub path_info: String,
}

/// The best route for `path`.
pub fn best_match<'a>(routes: &'a [HttpTrigger], path: &str) -> Option<RouteMatch<'a>> {
    routes
        .iter()
        .filter_map(|trigger| {
            specificity(&trigger.route, path)
                .map(|(rank, path_info)| (rank, RouteMatch { trigger, path_info }))
        })
        .max_by_key(|(rank, _)| *rank)
        .map(|(_, found)| found)
}

/// How well `route` fits `path`, and what its wildcard took.
fn specificity(route: &str, path: &str) -> Option<((bool, usize), String)> {
    let plain = path.trim_matches('/');
    let Some(prefix) = route.strip_suffix("/...") else {
        return (route.trim_matches('/') == plain).then(|| ((true, 0), String::new()));
    };
    let prefix = prefix.trim_matches('/');
    let rest = plain.strip_prefix(prefix)?;
    if !(prefix.is_empty() || rest.is_empty() || rest.starts_with('/')) {
        return None;
    }
    let rest = rest.trim_matches('/');
    let last = if path.ends_with('/') { "/" } else { "" };
    let info = if rest.is_empty() { last.to_owned() } else { format!("/{rest}{last}") };
    Some(((false, prefix.len()), info))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(path: &str) -> String {
        let route = |route: &str| HttpTrigger {
            id: None,
            route: route.to_owned(),
            component: Some("c".to_owned()),
            static_response: None,
        };
        let routes = ["/api/...", "/api/chat", "/v1/a/...", "/v1/...", "/"].map(route);
        best_match(&routes, path)
            .map_or_else(|| "none".to_owned(), |found| format!("{} {}", found.trigger.route, found.path_info))
    }

    #[test]
    fn the_most_specific_route_wins() {
        assert_eq!(best("/api/chat"), "/api/chat ");
        assert_eq!(best("/api/chat/"), "/api/chat ");
        assert_eq!(best("/api/chat/x"), "/api/... /chat/x");
        assert_eq!(best("/api"), "/api/... ");
        assert_eq!(best("/v1/a/b/"), "/v1/a/... /b/");
        assert_eq!(best("/v1/ab"), "/v1/... /ab");
        assert_eq!(best("/"), "/ ");
        assert_eq!(best("/apichat"), "none");
    }
}
