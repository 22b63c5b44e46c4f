//! `allowed_outbound_hosts` by Spin's own rules. Must never be kinder than Spin: one malformed entry denies a component
//! all outbound traffic, Redis included, and names are compared as names, nothing is looked up.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use url::{Host, Url};

use super::variables::{Template, Values};

/// What one component may reach.
#[derive(Debug, Clone)]
pub struct AllowedHosts(Result<Vec<Entry>, String>);

#[derive(Debug, Clone)]
struct Entry {
    /// `None` for any.
    scheme: Option<String>,
    host: HostRule,
    ports: PortRule,
}

#[derive(Debug, Clone)]
enum HostRule {
    Any,
    /// The application itself, which only relative URLs reach.
    Itself,
    Subdomain(String),
    Network(IpAddr, u32),
    Exact(Host),
}

#[derive(Debug, Clone)]
enum PortRule {
    Any,
    One(u16),
    /// Without its end.
    Range(u16, u16),
}

impl AllowedHosts {
    /// Fills in the entries; an error is kept, to be met by the first outbound call as in Spin.
    pub fn resolve(entries: &[String], values: &Values) -> Self {
        Self(Self::entries(entries, values).map_err(|error| format!("{error:#}")))
    }

    /// What Spin checks at load: entries that are complete with the defaults alone.
    pub(super) fn check_manifest(entries: &[String], defaults: &Values) -> Result<()> {
        for entry in entries {
            let template = Template::parse(entry)?;
            if template.names().all(|name| defaults.contains_key(name)) || template.names().next().is_none() {
                Self::entries(std::slice::from_ref(entry), defaults)?;
            }
        }
        Ok(())
    }

    fn entries(entries: &[String], values: &Values) -> Result<Vec<Entry>> {
        let mut resolved = Vec::new();
        for entry in entries {
            let text = Template::parse(entry)?.resolve(values)?;
            if !text.trim().is_empty() {
                resolved.push(
                    Entry::parse(text.trim()).with_context(|| format!("allowed outbound host {text:?}"))?,
                );
            }
        }
        Ok(resolved)
    }

    /// Whether `url` may be called; an address without scheme gets `default_scheme`. An error means that the list is
    /// malformed and nothing is allowed.
    pub fn check(&self, url: &str, default_scheme: &str) -> Result<bool, &str> {
        let Some(url) = parse_url(url, default_scheme) else { return Ok(false) };
        let entries = self.0.as_ref().map_err(String::as_str)?;
        let Some(host) = url.host_str().and_then(|host| Host::parse(host).ok()) else { return Ok(false) };
        let port = url.port().or_else(|| well_known_port(url.scheme()));
        Ok(entries.iter().any(|entry| entry.allows(url.scheme(), &host, port)))
    }
}

/// User and password may hold characters that no URL may, and do not matter here.
fn parse_url(address: &str, default_scheme: &str) -> Option<Url> {
    let start = address.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = address.split_at_checked(start)?;
    let authority = rest.split('/').next().unwrap_or_default();
    let rest = authority.find('@').and_then(|at| rest.get(at + 1..)).unwrap_or(rest);
    let plain = format!("{scheme}{rest}");
    Url::parse(&plain)
        .ok()
        .filter(Url::has_host)
        .or_else(|| Url::parse(&format!("{default_scheme}://{plain}")).ok())
}

fn well_known_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        "redis" => Some(6379),
        "postgres" => Some(5432),
        "mysql" => Some(3306),
        "mqtt" => Some(1883),
        _ => None,
    }
}

impl Entry {
    fn parse(text: &str) -> Result<Self> {
        let (scheme, rest) = text.split_once("://").context("no scheme")?;
        let (host, rest) = rest.rsplit_once(':').unwrap_or((rest, ""));
        let (port, path) = rest.split_once('/').unwrap_or((rest, ""));
        ensure!(path.is_empty(), "a path is not allowed");
        ensure!(
            scheme == "*" || scheme.chars().all(char::is_alphabetic),
            "scheme {scheme:?} is not alphabetic"
        );
        Ok(Self {
            ports: PortRule::parse(port, scheme)?,
            host: HostRule::parse(host.trim())?,
            scheme: (scheme != "*").then(|| scheme.to_owned()),
        })
    }

    fn allows(&self, scheme: &str, host: &Host, port: Option<u16>) -> bool {
        self.scheme.as_deref().is_none_or(|allowed| allowed == scheme)
            && self.host.allows(host)
            && self.ports.allows(port)
    }
}

