//! The names under which a client may address the service: Ollama's rules against DNS rebinding
//! (`server/routes.go`, `allowedHostsMiddleware`), and those of the setting `ALLOWED_HOSTS`.
//!
//! A page on the web can have its own name resolve to this machine. Its browser then takes the service for the page's own
//! origin, so that `Origin` shows nothing; only the name in `Host` does. Pure rules over a request's head: whether they
//! apply is the settings' to say.
//!
//! No crate serves: the layers that check `Host` compare it with a list, and know neither addresses nor local names.

use std::net::IpAddr;

use http::{header, request::Parts};

/// The names of this machine and of local networks, which public DNS cannot give to a page.
const LOCAL: [&str; 3] = ["localhost", "local", "internal"];

/// The names of the setting, which are allowed beside addresses and local names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedHosts(Vec<String>);

impl AllowedHosts {
    /// Parses a comma-separated list: `ai.example.com`, `*.example.com` for every name below it, or `*` for all.
    ///
    /// # Errors
    /// A sentence when an entry cannot be a name, or when there is none.
    pub fn parse(list: &str) -> Result<Self, String> {
        let lower = list.split(',').map(|entry| entry.trim().to_ascii_lowercase());
        // The dot that ends a name in DNS does not count; `*.` is no `*`.
        let rooted = |entry: String| match entry.strip_suffix('.') {
            Some(name) if name != "*" => name.to_owned(),
            _ => entry,
        };
        let entries: Vec<_> = lower.filter(|entry| !entry.is_empty()).map(rooted).collect();
        let is_entry = |entry: &String| {
            entry == "*" || is_address(entry) || is_name(entry.strip_prefix("*.").unwrap_or(entry))
        };
        if entries.is_empty() || !entries.iter().all(is_entry) {
            return Err(
                "must be names without a port, such as ai.example.com or *.example.com, or *".to_owned()
            );
        }
        Ok(Self(entries))
    }

    /// Whether the setting names any host.
    pub fn is_set(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether the client addresses the service by allowed names alone: in the target, where that is a whole URL, and in
    /// `Host`. `machine` is this machine's own name.
    pub(crate) fn allow(&self, parts: &Parts, machine: Option<&str>) -> bool {
        if self.0.iter().any(|entry| entry == "*") {
            return true;
        }
        let mut hosts = parts.headers.get_all(header::HOST).iter();
        let host = hosts.next().map_or(Ok(""), |host| host.to_str());
        // Of two headers nobody knows which one a browser sent.
        let is_one = hosts.next().is_none();
        let target = parts.uri.authority().map_or("", |authority| authority.as_str());
        is_one && host.is_ok_and(|host| self.allows(host, machine)) && self.allows(target, machine)
    }

    /// Whether `host`, with or without a port, is allowed. An empty one is: no browser sends it.
    fn allows(&self, host: &str, machine: Option<&str>) -> bool {
        let Some(name) = without_port(host) else { return false };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if host.is_empty() || is_address(&name) {
            return true;
        }
        let is_local = LOCAL.iter().any(|local| name == LOCAL[0] || is_below(&name, local));
        let is_machine = || machine.is_some_and(|machine| machine.eq_ignore_ascii_case(&name));
        let is_listed = || {
            self.0.iter().any(|entry| match entry.strip_prefix("*.") {
                Some(parent) => is_below(&name, parent),
                None => *entry == name,
            })
        };
        is_name(&name) && (is_local || is_machine() || is_listed())
    }
}

/// The host before its port, without brackets; `None` where that is not how a host is written.
fn without_port(host: &str) -> Option<&str> {
    if let Some(bracketed) = host.strip_prefix('[') {
        let (address, port) = bracketed.split_once(']')?;
        let is_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_number);
        return (is_port && address.contains(':')).then_some(address);
    }
    match host.split_once(':') {
        // An address of version 6 without brackets has no port.
        Some((_, rest)) if rest.contains(':') => Some(host),
        Some((name, port)) => (is_number(port) && !name.is_empty()).then_some(name),
        None => Some(host),
    }
}

