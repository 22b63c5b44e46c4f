//! The properties of a plan that hold for any constants.

mod properties;
mod sketch;

use std::collections::BTreeMap;

use super::*;
use crate::fleet::{
    Cause, HostStats, Inventory, LoadedModel, Model, Ticket,
    breaker::OpenUntil,
    snapshot::{FleetSnapshot, Flow, Lease},
};
use sketch::{Sketch, ago, sketch};

const LANE: &str = "m:latest";
const NOW: Duration = Duration::from_secs(1_000_000);

fn url(slot: usize) -> String {
    format!("http://user:secret@h{slot}.example:11434/ollama")
}

/// The view of these hosts, which are named 1, 2 and so on.
fn view(sketches: &[Sketch]) -> FleetView {
    let (mut hosts, mut inventories) = (Vec::new(), BTreeMap::new());
    let mut snapshot = FleetSnapshot { now: NOW, ..FleetSnapshot::default() };
    for (slot, sketch) in (1..).zip(sketches) {
        let host = BackendHost::new(slot, &url(slot)).unwrap();
        hosts.push(host.with_weight(sketch.weight).with_parallel(sketch.parallel));
        if let Some(inventory) = &sketch.inventory {
            inventories.insert(url(slot), inventory.clone().into());
        }
        snapshot.stats.insert(url(slot), sketch.stats.clone().into());
        snapshot
            .leases
            .extend(sketch.leases.iter().map(|lease| Lease { host: url(slot).into(), ..lease.clone() }));
    }
    FleetView::new(&hosts, &inventories, snapshot)
}

fn model(name: &str) -> ModelName {
    ModelName::parse(name).unwrap()
}

/// The demand of a request for a model without options.
fn demand(model: Option<&ModelName>) -> Demand<'_> {
    Demand {
        model,
        work: Work::Answer,
        options: "",
        affinity: 0,
        prompt: 0,
        prefixes: Prefixes::none(),
        turn: 0,
        seed: 0,
    }
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.choices.iter().map(|choice| choice.host.name()).collect()
}

/// The hosts' names in the order of the plan for the model `m`.
fn order(policy: Policy, sketches: &[Sketch]) -> Vec<String> {
    let model = model("m");
    let plan = plan(&view(sketches), policy, &demand(Some(&model)));
    names(&plan).into_iter().map(str::to_owned).collect()
}

/// The host that `auto` prefers for the model `m` with these options, for any affinity.
fn best(options: &str, sketches: &[Sketch]) -> String {
    let model = model("m");
    let first = |affinity| {
        let demand = Demand { options, affinity, ..demand(Some(&model)) };
        let plan = plan(&view(sketches), Policy::Auto, &demand);
        names(&plan).first().copied().unwrap_or_default().to_owned()
    };
    let mut firsts: Vec<_> = (0..16).map(first).collect();
    firsts.dedup();
    assert_eq!(firsts.len(), 1, "the affinity decides: {firsts:?}");
    firsts.concat()
}

/// The names of the hosts whose slots a request may take.
fn slots(plan: &Plan) -> Vec<&str> {
    let name = |slot: &SlotRequest| plan.choices.iter().find(|choice| choice.host.url() == &*slot.host);
    plan.slots().iter().map(|slot| name(slot).unwrap().host.name()).collect()
}

#[test]
fn a_policy_is_found_by_its_name() {
    for policy in Policy::ALL {
        let spelt = policy.as_str().to_ascii_uppercase().replace('_', "-");
        assert_eq!(Policy::parse(&spelt), Ok(policy));
    }
    assert!(Policy::parse("fastest").unwrap_err().contains("round_robin"));
}

#[test]
fn a_host_without_the_model_is_never_asked_and_neither_is_one_that_did_not_say() {
    let herd = [sketch().without_the_model().loaded(), sketch().busy(50), sketch().silent()];
    for policy in Policy::ALL {
        assert_eq!(order(policy, &herd), ["2"], "{policy:?}");
        assert_eq!(order(policy, &herd[2..]), [""; 0], "{policy:?}");
    }
}

