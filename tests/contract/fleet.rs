//! The contract of what instances and replicas know of the fleet.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use futures::future::join_all;
use paddock::{
    fleet::{
        AttemptContext, AttemptReport, Cause, HostEffect, HostStats, Scope, Ticket,
        local::DECISIONS,
        prefix::PrefixReader,
        snapshot::{Claim, FleetSnapshot, Flow, Lease, RetryBudget, SlotRequest},
    },
    store::{FleetState, InventoryStore as _, Store as _},
};

use crate::Subject;

pub(crate) const HOST: &str = "http://a:11434";
const OTHER: &str = "http://b:11434";
pub(crate) const LANE: &str = "llama3.2:latest";
/// The stats that nobody knows anything of, at a time that is long gone.
const UNKNOWN: Duration = Duration::from_secs(1);

pub(crate) fn slot(host: &str, limit: u64) -> SlotRequest {
    SlotRequest { host: host.into(), limit, cold: false, trial: None }
}

pub(crate) fn claim(id: &str, slots: Vec<SlotRequest>) -> Claim<'_> {
    Claim {
        id,
        lane: LANE,
        slots,
        flow: Flow { caller: "caller", session: "session" },
        is_retry: false,
        reason: "why",
    }
}

pub(crate) fn ticket(id: &str) -> Ticket {
    Ticket {
        id: id.into(),
        lane: LANE.into(),
        host: HOST.into(),
        caller: "caller".into(),
        session: "session".into(),
        since: Duration::from_millis(1_234),
        caller_served: Duration::ZERO,
        session_served: Duration::ZERO,
    }
}

/// Claims a place on [`HOST`] for which there is room.
pub(crate) async fn taken(store: &impl FleetState, id: &str) -> Result<Lease> {
    store.claim(&claim(id, vec![slot(HOST, 100)])).await?.context("there is room")
}

pub(crate) async fn stats(store: &impl FleetState, host: &str) -> Result<HostStats> {
    Ok(store.snapshot().await?.stats.get(host).map(|stats| HostStats::clone(stats)).unwrap_or_default())
}

fn host(lease: Option<Lease>) -> Option<String> {
    lease.map(|lease| lease.host.to_string())
}

pub(crate) fn waiting(snapshot: &FleetSnapshot) -> Vec<&str> {
    let mut ids: Vec<_> = snapshot.tickets.iter().map(|ticket| &*ticket.id).collect();
    ids.sort_unstable();
    ids
}

async fn nothing_is_known_at_first(subject: impl Subject) -> Result<()> {
    let store = subject.store();
    let snapshot = store.fleet().snapshot().await?;
    assert_eq!((snapshot.stats.len(), snapshot.leases.len(), snapshot.tickets.len()), (0, 0, 0));
    assert_eq!(snapshot.retries, RetryBudget::default());
    assert!(
        store.fleet().decisions().await?.is_empty()
            && store.inventories().load_inventories().await?.is_empty()
    );
    assert!(store.fleet().snapshot().await?.now >= snapshot.now);
    Ok(())
}

async fn a_claim_takes_the_first_place_that_has_room(subject: impl Subject) -> Result<()> {
    let store = subject.store().fleet();
    let slots = || vec![slot(HOST, 1), slot(OTHER, 2)];
    let mut hosts = Vec::new();
    for id in ["1", "2", "3", "4"] {
        hosts.push(host(store.claim(&claim(id, slots())).await?));
    }
    let [first, second] = [HOST, OTHER].map(|host| Some(host.to_owned()));
    assert_eq!(hosts, [first, second.clone(), second, None]);
    Ok(())
}

async fn a_full_lane_gives_no_place_and_leaves_no_trace(subject: impl Subject) -> Result<()> {
    let store = subject.store().fleet();
    store.enter(&ticket("waits"), None).await?;
    for slots in [vec![], vec![slot(HOST, 0), slot(OTHER, 0)]] {
        assert_eq!(store.claim(&claim("waits", slots)).await?, None);
    }
    let snapshot = store.snapshot().await?;
    assert_eq!((snapshot.leases.len(), waiting(&snapshot)), (0, vec!["waits"]));
    assert_eq!((snapshot.retries, store.decisions().await?), (RetryBudget::default(), vec![]));
    assert_eq!(snapshot.tickets.first().map(|ticket| ticket.caller_served), Some(Duration::ZERO));
    Ok(())
}

