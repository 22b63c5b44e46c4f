//! Short descriptions of hosts for tests.

use super::*;

/// The default durations of a request and of a load, in milliseconds.
const USUAL: (u64, u64) = (4_000, 20_000);

pub(super) fn ago(millis: u64) -> Duration {
    NOW.checked_sub(Duration::from_millis(millis)).unwrap()
}

/// A host in a test. By default it has the model, has not loaded it, and is idle.
#[derive(Debug, Clone)]
pub(super) struct Sketch {
    pub(super) weight: u64,
    pub(super) parallel: u64,
    pub(super) inventory: Option<Inventory>,
    pub(super) stats: HostStats,
    pub(super) leases: Vec<Lease>,
}

pub(super) fn sketch() -> Sketch {
    let inventory = Inventory {
        seen: ago(500),
        models: vec![Model { name: "M".to_owned(), digest: String::new() }],
        ..Inventory::default()
    };
    let sketch = Sketch {
        weight: 1,
        parallel: 4,
        inventory: Some(inventory),
        stats: HostStats::default(),
        leases: vec![],
    };
    sketch.takes(USUAL.0, USUAL.1)
}

impl Sketch {
    pub(super) fn weight(self, weight: u64) -> Self {
        Self { weight, ..self }
    }

    /// Sets the durations of one request and of one load of the model, in milliseconds.
    pub(super) fn takes(mut self, service: u64, load: u64) -> Self {
        let lane = self.stats.lane_mut(LANE);
        (lane.service, lane.latency, lane.load) = (service, service, load);
        self
    }

    pub(super) fn without_the_model(self) -> Self {
        Self { inventory: Some(Inventory { seen: ago(500), ..Inventory::default() }), ..self }
    }

    pub(super) fn silent(self) -> Self {
        Self { inventory: None, ..self }
    }

    /// Lists the model as loaded, with this context length.
    pub(super) fn lists(mut self, context_length: u64) -> Self {
        let loaded = LoadedModel { name: LANE.to_owned(), context_length, expires_at: String::new() };
        self.inventory.as_mut().unwrap().loaded.push(loaded);
        self
    }

    /// Records a first byte of the model with these options, so many milliseconds ago.
    pub(super) fn proved(mut self, options: &str, millis: u64) -> Self {
        self.stats.prove(ago(millis), LANE, options);
        self
    }

    pub(super) fn loaded(self) -> Self {
        self.lists(0).proved("", 1_000)
    }

    pub(super) fn lease(mut self, began: Duration, cold: bool, trial: Option<Scope>) -> Self {
        let id = self.leases.len().to_string();
        self.leases.push(Lease { host: "".into(), lane: LANE.into(), id: id.into(), began, cold, trial });
        self
    }

    pub(super) fn busy(self, count: u64) -> Self {
        (0..count).fold(self, |sketch, _| sketch.lease(ago(100), false, None))
    }

    /// Records a load of the model that began so many milliseconds ago.
    pub(super) fn loading(self, millis: u64) -> Self {
        self.lease(ago(millis), true, None)
    }

    pub(super) fn breaker(mut self, since: u64, until: Duration) -> Self {
        let opening = OpenUntil { since: ago(since), until, cause: Cause::Unreachable };
        self.stats.breaker.opening = Some(opening);
        self
    }

    /// Opens the breaker of a lane of the host, in place of that of the host.
    pub(super) fn of_lane(mut self, lane: &str) -> Self {
        let mut breaker = std::mem::take(&mut self.stats.breaker);
        breaker.opening = breaker.opening.map(|opening| OpenUntil { cause: Cause::TimedOut, ..opening });
        self.stats.lane_mut(lane).breaker = breaker;
        self
    }

    pub(super) fn open(self) -> Self {
        self.breaker(2_000, NOW + Duration::from_secs(5))
    }

    pub(super) fn half_open(self) -> Self {
        self.breaker(2_000, ago(1_000))
    }
}