#[test]
fn a_cloud_model_and_no_model_are_asked_of_any_host() {
    let herd = [sketch().without_the_model(), sketch(), sketch().silent()];
    let cloud = model("gpt-oss:120b-cloud");
    for policy in Policy::ALL {
        for model in [Some(&cloud), None] {
            let plan = plan(&view(&herd), policy, &demand(model));
            assert_eq!(plan.choices.len(), 3, "{plan}");
            assert!(model.is_some() || plan.choices.iter().all(|choice| !choice.cold), "{plan}");
        }
    }
}

#[test]
fn a_drained_host_is_never_asked() {
    for policy in Policy::ALL {
        let herd =
            [sketch().weight(0).loaded(), sketch().busy(9).open(), sketch().weight(0).without_the_model()];
        let plan = plan(&view(&herd), policy, &demand(Some(&model("m"))));
        assert_eq!((names(&plan), plan.drained), (vec!["2"], 1), "{policy:?}");
        assert!(plan.to_string().ends_with("; drained: 1"), "{plan}");
    }
}

#[test]
fn the_shorter_wait_wins() {
    for (what, options, herd, expected) in [
        ("loaded before cold", "", [sketch(), sketch().loaded()], "2"),
        ("idle before busy", "", [sketch().loaded().busy(3), sketch().loaded()], "2"),
        ("less busy", "", [sketch().loaded().busy(1), sketch().loaded().busy(4)], "1"),
        ("fast", "", [sketch().loaded().busy(2).takes(9_000, 9), sketch().loaded().busy(2)], "2"),
        ("strong", "", [sketch().loaded().busy(4), sketch().loaded().busy(4).weight(4)], "2"),
        ("short busy", "", [sketch().takes(100, 60_000), sketch().loaded().takes(100, 60_000).busy(4)], "2"),
        (
            "long busy",
            "",
            [sketch().takes(60_000, 2_000), sketch().loaded().takes(60_000, 2_000).busy(4)],
            "1",
        ),
        ("a load under way", "", [sketch(), sketch().takes(100, 20_000).loading(15_000)], "2"),
        ("the older load", "", [sketch().loading(15_000), sketch().loading(1_000)], "1"),
        ("the faster load", "", [sketch().takes(1_000, 60_000), sketch().takes(1_000, 5_000)], "2"),
        ("proved options", "num_ctx=9", [sketch().lists(0).proved("num_ctx=9", 9), sketch().loaded()], "1"),
        ("no options", "", [sketch().lists(0).proved("num_ctx=9", 9), sketch().loaded()], "2"),
        ("listed context", "num_ctx=8192", [sketch().lists(4_096), sketch().lists(8_192)], "2"),
        ("more than the list tells", "num_gpu=1", [sketch().lists(0), sketch().proved("num_gpu=1", 9)], "2"),
        ("listed defaults", "", [sketch(), sketch().lists(4_096)], "2"),
        ("unloaded since", "", [sketch().proved("", 60_000), sketch().loaded()], "2"),
        ("proved since it was asked", "", [sketch().proved("", 1), sketch()], "1"),
    ] {
        assert_eq!(best(options, &herd), expected, "{what}");
    }
}

#[test]
fn those_who_wait_for_a_host_count_as_much_as_those_it_serves() {
    let mut view = view(&[sketch().loaded(), sketch().loaded()]);
    let ticket = |number: u64, host: usize| {
        let ticket = Ticket::new(
            &view,
            &number.to_string(),
            LANE,
            &url(host),
            Flow { caller: "caller", session: "session" },
        );
        Ticket { since: ago(number), ..ticket }
    };
    // More tickets than there are slots.
    let tickets: Vec<_> = (0..7).map(|number| ticket(number, 1)).collect();
    let other_lane = Ticket { lane: "other:1".into(), ..ticket(9, 2) };
    view.tickets = tickets.into_iter().chain(vec![other_lane; 9]).collect();
    for affinity in 0..16 {
        let plan = plan(&view, Policy::Auto, &Demand { affinity, ..demand(Some(&model("m"))) });
        assert_eq!(names(&plan), ["2", "1"], "{plan}");
    }
}

