//! Chooses hosts without any I/O: the counter and the seed are yours.
//!
//!     cargo run --example load_balancer

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use paddock::{BackendHost, LoadBalancer};

fn main() -> Result<(), String> {
    let urls = ["http://10.0.0.1:11434", "http://10.0.0.2:11434", "http://10.0.0.3:11434"];
    let hosts = urls.iter().enumerate().map(|(index, url)| BackendHost::new(index + 1, url));
    let balancer = LoadBalancer::new(hosts.collect::<Result<_, _>>()?);

    for request in 0..4 {
        let order: Vec<_> = balancer.rotation(request).into_iter().map(BackendHost::name).collect();
        println!("request {request} by turns: hosts {}", order.join(", then "));
    }
    for seed in 0..4 {
        let first = balancer.random_host(seed).map_or("none", BackendHost::url);
        println!("seed {seed} by chance: {first}");
    }
    Ok(())
}
