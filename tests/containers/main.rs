//! What only containers show: a Redis that its host stops and freezes, and the whole stack of the compose file.
//!
//! Without Docker these tests say that they are skipped, in a line of their own that `scripts/test` counts, unless
//! `REQUIRE_DOCKER=1` makes that an error.

#![cfg(test)]

use std::{
    io::Write as _,
    process::Command,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use paddock_tests::{
    artifacts::{self, workspace},
    gateway::{Form as _, Gateway, Native},
    ollama::FakeOllama,
    prometheus::Scrape,
    redis_server::RedisServer,
    setup::Setup,
};
use testcontainers::{
    ContainerAsync, GenericImage, ImageExt as _,
    core::{IntoContainerPort as _, WaitFor},
    runners::AsyncRunner as _,
};

/// Whether there is a Docker to use.
///
/// # Errors
/// When there is none but there must be one.
fn docker() -> Result<bool> {
    static USABLE: OnceLock<bool> = OnceLock::new();
    let usable = *USABLE.get_or_init(|| {
        let info = Command::new("docker").args(["info", "--format", "{{.ServerVersion}}"]).output();
        info.is_ok_and(|output| output.status.success())
    });
    if !usable && std::env::var("REQUIRE_DOCKER").is_ok_and(|value| value == "1") {
        bail!("REQUIRE_DOCKER=1, but Docker is not usable: 'docker info' fails");
    }
    if !usable {
        // Not by a macro, whose output the test runner keeps to itself, and at once, so that no other line cuts this one.
        std::io::stderr().write_all(b"\ntest skipped: Docker is not usable here\n")?;
    }
    Ok(usable)
}

/// The name and the tag of the Redis image, pulled or assembled by then.
fn redis_image() -> Result<(String, String)> {
    let output = Command::new(workspace().join("scripts/local-images")).arg("redis").output()?;
    let text = String::from_utf8(output.stdout)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{errors}");
    let image = text.lines().find_map(|line| line.strip_prefix("REDIS_IMAGE=")).context("no REDIS_IMAGE")?;
    let (name, tag) = image.rsplit_once(':').unwrap_or((image, "latest"));
    Ok((name.to_owned(), tag.to_owned()))
}

/// A Redis container whose port stays the same over a restart.
async fn redis() -> Result<(ContainerAsync<GenericImage>, Arc<RedisServer>)> {
    let (name, tag) = tokio::task::spawn_blocking(redis_image).await??;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let container = GenericImage::new(name, tag)
        .with_wait_for(WaitFor::message_on_stdout("Ready to accept connections"))
        .with_mapped_port(port, 6379.tcp())
        .start()
        .await?;
    Ok((container, Arc::new(RedisServer::at(&format!("redis://127.0.0.1:{port}/0"))?)))
}

async fn does_without(gateway: &dyn Gateway) -> Result<()> {
    for message in ["during", "still during"] {
        let started = std::time::Instant::now();
        let reply = gateway.say_in("s", message).await?;
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        assert_eq!((reply.cache(), reply.header("x-session")), ("bypass", "unavailable"));
    }
    let health = gateway.get("/health").await?;
    assert_eq!((health.status.as_u16(), health.at("/status")), (200, "degraded".to_owned()));
    assert_eq!(Scrape::of(gateway).await?.count("paddock_store_up", &[]), 0);
    Ok(())
}

async fn is_back(gateway: &dyn Gateway) -> Result<()> {
    gateway.until("s", |reply| reply.cache() == "miss" && reply.header("x-session") == "stored").await?;
    assert_eq!(Scrape::of(gateway).await?.count("paddock_store_up", &[]), 1);
    Ok(())
}

#[tokio::test]
async fn chats_go_on_while_the_redis_container_is_stopped() -> Result<()> {
    if !docker()? {
        return Ok(());
    }
    let (container, redis) = redis().await?;
    let hosts = [FakeOllama::start().await?];
    let gateway = Native { redis: true }.start(Setup::new(&hosts).redis(&redis)).await?;
    is_back(gateway.as_ref()).await?;
    container.stop().await?;
    does_without(gateway.as_ref()).await?;
    container.start().await?;
    is_back(gateway.as_ref()).await
}

#[tokio::test]
async fn chats_go_on_while_the_redis_container_is_frozen() -> Result<()> {
    if !docker()? {
        return Ok(());
    }
    let (container, redis) = redis().await?;
    let hosts = [FakeOllama::start().await?];
    let setup =
        Setup::new(&hosts).redis(&redis).set("REDIS_TIMEOUT", "500ms").set("REDIS_WRITE_TIMEOUT", "500ms");
    let gateway = Native { redis: true }.start(setup).await?;
    is_back(gateway.as_ref()).await?;
    container.pause().await?;
    does_without(gateway.as_ref()).await?;
    container.unpause().await?;
    is_back(gateway.as_ref()).await
}

#[tokio::test]
async fn three_replicas_behind_the_gateway_are_one_service() -> Result<()> {
    if !docker()? {
        return Ok(());
    }
    let check = || {
        let binary = artifacts::host_shim()?;
        let check = workspace().join("tests/containers/compose-check");
        let output = Command::new(check).env("PADDOCK_HOST_SHIM", binary).output()?;
        let text = [&output.stdout[..], &output.stderr].concat();
        anyhow::Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
    };
    let (passed, text) = tokio::task::spawn_blocking(check).await??;
    ensure!(passed, "{text}");
    Ok(())
}
