//! When a host counts as hung: it answers nothing for much longer than usual, while another host could be asked.

use super::{Admission, LONGEST_POLL};
use crate::{
    fleet::{BreakerState, Policy, plan::plan},
    host::Platform,
    platform::Timer,
    upstream::slot::Slot,
};

impl<P: Platform> Admission<'_, P> {
    /// Resolves once the host of `slot` counts as hung and another could be asked instead.
    pub(crate) async fn hung(&self, slot: &Slot) {
        let service = self.service;
        let lane = self.upstream_request.routing_key.lane().filter(|_| !slot.cold);
        let stats = lane.as_deref().and_then(|lane| slot.stats.lane(lane));
        let patience = stats
            .and_then(|stats| stats.patience(&slot.options, slot.streams, service.config().fleet.hung_after));
        let Some(patience) = patience else { return std::future::pending().await };
        let mut since = slot.began;
        let mut wait = patience;
        loop {
            service.sleep(wait).await;
            // No reply waits for this look, so it has a deadline of its own.
            let (mut view, _) = self.look(&self.request.store.beside(service)).await;
            let known = view.hosts.iter().find(|known| known.host == slot.backend);
            let completed = known.map(|known| known.stats.completed()).unwrap_or_default();
            if completed > since {
                // The host is slow and not hung, so the patience begins anew with its last completed request.
                wait = (completed + patience).saturating_sub(view.now).max(LONGEST_POLL);
                since = completed;
                continue;
            }
            view.hosts.retain(|known| !self.is_tried(&known.host));
            let others = plan(&view, Policy::Auto, &self.demand()).choices;
            if others.iter().any(|choice| choice.breaker != BreakerState::Open) {
                return;
            }
            wait = patience;
        }
    }
}