/// Whether it has digits only; RFC 3986 allows a port that has none.
fn is_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether it is an IP address, which no DNS answer can change; an address of one link may name its network interface.
fn is_address(name: &str) -> bool {
    name.split('%').next().is_some_and(|address| address.parse::<IpAddr>().is_ok())
}

/// Whether it can be a name in DNS: what a browser sends consists of these characters.
fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    name.split('.').all(is_label)
}

/// Whether `name` is one below `parent`.
fn is_below(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent).and_then(|rest| rest.strip_suffix('.')).is_some_and(|rest| !rest.is_empty())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn allows(list: &str, host: &str) -> bool {
        let hosts =
            if list.is_empty() { AllowedHosts::default() } else { AllowedHosts::parse(list).unwrap() };
        hosts.allows(host, Some("Workstation"))
    }

    #[test]
    fn addresses_and_local_names_are_allowed_and_names_of_the_web_are_not() {
        for host in [
            "",
            "127.0.0.1",
            "127.0.0.1:8000",
            "10.1.2.3:80",
            "93.184.216.34",
            "0.0.0.0:8000",
            "[::1]",
            "[::1]:8000",
            "::1",
            "[fe80::1%eth0]:8000",
            "localhost",
            "LocalHost:8000",
            "localhost.",
            "localhost.:8000",
            "localhost:",
            "app.localhost",
            "nas.local:1",
            "Host.Docker.Internal",
            "a.b.internal.",
            "workstation",
            "WORKSTATION:8000",
        ] {
            assert!(allows("", host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8000",
            "EVIL.example.",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil.example#.localhost",
            "user@localhost",
            "evil@x.localhost",
            "xlocalhost",
            "local",
            "internal",
            ".local",
            "x..local",
            "workstation2",
            "a.workstation",
            "[evil.example]",
            "[::1",
            "[::1]x",
            "[::1]:8x",
            "localhost:80x",
            "localhost:80:80",
            ":8000",
            ".",
            "localhost..",
            "x",
            "127.0.0.1 ",
            "2130706433",
            "0x7f.1",
        ] {
            assert!(!allows("", host), "{host}");
        }
    }

    #[test]
    fn the_setting_adds_names_and_those_below_one() {
        for (list, host, is_allowed) in [
            ("ai.example.com", "AI.example.com:443", true),
            ("ai.example.com", "ai.example.com.", true),
            ("ai.example.com", "x.ai.example.com", false),
            ("ai.example.com", "localhost", true),
            (" AI.Example.Com. ,*.b.example", "ai.example.com", true),
            ("*.b.example", "x.y.b.example", true),
            ("*.b.example", "b.example", false),
            ("*.b.example", "xb.example", false),
        ] {
            assert_eq!(allows(list, host), is_allowed, "{list} {host}");
        }
        for list in ["", " , ", "http://a", "a:8000", "a b", "*x", "a.*", "*.", "a/b", "user@a"] {
            assert!(AllowedHosts::parse(list).is_err(), "{list}");
        }
    }

    #[test]
    fn every_host_that_a_request_names_counts() {
        for (target, hosts, is_allowed) in [
            ("/chat", &[][..], true),
            ("/chat", &["localhost"], true),
            ("/chat", &["evil.example"], false),
            ("/chat", &["localhost", "localhost"], false),
            ("/chat", &["localhost", "evil.example"], false),
            ("http://evil.example/chat", &["localhost"], false),
            ("http://localhost/chat", &["evil.example"], false),
            ("http://localhost:8000/chat", &["localhost:8000"], true),
            ("http://user@localhost/chat", &["localhost"], false),
        ] {
            let request =
                hosts.iter().fold(Request::get(target), |request, host| request.header(header::HOST, *host));
            let parts = request.body(()).unwrap().into_parts().0;
            assert_eq!(AllowedHosts::default().allow(&parts, None), is_allowed, "{target} {hosts:?}");
        }
        let unreadable =
            Request::get("/").header(header::HOST, &b"\xff.local"[..]).body(()).unwrap().into_parts().0;
        assert!(!AllowedHosts::default().allow(&unreadable, None));
        assert!(AllowedHosts::parse("a.example, *").unwrap().allow(&unreadable, None));
    }
}
