//! Reads the hosts of the settings: hosts with an address of their own, and host names that stand for several
//! addresses.

use http::Uri;

use super::{
    SettingsReader,
    host_address::{self, HostOptions},
    settings::{Deployment, Settings},
};
use crate::fleet::{BackendHost, HOSTS_LIMIT, HostName};

/// The variables of the hosts on Spin, where each variable holds one host.
const HOST_VARIABLES: [&str; 8] = [
    "OLLAMA_HOST",
    "OLLAMA_HOST2",
    "OLLAMA_HOST3",
    "OLLAMA_HOST4",
    "OLLAMA_HOST5",
    "OLLAMA_HOST6",
    "OLLAMA_HOST7",
    "OLLAMA_HOST8",
];

/// One entry of the host list.
enum HostEntry {
    Host(BackendHost),
    Name(HostName),
}

/// The hosts and the host names, each with its position in the list.
pub(super) fn read(reader: &mut SettingsReader<'_, impl Settings>) -> (Vec<BackendHost>, Vec<HostName>) {
    let spellings = spellings(reader);
    if spellings.is_empty() {
        reader.problem("OLLAMA_HOST", "must name at least one host, such as http://127.0.0.1:11434");
    }
    let parallel = reader.number("HOST_PARALLEL");
    let weights = match reader.form() {
        Deployment::Native => Vec::new(),
        Deployment::Spin => reader.parsed("OLLAMA_WEIGHTS", weights).unwrap_or_default(),
    };
    let mut hosts: Vec<BackendHost> = Vec::new();
    let mut names: Vec<HostName> = Vec::new();
    for (index, (setting, text)) in spellings.into_iter().enumerate() {
        let position = hosts.len() + names.len() + 1;
        let own = HostOptions { weight: weights.get(index).copied(), parallel: Some(parallel) };
        match entry(reader.form(), position, &text, own) {
            Err(fault) => reader.problem(setting, &fault),
            Ok(HostEntry::Host(host)) if hosts.iter().any(|known| known.url() == host.url()) => {
                reader.warning(format!("{setting}: {} is named twice and counts once", host.url()));
            }
            Ok(HostEntry::Host(host)) => {
                if let Some(base) = base_of_api(host.url()) {
                    let url = host.url();
                    reader.warning(format!(
                        "{setting}: {url} ends in a path that Ollama's API begins with; the right value is probably {base}"
                    ));
                }
                hosts.push(host);
            }
            Ok(HostEntry::Name(name)) if names.iter().any(|known| is_twin(known, &name)) => {
                let HostName { host, port, .. } = name;
                reader.warning(format!("{setting}: dns+http://{host}:{port} is named twice and counts once"));
            }
            Ok(HostEntry::Name(name)) => names.push(name),
        }
    }
    let count = hosts.len() + names.len();
    let mut all = hosts.iter().map(BackendHost::weight).chain(names.iter().map(|name| name.weight));
    if count > 0 && all.all(|weight| weight == 0) {
        reader.problem("OLLAMA_HOST", "must leave one host a weight above 0");
    }
    if count > HOSTS_LIMIT {
        reader.problem("OLLAMA_HOSTS", &format!("must name at most {HOSTS_LIMIT} hosts"));
    }
    (hosts, names)
}

/// The entries as they were written, each with the name of its setting.
fn spellings(reader: &SettingsReader<'_, impl Settings>) -> Vec<(&'static str, String)> {
    let list = if reader.form() == Deployment::Native { reader.text("OLLAMA_HOSTS") } else { String::new() };
    let mut named: Vec<(&'static str, String)> = if list.is_empty() {
        let variables = match reader.form() {
            Deployment::Native => HOST_VARIABLES.get(..1).unwrap_or_default(),
            Deployment::Spin => &HOST_VARIABLES,
        };
        variables.iter().map(|name| (*name, reader.text(name))).collect()
    } else {
        list.split(',').map(|entry| ("OLLAMA_HOSTS", entry.trim().to_owned())).collect()
    };
    named.retain(|(_, text)| !text.is_empty());
    named
}

/// Parses one entry; `own` holds the options that apply unless the entry sets them.
fn entry(form: Deployment, position: usize, text: &str, own: HostOptions) -> Result<HostEntry, String> {
    let name_behind = match form {
        Deployment::Native => host_address::behind_name(text)?,
        Deployment::Spin => None,
    };
    let (address, said) = match form {
        Deployment::Native => host_address::parse_with_options(name_behind.unwrap_or(text))?,
        Deployment::Spin => (host_address::parse_strict(text)?, HostOptions::default()),
    };
    let host = BackendHost::new(position, &address)?
        .with_weight(said.weight.or(own.weight).unwrap_or(1))
        .with_parallel(said.parallel.or(own.parallel).unwrap_or_default());
    if name_behind.is_some() { name(position, &host).map(HostEntry::Name) } else { Ok(HostEntry::Host(host)) }
}

/// Makes a host name from a parsed host.
fn name(position: usize, host: &BackendHost) -> Result<HostName, String> {
    let form = || "must be written dns+http://name:port, without path".to_owned();
    let address = Uri::try_from(host.url()).map_err(|_| form())?;
    let (Some(name), Some(port), "/") = (address.host(), address.port_u16(), address.path()) else {
        return Err(form());
    };
    let name = name.trim_matches(['[', ']']).to_owned();
    Ok(HostName { position, host: name, port, weight: host.weight(), parallel: host.parallel() })
}

