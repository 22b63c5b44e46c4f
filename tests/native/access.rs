//! Who is let in where the service itself answers for every path and knows where it listens; on Spin an unknown path
//! reaches no component.

use anyhow::{Context as _, Result};
use http::Method;
use paddock_tests::{
    gateway::{Form as _, Gateway, HostShim, PATIENCE},
    ollama::FakeOllama,
    setup::Setup,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

#[tokio::test]
async fn without_a_key_nobody_learns_which_paths_there_are() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = crate::EMBEDDED.start(Setup::new([&ollama]).set("API_KEYS", "alpha")).await?;
    for path in ["/unknown", "/chat", "/api/tags"] {
        assert_eq!(gateway.get(path).await?.status, 401, "{path}");
    }
    Ok(())
}

/// The status of `GET /api/tags` at this host.
async fn status_at(gateway: &dyn Gateway, host: &str) -> Result<u16> {
    let reply = gateway.request(Method::GET, "/api/tags", "", &[("host", host)]).await?;
    Ok(reply.status.as_u16())
}

#[tokio::test]
async fn on_loopback_without_keys_only_addresses_and_local_names_lead_here() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned();
    let open = crate::EMBEDDED.start(Setup::new([&ollama])).await?;
    for (host, status) in [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("192.0.2.7:8000", 200),
        (&machine, 200),
        ("evil.example", 403),
        ("evil.example:8000", 403),
    ] {
        assert_eq!(status_at(open.as_ref(), host).await?, status, "{host}");
    }
    // A page whose name leads here is of the service's own origin.
    let page = [("host", "evil.example:8000"), ("origin", "http://evil.example:8000")];
    let reply = open.request(Method::POST, "/chat", r#"{"message":"hello"}"#, &page).await?;
    assert_eq!(reply.outcome(), (403, "host_not_allowed".to_owned()));
    // With keys the page has none; elsewhere, names are the operator's business.
    let keyed = crate::EMBEDDED.start(Setup::new([&ollama]).set("API_KEYS", "alpha")).await?;
    assert_eq!(status_at(keyed.as_ref(), "evil.example").await?, 401);
    for (setting, value) in [("LISTEN", "0.0.0.0:0"), ("ALLOWED_HOSTS", "ai.example.com,evil.example")] {
        let gateway = crate::EMBEDDED.start(Setup::new([&ollama]).set(setting, value)).await?;
        assert_eq!(status_at(gateway.as_ref(), "evil.example").await?, 200, "{setting}");
    }
    Ok(())
}

#[tokio::test]
async fn a_name_in_the_target_counts_as_one_in_host_does_and_two_hosts_are_none() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = crate::EMBEDDED.start(Setup::new([&ollama])).await?;
    let address = gateway.url().context("no address")?;
    for (head, status) in [
        ("GET http://evil.example/livez HTTP/1.1\r\nhost: localhost", 403),
        ("GET http://localhost/livez HTTP/1.1\r\nhost: localhost", 200),
        ("GET /livez HTTP/1.1\r\nhost: localhost\r\nhost: evil.example", 403),
        ("GET /livez HTTP/1.1\r\nhost: evil.example\r\nhost: localhost", 403),
        ("GET /livez HTTP/1.1\r\nhost:", 200),
        ("GET /livez HTTP/1.1", 200),
        ("GET /livez HTTP/1.0", 200),
    ] {
        let mut connection = TcpStream::connect(address.trim_start_matches("http://")).await?;
        connection.write_all(format!("{head}\r\nconnection: close\r\n\r\n").as_bytes()).await?;
        let mut reply = String::new();
        tokio::time::timeout(PATIENCE, connection.read_to_string(&mut reply)).await??;
        assert!(reply.contains(&format!(" {status} ")), "{head}: {reply}");
    }
    Ok(())
}

#[tokio::test]
async fn the_first_line_says_who_can_reach_the_service_and_whether_they_need_a_key() -> Result<()> {
    for (listen, api_keys, reachable, keys) in [
        ("127.0.0.1:0", "", "this machine only", "none needed"),
        ("localhost:0", "alpha", "this machine only", "needed"),
        ("0.0.0.0:0", "alpha", "every machine that has a way to this address", "needed"),
        ("0.0.0.0:0", "", "every machine that has a way to this address", "none needed"),
    ] {
        let settings = [("LISTEN", listen), ("API_KEYS", api_keys)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let shim = HostShim::start(settings.iter().map(|(name, value)| (name, value))).await?;
        let line = shim.wait_for_log(|line| (line["message"] == "listening").then(|| line.clone())).await?;
        assert_eq!((&line["reachable"], &line["keys"]), (&reachable.into(), &keys.into()), "{listen}");
    }
    Ok(())
}