async fn leases_are_counted_by_host_and_by_lane(subject: impl Subject) -> Result<()> {
    let store = subject.store().fleet();
    // Names that begin alike are different names.
    for host in [HOST, "http://a:1143", "http://a:114345"] {
        for lane in [LANE, "llama3.2:latest#embed", "llama3.2:lates", ""] {
            for (id, has_room) in [("1", true), ("2", true), ("3", false)] {
                let claim = Claim { lane, ..claim(id, vec![slot(host, 2)]) };
                assert_eq!(store.claim(&claim).await?.is_some(), has_room, "{host} {lane} {id}");
            }
        }
    }
    Ok(())
}

async fn a_trial_is_taken_by_one_at_a_time(subject: impl Subject) -> Result<()> {
    let store = subject.store().fleet();
    let trial = |id, lane| Claim {
        lane,
        ..claim(id, vec![SlotRequest { trial: Some(Scope::Host), ..slot(HOST, 100) }])
    };
    // A lane and a request whose names are what marks a trial.
    let usual = Claim { lane: "t", ..claim("ct", vec![slot(HOST, 100)]) };
    assert!(store.claim(&usual).await?.is_some());
    let first = store.claim(&trial("1", LANE)).await?.context("nobody tries it")?;
    assert_eq!(first.trial, Some(Scope::Host));
    for lane in [LANE, "other:latest"] {
        assert_eq!(store.claim(&trial("2", lane)).await?, None, "{lane}");
    }
    let both = [HOST, OTHER].map(|host| SlotRequest { trial: Some(Scope::Host), ..slot(host, 100) }).to_vec();
    assert_eq!(host(store.claim(&claim("3", both)).await?), Some(OTHER.to_owned()));
    assert!(store.claim(&claim("4", vec![slot(HOST, 100)])).await?.is_some(), "this is no trial");
    store.update(HOST, (&HostStats::default(), UNKNOWN), Some(&first), |_, _| {}).await?;
    assert!(store.claim(&trial("5", LANE)).await?.is_some());
    Ok(())
}

async fn the_trial_of_a_lane_keeps_other_lanes_from_nothing(subject: impl Subject) -> Result<()> {
    let store = subject.store().fleet();
    let trial = |id, lane, scope| Claim {
        lane,
        ..claim(id, vec![SlotRequest { trial: Some(scope), cold: id == "1", ..slot(HOST, 100) }])
    };
    let first = store.claim(&trial("1", LANE, Scope::Lane)).await?.context("nobody tries it")?;
    assert_eq!((first.trial, first.cold), (Some(Scope::Lane), true));
    assert_eq!(store.snapshot().await?.leases, std::slice::from_ref(&first));
    assert_eq!(store.claim(&trial("2", LANE, Scope::Lane)).await?, None);
    let other = store.claim(&trial("3", "other:latest", Scope::Lane)).await?;
    assert!(other.is_some(), "another lane has a trial of its own");
    assert_eq!(store.claim(&trial("4", LANE, Scope::Host)).await?, None, "its lane is tried");
    assert!(store.claim(&trial("5", "third:latest", Scope::Host)).await?.is_some(), "nobody tries the host");
    assert_eq!(store.claim(&trial("6", "fourth:latest", Scope::Host)).await?, None);
    assert!(store.claim(&trial("7", "fourth:latest", Scope::Lane)).await?.is_some());
    store.update(HOST, (&HostStats::default(), UNKNOWN), Some(&first), |_, _| {}).await?;
    assert!(store.claim(&trial("8", LANE, Scope::Lane)).await?.is_some());
    Ok(())
}

