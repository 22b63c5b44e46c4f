//! When a host counts as hung: it answers nothing for much longer than usual, while another host could be asked.

use std::time::Duration;

use super::{Admission, LONGEST_POLL};
use crate::{
    fleet::{BreakerState, Policy, plan::plan},
    host::Platform,
    platform::Timer,
    upstream::slot::Slot,
};

/// The longest wait for what asks no model, while another host could be asked.
const PROMPT: Duration = Duration::from_secs(10);

impl<P: Platform> Admission<'_, P> {
    /// Resolves once the host of `slot` counts as hung and another could be asked instead.
    pub(crate) async fn hung(&self, slot: &Slot) {
        let service = self.service;
        let least = service.config().fleet.hung_after;
        let asks_no_model = self.upstream_request.routing_key.lane().is_none();
        let lane = self.upstream_request.routing_key.lane().filter(|_| !slot.cold);
        let stats = lane.as_deref().and_then(|lane| slot.stats.lane(lane));
        let patience = stats.and_then(|stats| stats.patience(&slot.options, slot.streams, least));
        // What asks no model is answered at once, wherever it is answered.
        let patience = patience.or_else(|| asks_no_model.then(|| least.min(PROMPT)));
        let Some(patience) = patience else { return std::future::pending().await };
        let mut since = slot.began;
        let mut wait = patience;
        loop {
            service.sleep(wait).await;
            // No reply waits for this look, so it has a deadline of its own.
            let (mut view, _) = self.look(&self.request.store.beside(service)).await;
            let known = view.hosts.iter().find(|known| known.host == slot.backend);
            let completed = known.map(|known| known.stats.completed()).unwrap_or_default();
            if completed > since && !asks_no_model {
                // The host is slow and not hung, so the patience begins anew with its last completed request.
                wait = (completed + patience).saturating_sub(view.now).max(LONGEST_POLL);
                since = completed;
                continue;
            }
            view.hosts.retain(|known| !self.is_tried(&known.host));
            let prompt = self.prompt.clone().unwrap_or_default();
            let others = plan(&view, Policy::Auto, &self.demand(&prompt)).choices;
            if others.iter().any(|choice| choice.breaker() != BreakerState::Open) {
                return;
            }
            wait = patience;
        }
    }
}