/// The address without `/v1`, `/api` and what follows, if it has them: clients are given such addresses, but a host is
/// named by what comes before.
fn base_of_api(url: &str) -> Option<&str> {
    let authority = url.find("://").map(|scheme| scheme + 3)?;
    let path = authority + url.get(authority..)?.find('/')?;
    let slashes = url.match_indices('/').map(|(slash, _)| slash).filter(|slash| *slash >= path);
    let is_api = |slash: &usize| {
        let segment = url.get(slash + 1..).and_then(|rest| rest.split('/').next());
        matches!(segment, Some("v1" | "api"))
    };
    let base = slashes.into_iter().find(is_api)?;
    url.get(..base)
}

fn is_twin(name: &HostName, other: &HostName) -> bool {
    (&name.host, name.port) == (&other.host, other.port)
}

/// Parses the weights of a list such as `3,1,0`.
fn weights(list: &str) -> Result<Vec<u64>, String> {
    list.split(',').map(|weight| host_address::weight(weight.trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Loaded, tests::load};

    fn urls(config: &Config) -> Vec<&str> {
        config.fleet.hosts.iter().map(BackendHost::url).collect()
    }

    #[test]
    fn the_list_of_hosts_wins_and_twins_count_once() {
        let loaded =
            load(&[("OLLAMA_HOSTS", "a:1, http://b ,a:1,"), ("OLLAMA_HOST", "c")], Deployment::Native)
                .unwrap();
        assert_eq!(urls(&loaded.config), ["http://a:1", "http://b:80"]);
        assert_eq!(loaded.warnings, ["OLLAMA_HOSTS: http://a:1 is named twice and counts once"]);
    }

    #[test]
    fn an_address_of_the_api_is_taken_with_a_warning_that_names_the_hosts_own() {
        for (host, probably) in [
            ("http://h:1/v1", Some("http://h:1")),
            ("http://h:1/v1/", Some("http://h:1")),
            ("http://h:1/api", Some("http://h:1")),
            ("h:1/api/chat", Some("http://h:1")),
            ("http://h:1/ollama/v1/chat/completions", Some("http://h:1/ollama")),
            ("http://api:1/ollama", None),
            ("http://h:1/apis", None),
            ("http://v1:1", None),
        ] {
            let warnings = load(&[("OLLAMA_HOST", host)], Deployment::Native).unwrap().warnings;
            let expected = probably.map(|base| format!("the right value is probably {base}"));
            assert_eq!(warnings.len(), usize::from(probably.is_some()), "{host}: {warnings:?}");
            assert!(expected.is_none_or(|expected| warnings[0].ends_with(&expected)), "{warnings:?}");
        }
    }

    #[test]
    fn on_spin_a_host_is_scheme_name_and_port_and_nothing_else() {
        let spin = |host: &str| load(&[("OLLAMA_HOST", host), ("REDIS_HOST", "r")], Deployment::Spin);
        assert_eq!(urls(&spin("http://ollama:11434").unwrap().config), ["http://ollama:11434"]);
        for host in [
            "ollama",
            "ollama:11434",
            "http://ollama",
            "http://ollama:11434/",
            "http://a:1;weight=3",
            "dns+https://a:1",
        ] {
            assert_eq!(spin(host).unwrap_err().len(), 1, "{host}");
        }
        let problems = spin("dns+http://ollama:11434").unwrap_err();
        assert!(problems.concat().contains("scheme://name:port on Spin"), "{problems:?}");
    }

    #[test]
    fn a_name_for_every_address_has_its_place_among_the_hosts() {
        let list = "a:1, dns+http://ollama:11434;weight=3 ,b:1,\"dns+http://[::1]\",dns+http://ollama:11434";
        let Loaded { config, warnings } =
            load(&[("OLLAMA_HOSTS", list), ("HOST_PARALLEL", "7")], Deployment::Native).unwrap();
        let name = |position, host: &str, port, weight| HostName {
            position,
            host: host.to_owned(),
            port,
            weight,
            parallel: 7,
        };
        assert_eq!(config.fleet.names, [name(2, "ollama", 11434, 3), name(4, "::1", 80, 1)]);
        let positions: Vec<_> = config.fleet.hosts.iter().map(BackendHost::name).collect();
        assert_eq!(positions, ["1", "3"]);
        assert_eq!(warnings, ["OLLAMA_HOSTS: dns+http://ollama:11434 is named twice and counts once"]);
    }

    #[test]
    fn one_name_is_enough_and_takes_the_options_of_a_host() {
        let name =
            |text: &str| load(&[("OLLAMA_HOST", text)], Deployment::Native).map(|loaded| loaded.config);
        let config = name("dns+http://ollama:11434;parallel=2;weight=5").unwrap();
        assert!(config.fleet.hosts.is_empty());
        let options: Vec<_> = config.fleet.names.iter().map(|name| (name.weight, name.parallel)).collect();
        assert_eq!(options, [(5, 2)]);
        for text in [
            "dns+http://a:1;weight=0",
            "dns+http://a:1/path",
            "dns+http://a:0",
            "dns+http://u:p@a:1",
            "dns+http://a:1;zone=b",
            "dns+a:1",
            "dns+ftp://a:1",
        ] {
            assert_eq!(name(text).unwrap_err().len(), 1, "{text}");
        }
        let problems = name("dns+https://ollama:11434").unwrap_err();
        assert!(problems.concat().contains("certificates name hosts, not addresses"), "{problems:?}");
    }
}