async fn a_claim_uses_up_the_ticket_of_its_id_and_no_other(subject: impl Subject) -> Result<()> {
    let store = subject.store().fleet();
    for id in ["1", "11", "111", "1 1", "2"] {
        store.enter(&ticket(id), None).await?;
    }
    taken(store, "11").await?;
    assert_eq!(waiting(&store.snapshot().await?), ["1", "1 1", "111", "2"]);
    taken(store, "1").await?;
    assert_eq!(waiting(&store.snapshot().await?), ["1 1", "111", "2"]);
    Ok(())
}

async fn an_update_changes_the_facts_and_gives_the_place_back(subject: impl Subject) -> Result<()> {
    let store = subject.store().fleet();
    let (kept, released) = (taken(store, "1").await?, taken(store, "2").await?);
    let change = |stats: &mut HostStats, now: Duration| stats.prove(now, LANE, "num_ctx=1");
    store.update(HOST, (&HostStats::default(), UNKNOWN), Some(&released), change).await?;
    let snapshot = store.snapshot().await?;
    assert_eq!(snapshot.leases, [kept]);
    let known = snapshot.stats.get(HOST).context("facts")?;
    assert!(known.lane(LANE).is_some() && !snapshot.stats.contains_key(OTHER));
    // Giving it back again is harmless.
    store.update(HOST, (known, snapshot.now), Some(&released), |_, _| {}).await?;
    assert_eq!(stats(store, HOST).await?, **known);
    Ok(())
}

async fn a_place_is_given_back_on_its_own_host_alone(subject: impl Subject) -> Result<()> {
    let store = subject.store().fleet();
    let first = taken(store, "same").await?;
    let second = store.claim(&claim("same", vec![slot(OTHER, 1)])).await?.context("room")?;
    store.update(HOST, (&HostStats::default(), UNKNOWN), Some(&first), |_, _| {}).await?;
    assert_eq!(store.snapshot().await?.leases, [second]);
    Ok(())
}

async fn updates_of_one_host_at_the_same_time_all_count(subject: impl Subject) -> Result<()> {
    let store = subject.store().fleet();
    let lanes: Vec<_> = (0..32).map(|number| format!("m{number}:latest")).collect();
    let stale = HostStats::default();
    let updates = lanes
        .iter()
        .map(|lane| store.update(HOST, (&stale, UNKNOWN), None, |stats, now| stats.prove(now, lane, "")));
    for updated in join_all(updates).await {
        updated?;
    }
    let stats = stats(store, HOST).await?;
    let lost: Vec<_> = lanes.iter().filter(|lane| stats.lane(lane).is_none()).collect();
    assert!(lost.is_empty(), "{lost:?}");
    Ok(())
}

async fn an_update_that_knows_old_facts_lands_on_the_newest(subject: impl Subject) -> Result<()> {
    let store = subject.store().fleet();
    let mut stale = HostStats::default();
    for (number, lane) in ["a:1", "b:1", "c:1"].into_iter().enumerate() {
        store.update(HOST, (&stale, UNKNOWN), None, |stats, now| stats.prove(now, lane, "")).await?;
        if number == 0 {
            stale = stats(store, HOST).await?;
        }
    }
    // One that knows what never was, too.
    stale.prove(UNKNOWN, "never:1", "");
    store.update(HOST, (&stale, UNKNOWN), None, |stats, now| stats.prove(now, "d:1", "")).await?;
    let stats = stats(store, HOST).await?;
    let lanes = ["a:1", "b:1", "c:1", "d:1", "never:1"].map(|lane| stats.lane(lane).is_some());
    assert_eq!(lanes, [true, true, true, true, false]);
    Ok(())
}

async fn facts_that_say_nothing_can_be_changed(subject: impl Subject) -> Result<()> {
    let store = subject.store().fleet();
    let nothing = HostStats::default();
    store.update(HOST, (&nothing, UNKNOWN), None, |_, _| {}).await?;
    assert_eq!(stats(store, HOST).await?, nothing);
    store.update(HOST, (&nothing, UNKNOWN), None, |stats, now| stats.prove(now, LANE, "")).await?;
    assert!(stats(store, HOST).await?.lane(LANE).is_some());
    Ok(())
}