#[test]
fn turns_are_taken_by_weight() {
    let herd = [sketch().weight(1), sketch().weight(3), sketch().weight(0), sketch().weight(2)];
    let (view, model) = (view(&herd), model("m"));
    let first = |turn| {
        let plan = plan(&view, Policy::RoundRobin, &Demand { turn, ..demand(Some(&model)) });
        names(&plan).concat()
    };
    let turns: Vec<_> = (0..7).map(first).collect();
    assert_eq!(turns, ["124", "241", "241", "241", "412", "412", "124"]);
}

#[test]
fn turns_go_round_and_the_others_follow_in_order() {
    let (model, view) = (model("m"), view(&[sketch(), sketch(), sketch()]));
    for (turn, expected) in [(0, ["1", "2", "3"]), (4, ["2", "3", "1"]), (u64::MAX, ["1", "2", "3"])] {
        let plan = plan(&view, Policy::RoundRobin, &Demand { turn, ..demand(Some(&model)) });
        assert_eq!(names(&plan), expected, "{turn}");
    }
}

#[test]
fn without_hosts_there_is_no_choice() {
    let model = model("m");
    for policy in Policy::ALL {
        for model in [Some(&model), None] {
            let plan = plan(&view(&[]), policy, &Demand { turn: 5, seed: 5, ..demand(model) });
            assert!(plan.choices.is_empty() && plan.slots().is_empty(), "{plan}");
        }
    }
}

#[test]
fn chance_spreads_evenly_even_over_a_counter() {
    let (model, view) = (model("m"), view(&[sketch(), sketch(), sketch(), sketch()]));
    let mut counts = [0; 4];
    for seed in 0..4_000 {
        let plan = plan(&view, Policy::Random, &Demand { seed, ..demand(Some(&model)) });
        counts[plan.choices[0].index] += 1;
    }
    assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
}

#[test]
fn chance_goes_by_weight() {
    let (view, model) = (view(&[sketch().weight(1), sketch().weight(3)]), model("m"));
    let is_second = |seed: &u64| {
        let plan = plan(&view, Policy::Random, &Demand { seed: *seed, ..demand(Some(&model)) });
        names(&plan) == ["2", "1"]
    };
    let count = (0..4_000).filter(is_second).count();
    assert!((2_850..3_150).contains(&count), "{count} of 4000");
}

#[test]
fn the_least_outstanding_has_the_fewest_in_flight_for_its_weight() {
    let herd = [sketch().busy(3), sketch().busy(4).weight(2), sketch().busy(1), sketch().busy(9)];
    assert_eq!(order(Policy::LeastOutstanding, &herd), ["3", "2", "1", "4"]);
}

#[test]
fn of_two_by_chance_the_better_one_is_first_and_the_worst_of_all_never() {
    let herd = [sketch().busy(5), sketch(), sketch().takes(90_000, 1)];
    let (pair, herd, model) = (view(&herd[..2]), view(&herd), model("m"));
    let first = |view: &FleetView, seed| {
        let plan = plan(view, Policy::PowerOfTwoChoices, &Demand { seed, ..demand(Some(&model)) });
        names(&plan)[0].to_owned()
    };
    assert!((0..64).all(|seed| first(&pair, seed) == "2"));
    let mut firsts: Vec<_> = (0..64).map(|seed| first(&herd, seed)).collect();
    firsts.sort();
    firsts.dedup();
    assert_eq!(firsts, ["1", "2"]);
}

#[test]
fn the_same_session_comes_to_the_same_host_and_others_spread() {
    let (view, model) = (view(&vec![sketch().loaded(); 4]), model("m"));
    for policy in [Policy::Auto, Policy::Affinity] {
        let first = |key: &str, seed| {
            let demand =
                Demand { affinity: affinity(key.as_bytes()), seed, turn: seed, ..demand(Some(&model)) };
            names(&plan(&view, policy, &demand))[0].to_owned()
        };
        let mut firsts: Vec<_> = (0..32).map(|key| first(&key.to_string(), 0)).collect();
        assert!((1..9).all(|seed| first("7", seed) == firsts[7]), "{policy:?}");
        firsts.sort();
        firsts.dedup();
        assert_eq!(firsts.len(), 4, "{policy:?}");
    }
}