impl HostRule {
    fn parse(host: &str) -> Result<Self> {
        match host {
            "*" => return Ok(Self::Any),
            "self" | "self.alt" => return Ok(Self::Itself),
            _ => {}
        }
        if let Some((address, bits)) = host.split_once('/')
            && let (Ok(address), Ok(bits)) = (address.parse::<IpAddr>(), bits.parse::<u32>())
        {
            ensure!(bits <= if address.is_ipv4() { 32 } else { 128 }, "network prefix out of range");
            return Ok(Self::Network(address, bits));
        }
        let host = host.trim_end_matches('/');
        ensure!(!host.contains('/'), "must not include a path");
        let (wild, name) = host.strip_prefix("*.").map_or((false, host), |name| (true, name));
        ensure!(!name.contains('*'), "a wildcard is allowed only as the first label");
        if wild {
            return Ok(Self::Subdomain(format!(".{name}")));
        }
        Host::parse(name).map(Self::Exact).with_context(|| format!("host {name:?}"))
    }

    fn allows(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Any, _) => true,
            (Self::Exact(name), _) => name == host,
            (Self::Subdomain(suffix), Host::Domain(name)) => name.ends_with(suffix.as_str()),
            (Self::Network(IpAddr::V4(net), bits), Host::Ipv4(ip)) => {
                (net.to_bits() ^ ip.to_bits()).leading_zeros() >= *bits
            }
            (Self::Network(IpAddr::V6(net), bits), Host::Ipv6(ip)) => {
                (net.to_bits() ^ ip.to_bits()).leading_zeros() >= *bits
            }
            (Self::Itself | Self::Subdomain(_) | Self::Network(..), _) => false,
        }
    }
}

impl PortRule {
    fn parse(port: &str, scheme: &str) -> Result<Self> {
        let number =
            |text: &str| text.parse::<u16>().with_context(|| format!("port {port:?} is not a number"));
        match (port, port.split_once("..")) {
            ("", _) => match well_known_port(scheme) {
                Some(port) => Ok(Self::One(port)),
                None => bail!("no port is given and scheme {scheme:?} has no known one"),
            },
            ("*", _) => Ok(Self::Any),
            (_, Some((start, end))) => Ok(Self::Range(number(start)?, number(end)?)),
            (_, None) => number(port).map(Self::One),
        }
    }

    fn allows(&self, port: Option<u16>) -> bool {
        match (self, port) {
            (Self::Any, _) => true,
            (Self::One(one), Some(port)) => *one == port,
            (Self::Range(start, end), Some(port)) => (*start..*end).contains(&port),
            (_, None) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> AllowedHosts {
        let entries: Vec<String> = entries.iter().map(|&entry| entry.to_owned()).collect();
        let values = [("empty".to_owned(), String::new()), ("h".to_owned(), "http://a.example:1".to_owned())];
        AllowedHosts::resolve(&entries, &Values::from(values))
    }

    fn allows(entry: &str, url: &str) -> bool {
        list(&[entry]).check(url, "https").unwrap()
    }

    #[test]
    fn scheme_host_and_port_must_match() {
        assert!(allows("http://a.example:11434", "http://a.example:11434/api/chat"));
        assert!(!allows("http://a.example:11434", "https://a.example:11434/"));
        assert!(!allows("http://a.example:11434", "http://b.example:11434/"));
        assert!(!allows("http://a.example:11434", "http://a.example/"));
        assert!(!allows("http://localhost:1", "http://127.0.0.1:1/"));
        assert!(allows("{{ h }}", "http://A.example:1/"));
    }

    #[test]
    fn ports_default_by_scheme() {
        assert!(allows("http://h", "http://h/") && allows("http://h/", "http://h:80/"));
        assert!(allows("https://h", "https://h:443/"));
        assert!(allows("redis://h", "redis://u:p%40ss@h/0") && allows("redis://h:6379", "redis://:p@h"));
        assert!(allows("rediss://h:6380", "rediss://h:6380"));
    }

    #[test]
    fn wildcards() {
        assert!(allows("*://*:*", "http://anything:9/") && allows("*://h:7", "redis://h:7"));
        assert!(allows("http://*.svc.local:1", "http://a.b.svc.local:1/"));
        assert!(!allows("http://*.svc.local:1", "http://svc.local:1/"));
        assert!(
            allows("http://h:8000..9000", "http://h:8999/")
                && !allows("http://h:8000..9000", "http://h:9000/")
        );
        assert!(
            allows("http://10.0.0.0/8:1", "http://10.9.9.9:1/")
                && !allows("http://10.0.0.0/8:1", "http://11.0.0.1:1/")
        );
        assert!(allows("http://[::1]:1", "http://[::1]:1/"));
    }

    #[test]
    fn one_malformed_entry_denies_everything() {
        for bad in [
            "h:80",
            "http://h:1/api",
            "http://h/api",
            "redis://u:p@h:6379",
            "http://h:1;weight=3",
            "rediss://h",
            "a b",
            "{{ unknown }}",
        ] {
            let list = list(&["http://good:1", bad]);
            assert!(list.check("http://good:1/", "https").is_err(), "{bad}");
        }
    }

    #[test]
    fn an_entry_that_resolves_to_nothing_is_skipped() {
        assert!(list(&["{{ empty }}", "http://good:1"]).check("http://good:1/", "https").unwrap());
        assert!(!list(&["{{ empty }}"]).check("http://good:1/", "https").unwrap());
    }
}
