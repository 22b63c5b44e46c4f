//! The spellings of a host: Ollama's own natively, and the one that Spin's outbound rules can match.
//!
//! Ollama's rules are those of its `OLLAMA_HOST` (envconfig): without a scheme the port defaults to 11434, with
//! `http://` to 80 and with `https://` to 443; an unspecified address means loopback for a client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A base URL without a trailing slash, from any of Ollama's spellings.
pub(super) fn parse(text: &str) -> Result<String, String> {
    let text = text.trim_matches(['"', '\'', ' ']);
    let (scheme, rest, default_port) = match text.split_once("://") {
        None => ("http", text, 11434),
        Some(("http", rest)) => ("http", rest, 80),
        Some(("https", rest)) => ("https", rest, 443),
        Some(_) => return Err("must use http or https".to_owned()),
    };
    let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    if authority.contains('@') {
        return Err("must not contain credentials".to_owned());
    }
    if text.contains(['?', '#', ';', ' ']) || text.chars().any(char::is_control) {
        return Err("must be a host, host:port or URL without query".to_owned());
    }
    let (host, port) = split(authority)?;
    let port = match port {
        None => default_port,
        Some(port) => port
            .parse::<u16>()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| "must have a port from 1 to 65535".to_owned())?,
    };
    let host = client_host(host)?;
    Ok(format!("{scheme}://{host}:{port}{}", path.trim_end_matches('/')))
}

/// The same address again, if it is written `scheme://name:port`: Spin compares the name literally, and one entry
/// of another form denies the component every outbound call.
pub(super) fn parse_strict(text: &str) -> Result<String, String> {
    match parse(text) {
        Ok(url) if url == text => Ok(url),
        Ok(_) => Err("must be written scheme://name:port on Spin, without path or slash".to_owned()),
        Err(fault) => Err(fault),
    }
}

fn split(authority: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(bracketed) = authority.strip_prefix('[') {
        let unclosed = || "has an unclosed bracket".to_owned();
        let (host, rest) = bracketed.split_once(']').ok_or_else(unclosed)?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err("must have a colon before its port".to_owned()),
        };
    }
    Ok(match authority.split_once(':') {
        // More than one colon: an IPv6 address without brackets.
        Some((_, port)) if port.contains(':') => (authority, None),
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    })
}

fn client_host(host: &str) -> Result<String, String> {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => Ok(Ipv4Addr::LOCALHOST.to_string()),
        Ok(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => Ok(format!("[{}]", Ipv6Addr::LOCALHOST)),
        Ok(IpAddr::V6(address)) => Ok(format!("[{address}]")),
        Ok(IpAddr::V4(address)) => Ok(address.to_string()),
        Err(_) if host.is_empty() => Ok(Ipv4Addr::LOCALHOST.to_string()),
        Err(_) if host.contains([':', '[', ']']) => Err("must be a name or an address".to_owned()),
        Err(_) => Ok(host.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_spelling_that_ollama_takes_means_the_same_here() {
        for (text, url) in [
            ("ollama", "http://ollama:11434"),
            ("ollama:8080", "http://ollama:8080"),
            ("", "http://127.0.0.1:11434"),
            (":8080", "http://127.0.0.1:8080"),
            ("0.0.0.0", "http://127.0.0.1:11434"),
            ("0.0.0.0:8080", "http://127.0.0.1:8080"),
            ("http://0.0.0.0:11434", "http://127.0.0.1:11434"),
            ("http://ollama", "http://ollama:80"),
            ("https://ollama", "https://ollama:443"),
            ("https://ollama:8443/", "https://ollama:8443"),
            ("http://proxy/ollama/", "http://proxy:80/ollama"),
            ("::1", "http://[::1]:11434"),
            ("[::1]", "http://[::1]:11434"),
            ("[::]:8080", "http://[::1]:8080"),
            ("\"ollama\"", "http://ollama:11434"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(url), "{text}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "::G",
            "ftp://a",
            "a:0",
            "a:99999",
            "a:b",
            "[::1",
            "[::1]8",
            "a b",
            "http://a?x",
            "http://u:p@a",
            "a;weight=3",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_was_parsed_parses_to_itself(text in "\\PC{0,40}") {
            if let Ok(url) = parse(&text) {
                prop_assert_eq!(parse(&url), Ok(url.clone()));
            }
        }
    }
}
