//! What only the fleet's state in Redis promises: replicas share it, and what a crashed one left ends by itself.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::join_all;
use paddock::{
    fleet::{
        Context, HostStats, Inventory, LoadedModel, Model,
        snapshot::{BUDGET_WINDOW, Claim, Flow, LEASE, TICKET, Ticket},
    },
    store::{FleetState as _, InventoryStore as _, redis::RedisStore},
};
use paddock_tests::{redis_commands::Connection, redis_server::RedisServer};

use crate::{
    OverRedis,
    fleet::{HOST, LANE, claim, slot, stats, taken, ticket, waiting},
    limits, over_redis,
};

impl OverRedis {
    fn name(&self, kind: &str) -> String {
        format!("{}:{{fleet}}:1:{kind}", self.prefix)
    }

    async fn run(&self, command: &str, kind: &str, arguments: &[&str]) -> Result<Vec<String>> {
        let name = self.name(kind);
        self.connection.run(&[&[command, &name], arguments].concat()).await
    }

    /// Milliseconds until the only lease or ticket ends, by the snapshot's clock.
    async fn left(&self, kind: &str) -> Result<i128> {
        let ends: i128 = self.only(kind).await?.1.parse()?;
        Ok(ends - i128::try_from(self.store.snapshot().await?.now.as_millis())?)
    }

    /// The only lease or ticket and its score.
    async fn only(&self, kind: &str) -> Result<(String, String)> {
        let members = self.run("ZRANGE", kind, &["0", "-1", "WITHSCORES"]).await?;
        let [member, score] = <[String; 2]>::try_from(members).ok().context("there is one")?;
        Ok((member, score))
    }

    /// Lets the only lease or ticket have ended a millisecond ago.
    async fn end(&self, kind: &str) -> Result<()> {
        let ended = (self.store.snapshot().await?.now.as_millis() - 1).to_string();
        self.run("ZADD", kind, &[&ended, &self.only(kind).await?.0]).await?;
        Ok(())
    }
}

fn inventory() -> Inventory {
    Inventory {
        is_unlisted: false,
        seen: Duration::from_millis(1_759_000_000_123),
        models: vec![Model { name: "Llama3.2:latest \"熊\"".to_owned(), digest: "ab".to_owned() }],
        loaded: vec![LoadedModel {
            name: "Llama3.2:latest".to_owned(),
            context_length: 4096,
            expires_at: "2026-01-01T00:00:00Z".to_owned(),
        }],
        version: "0.33.0".to_owned(),
        contexts: [("ab".to_owned(), Context { set: None, longest: Some(8192) })].into(),
        lacks: ["/api/embed"].into(),
    }
}

/// Everything that may be stored, once.
async fn store_all(redis: &OverRedis) -> Result<()> {
    let store = &redis.store;
    let lease = taken(store, "1").await?;
    store.renew(&lease).await?;
    store.enter(&ticket("2"), None).await?;
    let change = |stats: &mut HostStats, now: Duration| stats.prove(now, LANE, "");
    store.update(HOST, (&HostStats::default(), Duration::ZERO), None, change).await?;
    store.put_inventory(HOST, &inventory()).await?;
    assert!(store.lead_refresh(Duration::from_secs(5)).await?);
    Ok(())
}

const KINDS: [&str; 8] =
    ["budget", "decisions", "facts", "inventory", "leases", "refresh", "served", "tickets"];

