//! Properties that hold for every fleet.

use proptest::{collection::vec, option, prelude::*};

use super::*;

fn any_sketch() -> impl Strategy<Value = Sketch> {
    let has = (0u8..4, option::of(prop_oneof![Just(0u64), Just(4_096)]), option::of(0u64..3_000));
    let work = (0u64..6, option::of(0u64..40_000), any::<bool>(), (1u64..5_000, 1u64..60_000));
    (has, work, 0u64..5, 1u64..5, 0u8..4).prop_map(|(has, work, weight, parallel, breaker)| {
        let (kind, listed, proved) = has;
        let (busy, loading, is_tried, (service, load)) = work;
        let mut sketch = sketch().weight(weight).takes(service, load).busy(busy);
        sketch.parallel = parallel;
        sketch = listed.into_iter().fold(sketch, Sketch::lists);
        sketch = proved.into_iter().fold(sketch, |sketch, millis| sketch.proved("", millis));
        sketch = loading.into_iter().fold(sketch, Sketch::loading);
        sketch = match breaker {
            0 => sketch.open(),
            1 if is_tried => sketch.half_open().lease(ago(10), false, Some(Scope::Host)),
            1 => sketch.half_open(),
            _ => sketch,
        };
        match kind {
            0 => sketch.silent(),
            1 => sketch.without_the_model(),
            _ => sketch,
        }
    })
}

fn any_policy() -> impl Strategy<Value = Policy> {
    prop::sample::select(&Policy::ALL[..])
}

/// The model `m`, a cloud model, or none.
fn any_model() -> impl Strategy<Value = Option<ModelName>> {
    prop::sample::select(vec![Some(model("m")), Some(model("m")), Some(model("m:cloud")), None])
}

fn rank(choice: &Choice) -> bool {
    choice.breaker() == BreakerState::Open
}

/// Hosts that differ only in their weights.
fn alike(weights: &[u64]) -> Vec<Sketch> {
    weights.iter().map(|weight| sketch().loaded().weight(*weight)).collect()
}

