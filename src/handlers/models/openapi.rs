//! The description of this API, an `OpenAPI` 3.1 document. It must describe every route, and nothing else.

/// The document.
pub(crate) const DOCUMENT: &str = include_str!("openapi.json");

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;

    use super::*;
    use crate::api::route::Route;

    /// The methods of each path, as in the header `Allow`.
    fn described() -> BTreeMap<String, BTreeSet<String>> {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let methods = |path: &Value| {
            let members = path.as_object().unwrap().keys();
            members.filter(|name| *name != "parameters").map(|name| name.to_ascii_uppercase()).collect()
        };
        let paths = document["paths"].as_object().unwrap();
        paths.iter().map(|(path, members)| (path.clone(), methods(members))).collect()
    }

    #[test]
    fn it_is_of_this_version() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn it_describes_every_route_with_its_methods_and_nothing_else() {
        let described = described();
        for (path, methods) in &described {
            let route =
                Route::of(&path.replace("{model}", "m").replace("{id}", "s").replace("{digest}", "sha256:0"));
            assert!(!matches!(route, Route::Unknown(_)), "{path}");
            let allowed: BTreeSet<_> = route.allow().split(", ").map(str::to_owned).collect();
            assert_eq!(methods, &allowed, "{path}");
        }
        let labels: BTreeSet<_> =
            described.keys().map(|path| path.trim_end_matches("{digest}").to_owned()).collect();
        let routes: BTreeSet<_> = Route::all().map(|route| route.label().to_owned()).collect();
        assert_eq!(labels, routes);
    }
}
