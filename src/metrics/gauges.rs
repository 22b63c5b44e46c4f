//! Gauges: values that are not counted but read when `/metrics` is asked.

use super::text::{header, label, line};
use crate::{config::settings::Deployment, fleet::BreakerState};

/// The current gauges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gauges {
    /// Whether the store answers.
    pub store_up: bool,
    /// How many bytes of request bodies this process holds.
    pub held_bytes: usize,
    /// How many bytes of request bodies this process may hold.
    pub memory_budget: usize,
    /// The deployment.
    pub form: Deployment,
    /// The configured hosts, each once.
    pub hosts: Vec<HostGauge>,
}

/// The gauges of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostGauge {
    /// The host's base URL.
    pub host: String,
    /// Requests in flight on it.
    pub in_flight: u64,
    /// Requests in the queue that prefer it.
    pub waiting: u64,
    /// The state of its breaker.
    pub breaker: BreakerState,
    /// Its lanes whose breaker is not closed.
    pub lanes: Vec<LaneGauge>,
    /// How many models it has loaded.
    pub loaded: u64,
}

/// The gauge of one lane of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneGauge {
    /// The lane: the model's canonical name, for embeddings with `#embed` behind it.
    pub lane: String,
    /// The state of its breaker.
    pub breaker: BreakerState,
}

impl Gauges {
    pub(super) fn write(&self, text: &mut String) {
        self.write_breakers(text);
        self.write_hosts(text, "paddock_host_in_flight", "Requests that a host is answering.", |host| {
            host.in_flight
        });
        self.write_hosts(text, "paddock_host_loaded_models", "Models that a host has loaded.", |host| {
            host.loaded
        });
        let waiting = "Requests in the queue whose first choice is this host.";
        self.write_hosts(text, "paddock_host_waiting", waiting, |host| host.waiting);
        header(text, "paddock_store_up", "Whether the store answers: 1 or 0.", "gauge");
        line(text, "paddock_store_up", "", u64::from(self.store_up));
        // A Spin instance knows nothing of the others, and the one that is asked holds no body.
        if self.form == Deployment::Native {
            let mut bytes = |name: &str, help: &str, value: usize| {
                header(text, name, help, "gauge");
                line(text, name, "", u64::try_from(value).unwrap_or(u64::MAX));
            };
            let held = "Bytes of request bodies that this process holds.";
            bytes("paddock_held_bytes", held, self.held_bytes);
            let budget = "Bytes of request bodies that this process may hold.";
            bytes("paddock_memory_budget_bytes", budget, self.memory_budget);
        }
        header(text, "paddock_build_info", "The version that runs and the form it runs in.", "gauge");
        let build = format!("version=\"{}\",form=\"{}\"", env!("CARGO_PKG_VERSION"), self.form.as_str());
        line(text, "paddock_build_info", &build, 1);
    }

    fn write_breakers(&self, text: &mut String) {
        let name = "paddock_host_breaker";
        header(text, name, "The state of a host's circuit breaker: 1 for the one it is in, else 0.", "gauge");
        for host in &self.hosts {
            for state in BreakerState::ALL {
                let labels = format!("{},state=\"{}\"", label("host", &host.host), state.as_str());
                line(text, name, &labels, u64::from(state == host.breaker));
            }
        }
        let name = "paddock_lane_breaker";
        let help = "1 for each model of a host whose circuit breaker is not closed, by the state it is in.";
        header(text, name, help, "gauge");
        for host in &self.hosts {
            for lane in &host.lanes {
                let [host, model] = [label("host", &host.host), label("model", &lane.lane)];
                line(text, name, &format!("{host},{model},state=\"{}\"", lane.breaker.as_str()), 1);
            }
        }
    }

    fn write_hosts(&self, text: &mut String, name: &str, help: &str, value: fn(&HostGauge) -> u64) {
        header(text, name, help, "gauge");
        for host in &self.hosts {
            line(text, name, &label("host", &host.host), value(host));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(hosts: Vec<HostGauge>) -> String {
        let mut text = String::new();
        let (form, store_up) = (Deployment::Native, true);
        Gauges { store_up, held_bytes: 5, memory_budget: 6, form, hosts }.write(&mut text);
        text
    }

    #[test]
    fn each_host_has_one_breaker_state_and_its_numbers() {
        let host = |host: &str, breaker| HostGauge {
            host: host.to_owned(),
            in_flight: 2,
            waiting: 3,
            breaker,
            lanes: vec![LaneGauge { lane: "m:1".to_owned(), breaker: BreakerState::Open }],
            loaded: 4,
        };
        let text =
            text(vec![host("http://b:1", BreakerState::Open), host("http://a:1", BreakerState::HalfOpen)]);
        let lines: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("paddock_host_") || line.starts_with("paddock_lane_"))
            .collect();
        assert_eq!(
            lines,
            [
                r#"paddock_host_breaker{host="http://b:1",state="closed"} 0"#,
                r#"paddock_host_breaker{host="http://b:1",state="half_open"} 0"#,
                r#"paddock_host_breaker{host="http://b:1",state="open"} 1"#,
                r#"paddock_host_breaker{host="http://a:1",state="closed"} 0"#,
                r#"paddock_host_breaker{host="http://a:1",state="half_open"} 1"#,
                r#"paddock_host_breaker{host="http://a:1",state="open"} 0"#,
                r#"paddock_lane_breaker{host="http://b:1",model="m:1",state="open"} 1"#,
                r#"paddock_lane_breaker{host="http://a:1",model="m:1",state="open"} 1"#,
                r#"paddock_host_in_flight{host="http://b:1"} 2"#,
                r#"paddock_host_in_flight{host="http://a:1"} 2"#,
                r#"paddock_host_loaded_models{host="http://b:1"} 4"#,
                r#"paddock_host_loaded_models{host="http://a:1"} 4"#,
                r#"paddock_host_waiting{host="http://b:1"} 3"#,
                r#"paddock_host_waiting{host="http://a:1"} 3"#,
            ]
        );
    }

    #[test]
    fn the_families_are_described_before_any_host_is_known() {
        let text = text(Vec::new());
        for name in ["breaker", "in_flight", "loaded_models", "waiting"] {
            assert!(text.contains(&format!("# HELP paddock_host_{name} ")), "{name}");
            assert!(text.contains(&format!("# TYPE paddock_host_{name} gauge\n")), "{name}");
        }
    }
}