proptest! {
    #[test]
    fn every_host_with_the_model_and_a_weight_is_in_the_plan_once_and_open_ones_come_last(
        sketches in vec(any_sketch(), 0..7), policy in any_policy(), model in any_model(),
        affinity: u64, turn: u64, seed: u64,
    ) {
        let view = view(&sketches);
        let demand = Demand { affinity, turn, seed, ..demand(model.as_ref()) };
        let plan = plan(&view, policy, &demand);
        let needs = model.as_ref().is_some_and(|model| !model.is_cloud());
        let able = (0..sketches.len()).filter(|slot| {
            let sketch = &sketches[*slot];
            let has = sketch.inventory.as_ref().is_some_and(|inventory| !inventory.models.is_empty());
            sketch.weight > 0 && (has || !needs)
        });
        let mut planned: Vec<_> = plan.choices.iter().map(|choice| choice.index).collect();
        planned.sort_unstable();
        prop_assert_eq!(planned, able.collect::<Vec<_>>());
        prop_assert!(plan.choices.is_sorted_by_key(rank), "{}", plan);
        prop_assert!(plan.choices.iter().all(|choice| choice.host == view.hosts[choice.index].host));
        prop_assert_eq!(&plan, &super::plan(&view, policy, &demand));
        let text = plan.to_string();
        prop_assert!(!text.contains("//") && !text.contains("example") && !text.contains("secret"), "{}", text);
    }

    #[test]
    fn a_place_is_taken_on_a_host_that_works_while_there_is_one_and_on_the_first_in_any_case(
        sketches in vec(any_sketch(), 0..7), policy in any_policy(), affinity: u64, turn: u64, seed: u64,
    ) {
        let model = model("m");
        let demand = Demand { affinity, turn, seed, ..demand(Some(&model)) };
        let plan = plan(&view(&sketches), policy, &demand);
        let slots = plan.slots();
        let url = |choice: &Choice| choice.host.url().to_owned();
        prop_assert_eq!(slots.first().map(|slot| slot.host.to_string()), plan.choices.first().map(url));
        let is_down = plan.choices.iter().all(rank);
        for slot in &slots {
            let choice = plan.choices.iter().find(|choice| url(choice) == *slot.host).unwrap();
            prop_assert!(is_down || !rank(choice), "{}", plan);
            prop_assert_eq!(slot.trial.is_some(), choice.breaker() == BreakerState::HalfOpen);
            prop_assert_eq!((slot.cold, slot.limit), (choice.cold, choice.limit));
        }
        if policy != Policy::Auto {
            let working = plan.choices.iter().filter(|choice| is_down || !rank(choice)).count();
            prop_assert_eq!(slots.len(), working);
        }
    }

    #[test]
    fn a_host_that_goes_moves_its_own_keys_alone(
        weights in vec(1u64..5, 2..7), gone: prop::sample::Index, affinity: u64,
        policy in prop::sample::select(&[Policy::Auto, Policy::Affinity][..]),
    ) {
        let model = model("m");
        let demand = Demand { affinity, ..demand(Some(&model)) };
        let mut sketches = alike(&weights);
        let before = plan(&view(&sketches), policy, &demand);
        let gone = gone.index(sketches.len());
        sketches[gone] = sketch().without_the_model();
        let after = plan(&view(&sketches), policy, &demand);
        let indexes = |plan: &Plan| plan.choices.iter().map(|choice| choice.index).collect::<Vec<_>>();
        let mut kept = indexes(&before);
        kept.retain(|index| *index != gone);
        prop_assert_eq!(indexes(&after), kept);
    }

    #[test]
    fn with_affinity_no_host_takes_a_quarter_more_than_its_share(
        weights in vec(1u64..5, 1..7), keys in vec(0u64..3, 1..80),
    ) {
        let (model, mut sketches, sum) = (model("m"), alike(&weights), weights.iter().sum::<u64>());
        for (requests, key) in (1u64..).zip(keys) {
            let affinity = affinity(&key.to_le_bytes());
            let demand = Demand { affinity, ..demand(Some(&model)) };
            let chosen = plan(&view(&sketches), Policy::Affinity, &demand).choices[0].index;
            let sketch = sketches[chosen].clone();
            sketches[chosen] = sketch.busy(1);
            let most = (5 * requests * weights[chosen]).div_ceil(4 * sum);
            let count = sketches[chosen].leases.len() as u64;
            prop_assert!(count <= most, "{} of {} requests on a host of {}", count, requests, most);
        }
    }

    #[test]
    fn as_many_turns_as_all_weights_give_each_host_its_own(
        weights in vec(0u64..6, 1..7), start in 0..u64::MAX / 2,
    ) {
        let (model, view) = (model("m"), view(&alike(&weights)));
        let mut counts = vec![0; weights.len()];
        for turn in start..start + weights.iter().sum::<u64>() {
            let plan = plan(&view, Policy::RoundRobin, &Demand { turn, ..demand(Some(&model)) });
            counts[plan.choices[0].index] += 1;
        }
        prop_assert_eq!(counts, weights);
    }

    #[test]
    fn more_requests_on_a_host_never_make_it_the_better_choice(
        sketches in vec(any_sketch(), 2..6), busier: prop::sample::Index, affinity: u64, seed: u64,
        policy in prop::sample::select(&[Policy::LeastOutstanding, Policy::PowerOfTwoChoices][..]),
    ) {
        let model = model("m");
        let demand = Demand { affinity, seed, ..demand(Some(&model)) };
        let busier = busier.index(sketches.len());
        let first = |sketches: &[Sketch]| {
            plan(&view(sketches), policy, &demand).choices.first().map(|choice| choice.index)
        };
        let mut later = sketches.clone();
        later[busier] = later[busier].clone().busy(3);
        let (before, after) = (first(&sketches), first(&later));
        prop_assert!(after == before || before == Some(busier), "{:?} {:?}", before, after);
    }
}