#[test]
fn a_host_that_failed_is_tried_by_one_request_at_a_time() {
    let tried = sketch().loaded().half_open().lease(ago(100), false, Some(Scope::Host));
    for policy in Policy::ALL {
        let demand = Demand { seed: 3, ..demand(None) };
        let alone = plan(&view(&[sketch().loaded().half_open()]), policy, &demand);
        let trial = alone.slots();
        assert_eq!((trial.len(), trial[0].trial), (1, Some(Scope::Host)), "{policy:?}");
        let busy = plan(&view(&[tried.clone(), sketch().loaded()]), policy, &demand);
        assert_eq!((names(&busy), slots(&busy)), (vec!["2", "1"], vec!["2"]), "{policy:?}");
        assert_eq!(busy.slots()[0].trial, None, "{policy:?}");
    }
}

#[test]
fn what_a_model_did_keeps_only_its_own_requests_from_a_host() {
    let failed = |lane: &str| sketch().loaded().open().of_lane(lane);
    for (lane, expected) in [(LANE, vec!["2", "1"]), ("other:latest", vec!["1", "2"])] {
        let hosts = [failed(lane).takes(1_000, 20_000), sketch().loaded().takes(4_000, 20_000)];
        assert_eq!(names(&plan(&view(&hosts), Policy::Auto, &demand(Some(&model("m"))))), expected, "{lane}");
    }
    let plan = plan(&view(&[failed(LANE)]), Policy::Auto, &demand(Some(&model("m"))));
    assert!(plan.to_string().contains("breaker of the model open (timeout)"), "{plan}");
}

#[test]
fn a_lane_that_failed_is_tried_by_one_request_at_a_time_beside_the_trials_of_others() {
    let model = model("m");
    let half_open = sketch().loaded().half_open().of_lane(LANE);
    let trial = |sketch: Sketch| plan(&view(&[sketch]), Policy::Auto, &demand(Some(&model))).slots()[0].trial;
    assert_eq!(trial(half_open.clone()), Some(Scope::Lane));
    let mut beside = half_open.clone().lease(ago(100), false, Some(Scope::Lane));
    beside.leases[0].lane = "other:latest".into();
    assert_eq!(trial(beside), Some(Scope::Lane), "another lane's trial is none of its own");
    let tried = half_open.clone().lease(ago(100), false, Some(Scope::Lane));
    let plan = plan(&view(&[tried]), Policy::Auto, &demand(Some(&model)));
    assert_eq!(plan.choices[0].breaker(), BreakerState::Open);
    let mut both = half_open;
    both.stats.breaker = sketch().half_open().stats.breaker;
    assert_eq!(trial(both), Some(Scope::Host));
}

#[test]
fn work_in_the_cloud_keeps_a_host_from_nothing_and_loads_nothing() {
    let cloud = model("m:cloud");
    let mut busy = sketch().loaded().busy(3);
    let wait = |sketch: &Sketch, model: &ModelName| {
        plan(&view(std::slice::from_ref(sketch)), Policy::Auto, &demand(Some(model))).choices.remove(0)
    };
    let idle = wait(&sketch().loaded(), &cloud);
    assert!(!idle.cold);
    assert_eq!(wait(&busy, &cloud).wait, idle.wait, "what the host does itself is no hindrance");
    let alone = wait(&sketch().loaded(), &model("m")).wait;
    for lease in &mut busy.leases {
        lease.lane = cloud.lane(Work::Answer).into();
    }
    assert_eq!(wait(&busy, &model("m")).wait, alone);
    assert!(wait(&busy, &cloud).wait > idle.wait);
}

#[test]
fn an_open_host_comes_last_and_is_asked_only_when_no_other_is_left() {
    let model = model("m");
    for policy in Policy::ALL {
        for seed in 0..8 {
            let demand = Demand { seed, turn: seed, affinity: seed, ..demand(Some(&model)) };
            let herd = [sketch().loaded().open(), sketch().busy(20), sketch().loaded().open()];
            let both = plan(&view(&herd), policy, &demand);
            assert_eq!((names(&both)[0], slots(&both)), ("2", vec!["2"]), "{policy:?}");
            let failed = [sketch().open(), sketch().without_the_model(), sketch().open()];
            let rest = plan(&view(&failed), policy, &demand);
            assert_eq!(slots(&rest), names(&rest), "{policy:?}");
            assert_eq!(rest.choices.len(), 2, "{policy:?}");
        }
    }
}