async fn tickets_wait_until_they_leave_or_are_displaced(subject: impl Subject) -> Result<()> {
    let store = subject.store().fleet();
    for id in ["1", "12", "2", "3"] {
        store.enter(&ticket(id), None).await?;
    }
    store.leave("1").await?;
    assert_eq!(waiting(&store.snapshot().await?), ["12", "2", "3"]);
    store.enter(&ticket("4"), Some("2")).await?;
    assert_eq!(waiting(&store.snapshot().await?), ["12", "3", "4"]);
    store.leave("never came").await?;
    store.leave("123").await?;
    store.leave("").await?;
    store.enter(&ticket("5"), Some("never came")).await?;
    assert_eq!(waiting(&store.snapshot().await?), ["12", "3", "4", "5"]);
    Ok(())
}

async fn a_ticket_that_is_renewed_is_there_once_as_it_is_now(subject: impl Subject) -> Result<()> {
    let store = subject.store().fleet();
    store.enter(&ticket("1"), None).await?;
    let moved = Ticket { host: OTHER.into(), ..ticket("1") };
    store.enter(&moved, None).await?;
    assert_eq!(store.snapshot().await?.tickets, [moved]);
    Ok(())
}

async fn tickets_tell_when_their_caller_and_session_were_served(subject: impl Subject) -> Result<()> {
    let store = subject.store().fleet();
    let other_session = Ticket { session: "other".into(), ..ticket("other session") };
    let no_session = Ticket { session: "".into(), ..ticket("no session") };
    let other_lane = Ticket { lane: "other:1".into(), ..ticket("other lane") };
    let other_caller = Ticket { caller: "other".into(), ..ticket("other caller") };
    for ticket in [&ticket("same"), &other_session, &no_session, &other_lane, &other_caller] {
        store.enter(ticket, None).await?;
    }
    subject.pass(Duration::from_millis(2)).await;
    let began = taken(store, "served").await?.began;
    assert!(began > Duration::ZERO);
    let snapshot = store.snapshot().await?;
    let served = |id: &str| {
        let ticket = snapshot.tickets.iter().find(|ticket| &*ticket.id == id);
        ticket.map(|ticket| (ticket.caller_served, ticket.session_served))
    };
    assert_eq!(served("same"), Some((began, began)));
    for id in ["other session", "no session"] {
        assert_eq!(served(id), Some((began, Duration::ZERO)), "{id}");
    }
    for id in ["other lane", "other caller"] {
        assert_eq!(served(id), Some((Duration::ZERO, Duration::ZERO)), "{id}");
    }
    Ok(())
}

async fn requests_and_retries_are_counted(subject: impl Subject) -> Result<()> {
    let store = subject.store().fleet();
    for (id, is_retry) in [("1", false), ("2", true), ("3", false), ("4", true), ("5", false)] {
        store.claim(&Claim { is_retry, ..claim(id, vec![slot(HOST, 4)]) }).await?;
    }
    // The last of them found no room.
    assert_eq!(store.snapshot().await?.retries, RetryBudget { requests: 4, retries: 2 });
    Ok(())
}

async fn the_latest_decisions_are_kept_the_last_one_last(subject: impl Subject) -> Result<()> {
    let store = subject.store().fleet();
    let reasons: Vec<_> = (0..DECISIONS + 5).map(|number| format!("熊 \"{number}\"\n")).collect();
    for (number, reason) in reasons.iter().enumerate() {
        assert_eq!(store.decisions().await?.len(), number.min(DECISIONS));
        store.claim(&Claim { reason, ..claim(&number.to_string(), vec![slot(HOST, 100)]) }).await?;
    }
    let told: Vec<_> = reasons.iter().skip(5).map(|reason| format!("{LANE} at {HOST}: {reason}")).collect();
    assert_eq!(store.decisions().await?, told);
    Ok(())
}

