//! What an admission does when no host is left that has the model.
//!
//! It asks every host once more, and never asks for the same model again in the same admission.

use super::{Admission, Admitted};
use crate::{
    api::{endpoint::Endpoint, error::Error},
    fleet::{AttemptFailure, BackendHost, Failover, Inventory, nearest, no_route},
    host::Platform,
    upstream::probe,
};

/// How many hosts an error names.
const NAMED: usize = 8;

impl<P: Platform> Admission<'_, P> {
    /// What follows when no host is left that has the model; `None` to look again.
    pub(super) async fn missing(&mut self, failover: &Failover) -> Option<Admitted> {
        let service = self.service;
        let Some(model) = &self.upstream_request.routing_key.model else {
            return Some(Admitted::None(self.no_route()));
        };
        // Without hosts nothing is known about the model.
        if self.is_refreshed || service.fleet().hosts().is_empty() {
            return Some(Admitted::None(self.no_route()));
        }
        // The host may have pulled the model a second ago, so every host is asked once more.
        let failures =
            probe::refresh(service, |backend, found| !self.is_tried(backend) && found.has(model)).await;
        self.is_refreshed = true;
        let inventories = service.fleet().inventories();
        if service.fleet().hosts().iter().any(|backend| {
            !self.is_tried(backend)
                && backend.weight() > 0
                && inventories
                    .get(backend.url())
                    .is_some_and(|inventory| inventory.has(model) && self.has_route(inventory))
        }) {
            return None;
        }
        if let Some(error) = self.no_route() {
            return Some(Admitted::None(Some(error)));
        }
        let asked = self.upstream_request.model.clone().unwrap_or_default();
        let unknown = failures.len();
        Some(match failures.into_iter().next() {
            // No host answers, so the failure says more than a missing model would.
            Some(failure) if unknown == service.fleet().hosts().len() && failover.is_untried() => {
                Admitted::Refuse(AttemptFailure::from(failure).into_error())
            }
            Some(_) => Admitted::None(Some(Error::ModelUnavailable { model: asked, unknown })),
            None if inventories.values().any(|known| known.has(model)) && failover.is_untried() => {
                Admitted::None(Some(Error::ModelUnavailable { model: asked, unknown }))
            }
            None => {
                let hosts = service.fleet().hosts();
                // A drained host serves no requests, so its models are not suggested.
                let in_use = hosts.iter().filter(|backend| backend.weight() > 0);
                let known = in_use.filter_map(|backend| inventories.get(backend.url()));
                let names = known.flat_map(|inventory| &inventory.models).map(|model| &*model.name);
                let nearest = nearest(&asked, names);
                Admitted::None(Some(Error::ModelNotFound { model: asked, nearest }))
            }
        })
    }

    fn has_route(&self, inventory: &Inventory) -> bool {
        self.upstream_request.endpoint().is_none_or(|endpoint| inventory.has_endpoint(endpoint))
    }

    /// The error that names the hosts which have the model, but do not have the endpoint; `None` where there are none.
    fn no_route(&self) -> Option<Error> {
        let endpoint = self.upstream_request.endpoint()?;
        let (hosts, inventories) = (self.service.fleet().hosts(), self.service.fleet().inventories());
        let model = self.upstream_request.routing_key.model.as_ref();
        let has_model =
            |inventory: &Inventory| model.is_none_or(|model| model.is_cloud() || inventory.has(model));
        let lacking = hosts.iter().filter(|backend| backend.weight() > 0).filter_map(|backend| {
            let inventory = inventories.get(backend.url())?;
            let lacks = !inventory.has_endpoint(endpoint) && has_model(inventory);
            lacks.then_some((backend.name(), &*inventory.version))
        });
        let lacking: Vec<_> = lacking.take(NAMED).collect();
        let words = || no_route(&lacking, endpoint.label());
        (!lacking.is_empty()).then(|| Error::RouteMissing { words: words() })
    }

    /// Notes that a host does not have the endpoint. Where the path names a model, it may be the name that the host cannot
    /// have in a path.
    pub(crate) async fn note_lack(&self, backend: &BackendHost) {
        let endpoint = self.upstream_request.endpoint();
        if let Some(endpoint) = endpoint.filter(|endpoint| *endpoint != Endpoint::OpenAiModel) {
            probe::note_lack(self.service, backend, endpoint).await;
        }
    }

    /// Removes the model from what is known of a host that answered that it does not have it.
    pub(crate) fn forget_model(&self, backend: &BackendHost) {
        let (local, Some(model)) = (self.service.fleet(), &self.upstream_request.routing_key.model) else {
            return;
        };
        local.forget_model(backend.url(), model);
        if let Some(known) = local.inventories().get(backend.url()).cloned() {
            probe::share_inventory(self.service, backend, known);
        }
    }
}