#[tokio::test]
async fn every_key_has_the_prefix_lies_in_one_slot_and_ends() -> Result<()> {
    let redis = over_redis().await?;
    store_all(&redis).await?;
    let mut keys = redis.connection.run(&["KEYS", &format!("*{}*", redis.prefix)]).await?;
    keys.sort();
    assert_eq!(keys, KINDS.map(|kind| redis.name(kind)));
    for (kind, most) in [
        ("budget", 2 * BUDGET_WINDOW),
        ("decisions", Duration::from_hours(24)),
        ("facts", Duration::from_hours(24)),
        ("inventory", Duration::from_hours(24 * 30)),
        ("leases", 2 * LEASE),
        ("refresh", Duration::from_secs(5)),
        ("served", Duration::from_mins(2)),
        ("tickets", 2 * TICKET),
    ] {
        let left: i128 = redis.run("PTTL", kind, &[]).await?.concat().parse()?;
        let most = i128::try_from(most.as_millis())?;
        assert!((most * 9 / 10..=most).contains(&left), "{kind} ends in {left} ms");
    }
    Ok(())
}

#[tokio::test]
async fn a_place_is_held_for_its_time_and_free_afterwards() -> Result<()> {
    let redis = over_redis().await?;
    let store = &redis.store;
    let only = || claim("2", vec![slot(HOST, 1)]);
    let lease = taken(store, "1").await?;
    assert_eq!(store.snapshot().await?.leases, std::slice::from_ref(&lease));
    let hold = i128::try_from(LEASE.as_millis())?;
    assert!((hold * 9 / 10..=hold).contains(&redis.left("leases").await?));
    assert_eq!(store.claim(&only()).await?, None);
    redis.end("leases").await?;
    assert!(store.snapshot().await?.leases.is_empty());
    assert!(store.claim(&only()).await?.is_some());
    // Whoever lost its slot by being late does not take it from the other.
    store.renew(&lease).await?;
    let leases = store.snapshot().await?.leases;
    assert_eq!(leases.iter().map(|lease| &*lease.id).collect::<Vec<_>>(), ["2"]);
    Ok(())
}

#[tokio::test]
async fn a_renewal_holds_a_place_for_as_long_again() -> Result<()> {
    let redis = over_redis().await?;
    let lease = taken(&redis.store, "1").await?;
    redis.run("PEXPIRE", "leases", &["1000"]).await?;
    let soon = (redis.store.snapshot().await?.now.as_millis() + 1_000).to_string();
    redis.run("ZADD", "leases", &[&soon, &redis.only("leases").await?.0]).await?;
    redis.store.renew(&lease).await?;
    let hold = i128::try_from(LEASE.as_millis())?;
    assert!((hold * 9 / 10..=hold).contains(&redis.left("leases").await?));
    let kept: i128 = redis.run("PTTL", "leases", &[]).await?.concat().parse()?;
    assert!(kept > hold, "the places are kept for {kept} ms");
    Ok(())
}

