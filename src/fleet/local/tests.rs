//! What the local fleet promises beyond the contract that all stores share.

use futures::FutureExt as _;

use super::*;
use crate::fleet::snapshot::SlotRequest;

const HOST: &str = "http://a:1";

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn claim(local: &LocalFleet, now: Duration, id: &str, is_retry: bool) -> Option<Lease> {
    let slots = vec![SlotRequest { host: HOST.into(), limit: 100, cold: false, trial: None }];
    local.claim(
        now,
        &Claim { id, lane: "m", slots, flow: Flow { caller: "c", session: "s" }, is_retry, reason: id },
    )
}

fn ticket(id: &str) -> Ticket {
    let view = crate::fleet::snapshot::FleetView::default();
    Ticket::new(&view, id, "m", HOST, Flow { caller: "c", session: "s" })
}

#[test]
fn a_ticket_waits_for_its_time_unless_it_is_renewed() {
    let local = LocalFleet::default();
    let waiting = |now| local.snapshot(now).tickets.len();
    local.enter(seconds(10), &ticket("1"), None);
    local.enter(seconds(10), &ticket("2"), None);
    local.enter(seconds(14), &ticket("1"), None);
    let counts = [14, 15, 18, 19].map(|second| waiting(seconds(second)));
    assert_eq!(counts, [2, 1, 1, 0]);
}

#[test]
fn retries_count_within_their_window_and_places_until_they_are_given_back() {
    let local = LocalFleet::default();
    for (second, is_retry) in [(10, true), (15, false), (19, true)] {
        claim(&local, seconds(second), &second.to_string(), is_retry).unwrap();
    }
    let counts = [19, 20, 25, 29].map(|second| {
        let retries = local.snapshot(seconds(second)).retries;
        (retries.requests, retries.retries)
    });
    assert_eq!(counts, [(3, 2), (2, 1), (1, 1), (0, 0)]);
    assert_eq!(local.snapshot(seconds(9_999)).leases.len(), 3);
}

#[test]
fn it_is_forgotten_after_a_while_who_was_served() {
    let local = LocalFleet::default();
    claim(&local, seconds(10), "1", false).unwrap();
    assert_eq!(local.state().served.len(), 2);
    let served = |now| {
        local.enter(now, &ticket("2"), None);
        local.snapshot(now).tickets[0].caller_served
    };
    assert_eq!(served(seconds(100)), seconds(10));
    let slots = vec![SlotRequest { host: HOST.into(), limit: 9, cold: false, trial: None }];
    let other = Claim {
        id: "3",
        lane: "n",
        slots,
        flow: Flow { caller: "d", session: "" },
        is_retry: false,
        reason: "",
    };
    local.claim(seconds(131), &other).unwrap();
    assert_eq!(served(seconds(131)), Duration::ZERO);
}

type Step<'a> = &'a dyn Fn(&LocalFleet);

#[test]
fn whoever_waits_is_told_of_every_step_that_may_have_made_room() {
    let host = BackendHost::new(1, HOST).unwrap();
    let steps: [(&str, Step<'_>); 6] = [
        ("update", &|local| local.update(seconds(1), HOST, None, |_, _| {})),
        ("leave", &|local| local.leave("1")),
        ("displace", &|local| local.enter(seconds(1), &ticket("2"), Some("1"))),
        ("hosts", &|local| local.set_hosts(std::slice::from_ref(&host))),
        ("inventory", &|local| drop(local.note_inventory(HOST, Arc::default()))),
        ("ring", &LocalFleet::ring),
    ];
    for (step, run) in steps {
        let local = LocalFleet::default();
        let (early, mut late) = (local.changed(true), Box::pin(local.changed(true)));
        assert_eq!((&mut late).now_or_never(), None, "{step}");
        run(&local);
        assert_eq!((early.now_or_never(), late.now_or_never()), (Some(()), Some(())), "{step}");
        assert_eq!(local.changed(true).now_or_never(), None, "{step}: what was before is no change");
    }
}

#[tokio::test]
async fn a_task_that_waits_is_woken() {
    let local = LocalFleet::default();
    let step = async { local.update(seconds(1), HOST, None, |_, _| {}) };
    futures::join!(local.changed(true), step);
}

#[test]
fn whoever_looks_often_is_remembered_once() {
    let local = LocalFleet::default();
    for _ in 0..1_000 {
        assert_eq!(local.changed(true).now_or_never(), None);
    }
    assert_eq!(local.state().waiting.len(), 1);
}

#[test]
fn what_others_know_is_gone_on_with_by_their_clock() {
    let (local, mut stats) = (LocalFleet::default(), HostStats::default());
    stats.prove(seconds(1_000), "m", "");
    let stats = BTreeMap::from([(HOST.to_owned(), Arc::new(stats))]);
    local.learn(
        seconds(5),
        &FleetSnapshot { now: seconds(1_005), stats: stats.clone(), ..FleetSnapshot::default() },
    );
    let snapshot = local.snapshot(seconds(6));
    assert_eq!(
        (local.time(seconds(6)), snapshot.now, snapshot.stats),
        (seconds(1_006), seconds(1_006), stats)
    );
    assert_eq!(claim(&local, seconds(7), "1", false).unwrap().began, seconds(1_007));
}

#[test]
fn the_newest_inventory_counts_and_those_of_hosts_that_went_are_dropped() {
    let local = LocalFleet::default();
    local.set_hosts(&[BackendHost::new(1, HOST).unwrap()]);
    let model = |name: &str| crate::fleet::Model { name: name.to_owned(), digest: String::new() };
    for (seen, name) in [(5, "Five"), (4, "four"), (5, "five")] {
        let models = vec![model(name), model("other:1")];
        local.note_inventory(
            HOST,
            Arc::new(Inventory { seen: seconds(seen), models, ..Inventory::default() }),
        );
    }
    let has = |name| local.inventories()[HOST].has(&ModelName::parse(name).unwrap());
    assert_eq!(["five", "four", "other:1"].map(has), [true, false, true]);
    local.forget_model(HOST, &ModelName::parse("FIVE:latest").unwrap());
    assert_eq!(["five", "other:1"].map(has), [false, true]);
    local.set_hosts(&[BackendHost::new(1, "http://b:1").unwrap()]);
    assert!(local.inventories().is_empty());
}

#[test]
fn one_looks_at_the_inventories_when_the_last_look_is_long_ago() {
    let local = LocalFleet::default();
    let due = [1, 1, 3, 4, 5].map(|second| local.is_due(seconds(second), seconds(3)));
    assert_eq!(due, [true, false, false, true, false]);
}

#[test]
fn however_many_callers_are_made_up_few_are_remembered_and_the_new_ones_get_no_precedence() {
    let local = LocalFleet::default();
    let serve = |number: u64| {
        let slots = vec![SlotRequest { host: HOST.into(), limit: u64::MAX, cold: false, trial: None }];
        let caller = number.to_string();
        let flow = Flow { caller: &caller, session: "" };
        let id = &*caller;
        let claim = Claim { id, lane: "m", slots, flow, is_retry: false, reason: "" };
        assert!(local.claim(Duration::from_millis(number), &claim).is_some());
        local.leave(id);
    };
    (1..=20_000).for_each(serve);
    assert!(local.state().served.len() <= SERVED_MOST + 2, "{}", local.state().served.len());
    local.enter(seconds(20), &ticket("of a new one"), None);
    let waiting = local.snapshot(seconds(20)).tickets;
    assert!(waiting[0].caller_served > seconds(10), "{:?}", waiting[0].caller_served);
}
