//! Whether the address of a host is the one that the service itself listens on: such a host would be asked by itself, for
//! ever.
//!
//! Pure: which addresses are this machine's is an argument.

use std::net::{IpAddr, SocketAddr};

use http::Uri;

use crate::fleet::BackendHost;

/// The name or address, and the port, that a host is asked at.
pub fn place(host: &BackendHost) -> Option<(String, u16)> {
    let url = Uri::try_from(host.url()).ok()?;
    Some((url.host()?.trim_matches(['[', ']']).to_owned(), url.port_u16()?))
}

/// Whether a connection to `to` reaches a service that listens on `listening`.
pub fn leads_back(
    listening: SocketAddr,
    to: SocketAddr,
    is_of_this_machine: impl Fn(IpAddr) -> bool,
) -> bool {
    let (own, address) = (listening.ip().to_canonical(), to.ip().to_canonical());
    let is_reached = if own.is_unspecified() {
        // A listener on every IPv4 address takes no IPv6; one on every IPv6 address takes IPv4 as well.
        let takes = own.is_ipv6() || address.is_ipv4();
        takes && (address.is_loopback() || address.is_unspecified() || is_of_this_machine(address))
    } else {
        // To connect to no address in particular is to connect to this machine.
        address == own || address.is_unspecified() && own.is_loopback()
    };
    listening.port() == to.port() && is_reached
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_ours_as_far_as_we_listen_on_it() {
        for (listening, to, expected) in [
            ("127.0.0.1:8000", "127.0.0.1:8000", true),
            ("127.0.0.1:8000", "127.0.0.1:11434", false),
            ("127.0.0.1:8000", "[::ffff:127.0.0.1]:8000", true),
            ("127.0.0.1:8000", "0.0.0.0:8000", true),
            ("127.0.0.1:8000", "10.0.0.7:8000", false),
            ("127.0.0.1:8000", "127.0.0.2:8000", false),
            ("0.0.0.0:8000", "127.0.0.1:8000", true),
            ("0.0.0.0:8000", "127.0.0.9:8000", true),
            ("0.0.0.0:8000", "10.0.0.7:8000", true),
            ("0.0.0.0:8000", "10.0.0.8:8000", false),
            ("0.0.0.0:8000", "[::ffff:127.0.0.1]:8000", true),
            ("0.0.0.0:8000", "[::1]:8000", false),
            ("[::]:8000", "[::1]:8000", true),
            ("[::]:8000", "10.0.0.7:8000", true),
            ("10.0.0.7:8000", "10.0.0.7:8000", true),
            ("10.0.0.7:8000", "127.0.0.1:8000", false),
            ("10.0.0.7:8000", "10.0.0.7:8001", false),
        ] {
            let machine = IpAddr::from([10, 0, 0, 7]);
            let [own, other] = [listening, to].map(|text| text.parse::<SocketAddr>().unwrap());
            assert_eq!(leads_back(own, other, |address| address == machine), expected, "{listening} {to}");
        }
    }

    #[test]
    fn a_host_is_asked_where_its_url_says() {
        for (url, expected) in [("http://a:1/base", ("a", 1)), ("http://[::1]:80", ("::1", 80))] {
            let host = BackendHost::new(1, url).unwrap();
            assert_eq!(place(&host), Some((expected.0.to_owned(), expected.1)));
        }
    }
}
