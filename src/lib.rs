//! Paddock: the AI service that stands between clients and a herd of Ollama servers.
//!
//! This crate is the whole service as a library of handlers. A [`Service`] takes a request and answers it;
//! everything it needs from the outside comes through the small traits in [`platform`], which an embedder implements as
//! its [`Platform`]. So the same code runs as WebAssembly components on Spin and inside the native binary `host-shim`.
//!
//! The core never reads a clock, an environment variable or a random number, never names a runtime, and spawns
//! only through the port [`platform::Background`]. A platform moves bytes; every decision is made here.
//!
//! To embed it, implement [`Platform`], which is the ports and the types of the stores, and make a service:
//!
//! ```
//! # #[cfg(feature = "memory")]
//! # mod embedding {
//! use paddock::{Config, Platform, Service, config::settings::Deployment};
//! use paddock::{metrics::memory::MemoryMetrics, platform::Clock, store::memory::MemoryStore};
//!
//! fn service<C: Clock + Clone, P>(platform: P, clock: C) -> Result<Service<P>, Vec<String>>
//! where
//!     P: Platform<Store = MemoryStore<C>, Metrics = MemoryMetrics>,
//! {
//!     let config = Config::load(&|name: &str| std::env::var(name).ok(), Deployment::Native)?.config;
//!     let store = MemoryStore::new(clock, config.store.memory_limit);
//!     Ok(Service::new(config, platform, store, MemoryMetrics::default()))
//! }
//! # }
//! ```
//!
//! [`Service::handle`] answers a request, and [`Service::watch`] probes the hosts while the program runs. The examples
//! `custom_platform` and `embed_in_axum` are whole programs; `plan_hosts` plans without a service.
//!
//! The public modules, in their order: a module names only those before it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`wire`] | what is public of the formats of others: the members of a JSON object, token counts |
//! | [`platform`] | the leaf ports, and what is logged, as typed events that cannot carry a message's content |
//! | [`api`] | our own HTTP: callers and keys, and everything that can go wrong, as one enum |
//! | [`fleet`] | the backend hosts, the planner, the queue, the breaker and the failover rules |
//! | [`cache`], [`session`] | keys and values of shared state, and the pure rules over them |
//! | [`store`] | shared state as semantic ports, over memory and over Redis |
//! | [`config`] | the table of settings, and what they mean once checked |
//! | [`metrics`] | what is counted, and its Prometheus text |
//! | [`host`] | the [`Service`] over a [`Platform`], and a platform in memory |
//! | [`upstream`] | asking a host |
//! | [`mod@handle`] | the only entry, for the whole service and for each Spin component |

#![forbid(unsafe_code)]

pub mod api;
pub mod cache;
pub mod config;
pub mod fleet;
mod flight;
pub mod handle;
mod handlers;
pub mod host;
pub mod metrics;
pub mod platform;
mod process;
mod request;
pub mod session;
pub mod store;
pub mod upstream;
pub mod wire;

pub use api::cors::Origins;
pub use api::error::Error;
pub use api::reply::{BrokenOff, ReplyBody};
pub use config::Config;
pub use fleet::{BackendHost, is_same_model};
pub use handle::{handle, misconfigured, too_many_connections};
pub use host::{Platform, Service};

/// The top modules in their order: a module may name those before it, and no other. `docs/architecture.md` says what
/// each is for.
#[cfg(test)]
const ORDER: [&str; 16] = [
    "wire", "platform", "api", "fleet", "cache", "session", "store", "config", "metrics", "process", "host",
    "request", "upstream", "flight", "handlers", "handle",
];

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        fs,
        path::{Path, PathBuf},
    };

    use super::ORDER;

    /// Every source file of the library, with its path from `src/`.
    fn sources() -> Vec<(PathBuf, String)> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut folders = vec![root.clone()];
        let mut found = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() && !path.ends_with("components") && !path.ends_with("tests") {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs")
                    && !path.ends_with("tests.rs")
                {
                    let text = fs::read_to_string(&path).unwrap();
                    found.push((path.strip_prefix(&root).unwrap().to_owned(), text));
                }
            }
        }
        found
    }

    /// What the service runs: the lines before the first test module, without comments.
    fn production(text: &str) -> String {
        let lines: Vec<_> = text.lines().collect();
        let is_test = |at: &usize| {
            let mut item = lines.iter().skip(*at).skip_while(|line| line.starts_with("#["));
            lines.get(*at) == Some(&"#[cfg(test)]")
                && item.next().is_some_and(|item| item.starts_with("mod "))
        };
        let end = (0..lines.len()).find(is_test).unwrap_or(lines.len());
        let code = lines.iter().take(end).map(|line| line.split("//").next().unwrap_or_default());
        code.collect::<Vec<_>>().join("\n")
    }

    /// The top modules that a source file names: the first segment of each `crate::` path, and of each entry of a
    /// `use crate::{..}` list.
    fn named(code: &str) -> BTreeSet<&str> {
        let mut names = BTreeSet::new();
        for after in code.split("crate::").skip(1) {
            let Some(list) = after.strip_prefix('{') else {
                names.extend(first_word(after));
                continue;
            };
            let mut depth = 0_i32;
            let mut begin = 0;
            for (at, letter) in list.char_indices() {
                match letter {
                    ',' | '}' if depth == 0 => {
                        names.extend(first_word(list[begin..at].trim_start()));
                        begin = at + 1;
                        if letter == '}' {
                            break;
                        }
                    }
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
            }
        }
        names
    }

    /// The module at the beginning of a path; none where the path begins with a type or a macro.
    fn first_word(path: &str) -> Option<&str> {
        let end = path.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(path.len());
        Some(&path[..end]).filter(|word| word.starts_with(char::is_lowercase))
    }

    fn position(module: &str) -> Option<usize> {
        ORDER.iter().position(|known| *known == module)
    }

    #[test]
    fn every_top_module_names_only_those_before_it() {
        let mut seen = BTreeSet::new();
        for (file, text) in sources() {
            let top = file.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
            if top == "lib" {
                continue;
            }
            let from =
                position(&top).unwrap_or_else(|| panic!("{} is in no module of the order", file.display()));
            for name in named(&production(&text)) {
                let to = position(name).unwrap_or_else(|| panic!("{} names crate::{name}", file.display()));
                assert!(to <= from, "{} names crate::{name}, which stands after {top}", file.display());
            }
            seen.insert(top);
        }
        assert_eq!(seen.len(), ORDER.len(), "every module of the order has a file");
    }

    #[test]
    fn paths_are_found_in_lists_and_in_code() {
        let code = "use crate::{api::{error::Error, body}, fleet, store::redis::{self, Guard}};\n\
                    fn f(x: crate::session::Turn) -> crate::Error { crate::wire::x() }";
        let found: Vec<_> = named(code).into_iter().collect();
        assert_eq!(found, ["api", "fleet", "session", "store", "wire"]);
    }

    #[test]
    fn the_architecture_documents_table_is_the_order() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md");
        // The packaged library comes without its documents.
        let Ok(text) = fs::read_to_string(path) else { return };
        let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
        let modules: Vec<_> = rows.map(|(module, _)| module).collect();
        assert_eq!(modules, ORDER);
    }
}