async fn the_ledger_gives_leases_and_tickets_whole_whatever_they_are_called(
    subject: impl Subject,
) -> Result<()> {
    let store = subject.store().fleet();
    let names =
        ["", "a.b-c%d[e]*?^$(+)", "quote\" back\\slash 'single'", "new\nline\ttab\0null", "熊猫🦙", "0"];
    let (mut leases, mut tickets) = (Vec::new(), Vec::new());
    for (number, name) in names.into_iter().enumerate() {
        let trials = [("", None), ("t", Some(Scope::Host)), ("l", Some(Scope::Lane))];
        for (marks, cold, trial) in trials.into_iter().flat_map(|(mark, trial)| {
            [false, true].map(|cold| (format!("{}{mark}", if cold { "c" } else { "" }), cold, trial))
        }) {
            let (host, id) = (format!("http://{name}{marks}"), format!("{number}{marks}"));
            let claim = Claim {
                lane: name,
                ..claim(&id, vec![SlotRequest { host: host.into(), limit: u64::MAX, cold, trial }])
            };
            leases.push(store.claim(&claim).await?.context("room")?);
        }
        let mut ticket = ticket(&format!("{number} {name}"));
        ticket.since = Duration::from_millis(1_759_000_000_123);
        for field in [&mut ticket.lane, &mut ticket.host, &mut ticket.caller, &mut ticket.session] {
            *field = name.into();
        }
        store.enter(&ticket, None).await?;
        tickets.push(ticket);
    }
    let mut snapshot = store.snapshot().await?;
    let by_id = |left: &Lease, right: &Lease| left.id.cmp(&right.id);
    snapshot.leases.sort_by(by_id);
    leases.sort_by(by_id);
    assert_eq!(snapshot.leases, leases);
    snapshot.tickets.sort_by(|left, right| left.id.cmp(&right.id));
    assert_eq!(snapshot.tickets, tickets);
    Ok(())
}

async fn facts_come_back_whole(subject: impl Subject) -> Result<()> {
    let store = subject.store().fleet();
    let mut reader = PrefixReader::default();
    reader.text(&"long ago ".repeat(300).into_bytes());
    reader.end_message();
    let prefixes = reader.finish();
    let run = |cold| AttemptContext {
        lane: LANE,
        options: "num_ctx=\"1\"熊",
        streams: true,
        in_flight: 3,
        cold,
        affinity: u64::MAX,
        prompt: 2048,
        prefixes: &prefixes,
        slots: 4,
    };
    let report = |cold, effect| AttemptReport {
        run: Some(run(cold)),
        began: UNKNOWN,
        first_byte: Some(Duration::from_millis(1_500)),
        elapsed: Duration::from_millis(4_500),
        effect,
    };
    let mut expected = HostStats::default();
    for (second, report) in (1_759_000_000..).zip([
        report(true, HostEffect::Answered),
        report(false, HostEffect::Answered),
        report(false, HostEffect::Faulty(Cause::Busy, Some(Duration::from_secs(7)))),
    ]) {
        let now = Duration::from_secs(second);
        let known = expected.clone();
        expected.record_attempt(now, &report, 7);
        store.update(HOST, (&known, now), None, |stats, _| stats.record_attempt(now, &report, 7)).await?;
        assert_eq!(store.snapshot().await?.stats.get(HOST), Some(&Arc::new(expected.clone())), "{second}");
    }
    Ok(())
}

crate::contract! {
    nothing_is_known_at_first,
    a_claim_takes_the_first_place_that_has_room,
    a_full_lane_gives_no_place_and_leaves_no_trace,
    leases_are_counted_by_host_and_by_lane,
    a_trial_is_taken_by_one_at_a_time,
    the_trial_of_a_lane_keeps_other_lanes_from_nothing,
    a_claim_uses_up_the_ticket_of_its_id_and_no_other,
    an_update_changes_the_facts_and_gives_the_place_back,
    a_place_is_given_back_on_its_own_host_alone,
    updates_of_one_host_at_the_same_time_all_count,
    an_update_that_knows_old_facts_lands_on_the_newest,
    facts_that_say_nothing_can_be_changed,
    tickets_wait_until_they_leave_or_are_displaced,
    a_ticket_that_is_renewed_is_there_once_as_it_is_now,
    tickets_tell_when_their_caller_and_session_were_served,
    requests_and_retries_are_counted,
    the_latest_decisions_are_kept_the_last_one_last,
    the_ledger_gives_leases_and_tickets_whole_whatever_they_are_called,
    facts_come_back_whole,
}