#[tokio::test]
async fn a_place_that_was_given_back_cannot_be_renewed() -> Result<()> {
    let redis = over_redis().await?;
    let lease = taken(&redis.store, "1").await?;
    redis.store.update(HOST, (&HostStats::default(), Duration::ZERO), Some(&lease), |_, _| {}).await?;
    redis.store.renew(&lease).await?;
    assert!(redis.store.snapshot().await?.leases.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_ticket_waits_for_its_time_unless_it_is_renewed() -> Result<()> {
    let redis = over_redis().await?;
    let hold = i128::try_from(TICKET.as_millis())?;
    for _ in 0..2 {
        redis.store.enter(&ticket("1"), None).await?;
        assert!((hold * 8 / 10..=hold).contains(&redis.left("tickets").await?));
        assert_eq!(waiting(&redis.store.snapshot().await?), ["1"]);
        redis.end("tickets").await?;
        assert!(redis.store.snapshot().await?.tickets.is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn retries_count_within_their_window() -> Result<()> {
    let redis = over_redis().await?;
    let now = redis.store.snapshot().await?.now.as_secs();
    // The second now may end before the next look.
    let (in_it, before) = (now - BUDGET_WINDOW.as_secs() + 3, now - BUDGET_WINDOW.as_secs());
    for (second, count) in [(in_it, 5), (before, 70), (before - 1000, 900)] {
        for kind in ["q", "r"] {
            redis.run("HSET", "budget", &[&format!("{kind}{second}"), &count.to_string()]).await?;
        }
    }
    let retries = redis.store.snapshot().await?.retries;
    assert_eq!((retries.requests, retries.retries), (10, 5));
    // What is too old is cleared away.
    taken(&redis.store, "1").await?;
    let fields = redis.run("HKEYS", "budget", &[]).await?;
    assert_eq!(fields.len(), 3, "{fields:?}");
    assert_eq!(redis.store.snapshot().await?.retries.requests, 11);
    Ok(())
}

#[tokio::test]
async fn however_many_callers_are_made_up_few_are_remembered_and_none_of_them_has_precedence() -> Result<()> {
    let redis = over_redis().await?;
    for number in 0..2_300 {
        let (id, caller) = (number.to_string(), format!("?{number}"));
        let flow = Flow { caller: &caller, session: "" };
        redis
            .store
            .claim(&Claim { flow, ..claim(&id, vec![slot(HOST, 100)]) })
            .await?
            .context("there is room")?;
        redis.store.leave(&id).await?;
    }
    let remembered: usize = redis.run("ZCARD", "served", &[]).await?.concat().parse()?;
    assert!((2_000..=4_097).contains(&remembered), "{remembered}");
    for caller in ["?2299", "?0", "?new"] {
        redis.store.enter(&Ticket { caller: caller.into(), ..ticket(caller) }, None).await?;
    }
    let snapshot = redis.store.snapshot().await?;
    let served = |caller: &str| {
        let ticket = snapshot.tickets.iter().find(|ticket| &*ticket.caller == caller);
        ticket.map(|ticket| ticket.caller_served).unwrap_or_default()
    };
    assert!(served("?2299") > served("?0") && served("?0") > Duration::ZERO, "{snapshot:?}");
    assert_eq!(served("?new"), served("?0"), "who is unknown counts as one of the others");
    Ok(())
}

#[tokio::test]
async fn hosts_that_come_and_go_leave_stats_of_a_few() -> Result<()> {
    let redis = over_redis().await?;
    let change = |stats: &mut HostStats, now: Duration| stats.prove(now, LANE, "");
    for number in 0..400 {
        let host = format!("http://10.0.0.{number}:1");
        redis.store.update(&host, (&HostStats::default(), Duration::ZERO), None, change).await?;
        assert!(stats(&redis.store, &host).await?.lane(LANE).is_some(), "the newest is there");
    }
    assert_eq!(redis.store.snapshot().await?.stats.len(), 256);
    Ok(())
}

#[tokio::test]
async fn what_another_version_wrote_is_passed_over() -> Result<()> {
    let redis = over_redis().await?;
    let store = &redis.store;
    let (lease, ticket) = (taken(store, "1").await?, ticket("2"));
    store.enter(&ticket, None).await?;
    store.put_inventory(HOST, &inventory()).await?;
    let later = (store.snapshot().await?.now.as_millis() + 10_000).to_string();
    for value in
        ["{}", "[]", "no JSON", "", "{\"streak\":1,\"failed\":0,\"lanes\":[{}]}", "a\u{1f}b", "\u{1f}"]
    {
        redis.run("HSET", "facts", &[HOST, value]).await?;
        redis.run("HSET", "inventory", &["http://other:1", value]).await?;
        for kind in ["leases", "tickets"] {
            redis.run("ZADD", kind, &[&later, value]).await?;
        }
        let snapshot = store.snapshot().await?;
        assert_eq!(stats(store, HOST).await?, HostStats::default(), "{value:?}");
        assert_eq!(snapshot.leases, std::slice::from_ref(&lease), "{value:?}");
        assert_eq!(snapshot.tickets.iter().map(|ticket| &*ticket.id).collect::<Vec<_>>(), ["2"], "{value:?}");
        assert_eq!(store.load_inventories().await?, [(HOST.to_owned(), inventory())], "{value:?}");
        let change = |stats: &mut HostStats, now: Duration| stats.prove(now, LANE, "");
        store.update(HOST, (&HostStats::default(), Duration::ZERO), None, change).await?;
        assert!(stats(store, HOST).await?.lane(LANE).is_some(), "{value:?}");
    }
    Ok(())
}

#[tokio::test]
async fn inventories_come_back_whole_and_the_last_one_counts() -> Result<()> {
    let redis = over_redis().await?;
    redis.store.put_inventory(HOST, &Inventory::default()).await?;
    redis.store.put_inventory("http://b:1", &Inventory::default()).await?;
    redis.store.put_inventory(HOST, &inventory()).await?;
    let mut inventories = redis.store.load_inventories().await?;
    inventories.sort_by(|left, right| left.0.cmp(&right.0));
    let expected = [(HOST, inventory()), ("http://b:1", Inventory::default())];
    assert_eq!(inventories, expected.map(|(host, inventory)| (host.to_owned(), inventory)));
    Ok(())
}

#[tokio::test]
async fn claims_of_many_connections_never_exceed_the_limit() -> Result<()> {
    let (redis, server) = (over_redis().await?, RedisServer::shared()?);
    let mut stores = Vec::new();
    for _ in 0..8 {
        let connection = Connection::open(&server).await?;
        stores.push(RedisStore::new(connection, &redis.prefix, limits(Duration::from_secs(20))));
    }
    let ids: Vec<_> = (0..64).map(|number| number.to_string()).collect();
    let claims: Vec<_> = ids.iter().map(|id| claim(id, vec![slot(HOST, 4), slot("http://b:1", 3)])).collect();
    let claimed = join_all(claims.iter().zip(stores.iter().cycle()).map(|(claim, store)| store.claim(claim)));
    let mut hosts = Vec::new();
    for lease in claimed.await {
        hosts.extend(lease?.map(|lease| lease.host.to_string()));
    }
    hosts.sort();
    assert_eq!(hosts, [&[HOST; 4][..], &["http://b:1"; 3]].concat());
    assert_eq!(redis.store.snapshot().await?.leases.len(), 7);
    Ok(())
}

#[tokio::test]
async fn one_of_many_refreshes() -> Result<()> {
    let redis = over_redis().await?;
    let leads = join_all((0..16).map(|_| redis.store.lead_refresh(Duration::from_mins(1)))).await;
    assert_eq!(leads.into_iter().filter(|lead| *lead == Ok(true)).count(), 1);
    // It is for a time: afterwards somebody else does it.
    redis.run("DEL", "refresh", &[]).await?;
    assert_eq!(redis.store.lead_refresh(Duration::from_mins(1)).await, Ok(true));
    Ok(())
}

#[tokio::test]
async fn a_key_of_another_type_is_an_error_and_no_panic() -> Result<()> {
    let redis = over_redis().await?;
    store_all(&redis).await?;
    let lease = redis.store.snapshot().await?.leases.into_iter().next().context("a lease")?;
    for kind in KINDS {
        redis.run("SET", kind, &["text"]).await?;
    }
    let store = &redis.store;
    assert!(store.snapshot().await.is_err());
    assert!(store.claim(&Claim { is_retry: true, ..claim("3", vec![slot(HOST, 9)]) }).await.is_err());
    assert!(store.renew(&lease).await.is_err());
    assert!(store.enter(&ticket("4"), None).await.is_err());
    assert!(store.leave("4").await.is_err());
    let known = (&HostStats::default(), Duration::ZERO);
    assert!(store.update(HOST, known, Some(&lease), |_, _| {}).await.is_err());
    assert!(store.load_inventories().await.is_err());
    assert!(store.put_inventory(HOST, &inventory()).await.is_err());
    assert!(store.decisions().await.is_err());
    assert_eq!(store.lead_refresh(Duration::from_secs(1)).await, Ok(false));
    Ok(())
}