#[test]
fn auto_waits_for_its_first_choice_where_another_takes_longer() {
    let model = model("m");
    let loaded = || sketch().loaded().takes(200, 60_000);
    for (what, herd, expected) in [
        ("cold takes longer", [loaded().busy(4), sketch().takes(200, 60_000)], 1),
        ("both are as good", [loaded(), loaded()], 2),
        ("as busy", [loaded().busy(3), loaded().busy(3)], 2),
    ] {
        let demand = demand(Some(&model));
        for policy in Policy::ALL {
            let plan = plan(&view(&herd), policy, &demand);
            let expected = if policy == Policy::Auto { expected } else { 2 };
            assert_eq!(plan.slots().len(), expected, "{what}: {plan}");
        }
    }
}

#[test]
fn a_place_tells_what_a_claim_needs() {
    let herd = [sketch().busy(2).half_open()];
    let plan = plan(&view(&herd), Policy::Auto, &demand(Some(&model("m"))));
    assert_eq!(
        plan.slots(),
        [SlotRequest { host: url(1).into(), limit: 4, cold: true, trial: Some(Scope::Host) }]
    );
    assert_eq!(plan.choices[0].in_flight, 2);
    let text = plan.to_string();
    for part in ["auto; host 1: ", "breaker half_open (unreachable)", "not loaded", "2 of 4 in flight"] {
        assert!(text.contains(part), "{text}");
    }
}

/// A herd of three hosts with the model loaded, that answers every request where the plan says; gives the host's place.
fn answered(stats: &mut [crate::fleet::HostStats], turn: u64, prefixes: &Prefixes) -> usize {
    let herd: Vec<_> =
        stats.iter().map(|stats| Sketch { stats: stats.clone(), ..sketch().lists(0) }).collect();
    let model = model("m");
    let (affinity, prompt) = (prefixes.opening(), prefixes.length());
    let demand = Demand { affinity, prompt, prefixes, ..demand(Some(&model)) };
    let choice = plan(&view(&herd), Policy::Auto, &demand).choices[0].clone();
    let run = crate::fleet::AttemptContext {
        lane: &model.lane(Work::Answer),
        options: "",
        streams: true,
        in_flight: 1,
        cold: false,
        affinity,
        prompt,
        prefixes,
        slots: choice.limit,
    };
    let report = crate::fleet::AttemptReport {
        run: Some(run),
        began: view(&herd).now,
        first_byte: Some(Duration::from_millis(100)),
        elapsed: Duration::from_millis(200),
        effect: crate::fleet::HostEffect::Answered,
    };
    stats[choice.index].record_attempt(view(&herd).now + Duration::from_secs(turn), &report, 0);
    choice.index
}

#[test]
fn agents_with_one_long_system_prompt_spread_and_their_later_turns_stay() {
    let system = "You are a careful agent. ".repeat(500);
    // All have answered before, as fast as these requests are.
    let mut stats = vec![sketch().takes(200, 6_000).stats; 3];
    let mut places = vec![Vec::new(); 9];
    for turn in 0..4 {
        for (agent, places) in places.iter_mut().enumerate() {
            let mut reader = crate::fleet::prefix::PrefixReader::default();
            reader.text(system.as_bytes());
            for message in 0..=turn * 2 {
                reader.text(format!("message {message} of agent {agent} ").repeat(20).as_bytes());
                reader.end_message();
            }
            places.push(answered(&mut stats, turn, &reader.finish()));
        }
    }
    assert!(places.iter().all(|places| places.iter().all(|place| *place == places[0])), "{places:?}");
    let mut firsts = [0; 3];
    for places in &places {
        firsts[places[0]] += 1;
    }
    assert!(firsts.iter().all(|count| (1..=4).contains(count)), "{firsts:?}");
}
