//! Parses the address of a host: any of Ollama's spellings natively, and on Spin the one spelling that outbound rules
//! can match.
//!
//! Ollama's rules are those of `OLLAMA_HOST` (`envconfig`): the port defaults to 11434 without a scheme, to 80 with
//! `http://` and to 443 with `https://`; an unspecified address means loopback for a client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The base URL without slashes and quotes at its end, from any of Ollama's spellings. Parsing the result again gives
/// the same.
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
    // Slashes and quotes may alternate, so all of both are removed.
    Ok(format!("{scheme}://{host}:{port}{}", path.trim_end_matches(['/', '"', '\''])))
}

/// The highest weight of a host.
const WEIGHT_LIMIT: u64 = 1000;
/// The highest limit of requests in flight for each model on a host.
const PARALLEL_LIMIT: u64 = 10_000;

/// The options that may follow a host's address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct HostOptions {
    pub(super) weight: Option<u64>,
    pub(super) parallel: Option<u64>,
}

/// Parses an address, as [`parse`] takes it, with its options: `http://a:11434;weight=3;parallel=8`.
pub(super) fn parse_with_options(text: &str) -> Result<(String, HostOptions), String> {
    let mut parts = text.split(';').map(str::trim);
    let address = parse(parts.next().unwrap_or_default())?;
    let mut options = HostOptions::default();
    for part in parts {
        match part.split_once('=').map(|(name, value)| (name.trim(), value.trim())) {
            Some(("weight", value)) => options.weight = Some(weight(value)?),
            Some(("parallel", value)) => {
                let number = value.parse().ok().filter(|parallel| (1..=PARALLEL_LIMIT).contains(parallel));
                options.parallel = Some(number.ok_or("must have a parallel from 1 to 10000")?);
            }
            _ => return Err("may have ;weight=N and ;parallel=N behind it and nothing else".to_owned()),
        }
    }
    Ok((address, options))
}

/// Native only: `http://a:1` of `dns+http://a:1`, which means every address behind the name; `None` for a single host.
pub(super) fn behind_name(text: &str) -> Result<Option<&str>, String> {
    match text.trim_start_matches(['"', '\'', ' ']).strip_prefix("dns+") {
        None => Ok(None),
        Some(address) if address.starts_with("http://") => Ok(Some(address)),
        Some(address) if address.starts_with("https://") => {
            Err("must use dns+http, not dns+https: certificates name hosts, not addresses".to_owned())
        }
        Some(_) => Err("must be written dns+http://name:port".to_owned()),
    }
}

/// Parses a host's weight.
pub(super) fn weight(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|weight| *weight <= WEIGHT_LIMIT);
    number.ok_or_else(|| "must have weights from 0 to 1000".to_owned())
}

/// Checks that an address is written `scheme://name:port`. Spin compares the name literally, and one entry of another
/// form denies the component every outbound call.
pub(super) fn parse_strict(text: &str) -> Result<String, String> {
    if text.starts_with("dns+") {
        return Err("must be written scheme://name:port on Spin: dns+http:// exists natively only".to_owned());
    }
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
        // An IPv6 address without brackets has more than one colon.
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
            ("\"/'/\"", "http://127.0.0.1:11434"),
            ("'http://proxy/ollama'/\"/", "http://proxy:80/ollama"),
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

    #[test]
    fn a_host_may_have_a_weight_and_a_limit_of_its_own() {
        let options = |weight, parallel| HostOptions { weight, parallel };
        for (text, expected) in [
            ("a", options(None, None)),
            ("http://a:11434;weight=3", options(Some(3), None)),
            ("a:11434; parallel = 8 ;weight=0", options(Some(0), Some(8))),
        ] {
            assert_eq!(parse_with_options(text), Ok(("http://a:11434".to_owned(), expected)), "{text}");
        }
        for text in
            ["a;", "a;weight", "a;weight=x", "a;weight=-1", "a;weight=1001", "a;parallel=0", "a;zone=b"]
        {
            assert!(parse_with_options(text).is_err(), "{text}");
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
