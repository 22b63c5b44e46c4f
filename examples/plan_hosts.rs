//! Plans without any I/O which hosts a request tries: the fleet's state, the counter and the seed are yours.
//!
//!     cargo run --example plan_hosts

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{collections::BTreeMap, sync::Arc};

use paddock::fleet::{
    BackendHost, Inventory, Model, ModelName, Policy, Work,
    plan::{Demand, plan},
    prefix::Prefixes,
    snapshot::{FleetSnapshot, FleetView},
};

fn main() -> Result<(), String> {
    let urls = ["http://10.0.0.1:11434", "http://10.0.0.2:11434", "http://10.0.0.3:11434"];
    let hosts = urls.iter().zip(1..).map(|(url, place)| BackendHost::new(place, url));
    let hosts = hosts.collect::<Result<Vec<_>, _>>()?;

    // The first two hosts have the model; the third has not said yet what it has, so it is not asked.
    let listed = Model { name: "llama3.2:latest".to_owned(), digest: String::new() };
    let inventory = Arc::new(Inventory { models: vec![listed], ..Inventory::default() });
    let known = urls.iter().take(2).map(|url| ((*url).to_owned(), Arc::clone(&inventory)));
    let inventories: BTreeMap<_, _> = known.collect();
    let view = FleetView::new(&hosts, &inventories, FleetSnapshot::default());

    let model = ModelName::parse("llama3.2").ok_or("not the name of a model")?;
    for policy in Policy::ALL {
        for number in 0..2 {
            let demand = Demand {
                model: Some(&model),
                work: Work::Answer,
                options: "",
                affinity: number,
                prompt: 1_000,
                prefixes: Prefixes::none(),
                turn: number,
                seed: number,
            };
            println!("request {number}: {}", plan(&view, policy, &demand));
        }
    }
    Ok(())
}
