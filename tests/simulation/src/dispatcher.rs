//! The gateway as it is: Paddock's routing, with its own local fleet, planner, queue and stats, driven step by step.
//!
//! It does what `flight` and `survey` of the service do, in the same order and with the same functions, only that
//! nothing takes time between two steps.

mod attempt;
mod course;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Error, Result};
use paddock::{
    BackendHost,
    fleet::Work,
    fleet::{
        BreakerState, Cause, Inventory, LoadedModel, Model, ModelName, Policy, Ticket,
        local::LocalFleet,
        plan::{Plan, affinity},
        queue::{self, QueueDecision},
        snapshot::{Claim, FleetSnapshot, FleetView, Flow},
    },
};

use crate::{
    gateway::{Actions, Failure, Gateway, HostId, Probe, Refusal, Request, RequestId, Timings},
    scenario::Scenario,
};
use attempt::Attempt;
use course::Course;

/// Requests that wait for a place, at most: the default of `QUEUE_LIMIT`.
const QUEUE_LIMIT: usize = 256;
/// How long a request waits for a place: less than the default of `QUEUE_TIMEOUT`.
const QUEUE_TIMEOUT: Duration = Duration::from_mins(1);
/// How often who waits looks again although nothing has changed.
const WOKEN: Duration = Duration::from_secs(1);
/// Of a prompt, as many tokens decide which host's prompt cache may know it: 1 KiB of text.
const PREFIX_TOKENS: f64 = 256.0;
/// The bytes of a token.
const BYTES: u64 = 4;

/// What comes of a request's look at the fleet.
enum Step {
    Go(HostId),
    Refuse(Refusal),
    /// Others may see the queue differently now.
    Enter,
    Stay,
}

/// Paddock before a herd.
#[derive(Debug)]
pub struct Dispatcher {
    policy: Policy,
    local: LocalFleet,
    hosts: Vec<BackendHost>,
    models: Vec<ModelName>,
    /// For each caller whether its prompts begin alike as far as the prompt's beginning counts.
    alike: Vec<bool>,
    courses: BTreeMap<RequestId, Course>,
    /// Requests without a host, in the order of arrival.
    unplaced: BTreeSet<RequestId>,
    turn: u64,
    seed: u64,
    actions: Actions,
}

impl Dispatcher {
    /// A gateway before the hosts of a scenario.
    ///
    /// # Errors
    /// When hosts or models have no names.
    pub fn new(scenario: &Scenario, policy: Policy, seed: u64) -> Result<Self> {
        let host = |place| BackendHost::new(place, &format!("http://ollama-{place}:11434"));
        let hosts =
            (1..=scenario.hosts.len()).map(host).collect::<Result<Vec<_>, _>>().map_err(Error::msg)?;
        let local = LocalFleet::default();
        local.set_hosts(&hosts);
        let model = |place| ModelName::parse(&format!("model-{place}")).context("a model's name");
        let alike = |caller: &crate::scenario::Caller| caller.shared_prompt >= PREFIX_TOKENS;
        Ok(Self {
            policy,
            local,
            hosts,
            models: (0..scenario.models.len()).map(model).collect::<Result<_>>()?,
            alike: scenario.callers.iter().map(alike).collect(),
            courses: BTreeMap::new(),
            unplaced: BTreeSet::new(),
            turn: 0,
            // Seeds follow one another; what is drawn must not be the next seed's.
            seed: seed << 32,
            actions: Actions::default(),
        })
    }

    fn chance(&mut self) -> u64 {
        self.seed += 1;
        affinity(&self.seed.to_le_bytes())
    }

    fn snapshot(&self, now: Duration) -> (FleetSnapshot, FleetView) {
        let snapshot = self.local.snapshot(now);
        let view = FleetView::new(&self.hosts, &self.local.inventories(), snapshot.clone());
        (snapshot, view)
    }

    /// What a request would do: as `Dispatch::next`.
    fn step(
        &mut self,
        now: Duration,
        id: RequestId,
        (snapshot, view): &(FleetSnapshot, FleetView),
    ) -> Option<Step> {
        let course = self.courses.get(&id)?;
        if course.is_retry && !snapshot.retries.allow() {
            return Some(Step::Refuse(Refusal::Failed));
        }
        let known = view.tickets.iter().find(|ticket| *ticket.id == *course.id).cloned();
        let mut own = None;
        let view = course.seen(view, &mut own);
        let plan = course.plan(view, self.policy);
        let Some(first) = plan.choices.first() else { return Some(Step::Refuse(Refusal::Failed)) };
        let is_waiting = known.is_some();
        let flow = Flow { caller: &course.caller, session: &course.session };
        let ticket =
            known.unwrap_or_else(|| Ticket::new(view, &course.id, &course.lane, first.host.url(), flow));
        if queue::is_next(view, &plan, &ticket)
            && let Some(host) = self.claim(now, id, view, &plan)
        {
            return Some(Step::Go(host));
        }
        Some(self.wait(now, id, view, first.host.url(), ticket, is_waiting).unwrap_or(Step::Stay))
    }

    fn claim(&mut self, now: Duration, id: RequestId, view: &FleetView, plan: &Plan) -> Option<HostId> {
        let course = self.courses.get_mut(&id)?;
        let claim = Claim {
            id: &course.id,
            lane: &course.lane,
            slots: plan.slots(),
            flow: Flow { caller: &course.caller, session: &course.session },
            is_retry: course.is_retry,
            reason: "",
        };
        let lease = self.local.claim(now, &claim)?;
        let choice = plan.choices.iter().find(|choice| choice.host.url() == &*lease.host)?;
        course.waiting = None;
        course.tried.push(lease.host.to_string());
        let stats = view.hosts.get(choice.index).map(|host| Arc::clone(&host.stats)).unwrap_or_default();
        course.attempt =
            Some(Attempt::new(now, (&course.options, course.affinity, course.prompt), choice, lease, stats));
        self.hosts.iter().position(|host| host.url() == choice.host.url())
    }

    /// Enters the queue or keeps the ticket alive; a refusal when there is no more to wait for.
    fn wait(
        &mut self,
        now: Duration,
        id: RequestId,
        view: &FleetView,
        first: &str,
        mut ticket: Ticket,
        is_waiting: bool,
    ) -> Option<Step> {
        let course = self.courses.get_mut(&id)?;
        let since = *course.waiting.get_or_insert(now);
        if now.saturating_sub(since) >= QUEUE_TIMEOUT {
            self.local.leave(&course.id);
            return Some(Step::Refuse(Refusal::Shed));
        }
        let mut displaced = None;
        if !is_waiting {
            match queue::entry(&view.tickets, &ticket.caller, QUEUE_LIMIT) {
                QueueDecision::Enter => {}
                QueueDecision::Displace(ticket) => displaced = Some(ticket),
                QueueDecision::Full => return Some(Step::Refuse(Refusal::Shed)),
            }
        } else if now.saturating_sub(course.renewed) < WOKEN {
            return None;
        }
        (course.renewed, course.is_displaced) = (now, false);
        let is_moved = &*ticket.host != first;
        ticket.host = first.into();
        self.local.enter(now, &ticket, displaced.as_deref());
        if let Some(displaced) = &displaced {
            // It notices that it is out of the queue.
            let displaced = self.courses.values_mut().find(|course| course.id == *displaced);
            if let Some(displaced) = displaced {
                displaced.is_displaced = true;
            }
        }
        (is_moved || !is_waiting).then_some(Step::Enter)
    }

    /// Whether nobody in the lane of this request can be given a place, so that looking closer is in vain.
    fn is_full(&self, now: Duration, id: RequestId, (_, view): &(FleetSnapshot, FleetView)) -> bool {
        let Some(course) = self.courses.get(&id) else { return true };
        let (Some(since), false) = (course.waiting, course.is_retry) else { return false };
        let is_due =
            now.saturating_sub(course.renewed) >= WOKEN || now.saturating_sub(since) >= QUEUE_TIMEOUT;
        let full = |host: &paddock::fleet::snapshot::HostView| {
            host.in_flight(&course.lane) >= host.limit(&course.lane)
        };
        !is_due && !course.is_displaced && view.hosts.iter().all(full)
    }

    /// Moves requests on whose hosts seem to hang: as `Dispatch::hung`.
    fn move_on(&mut self, now: Duration) {
        let look = self.snapshot(now);
        for (id, course) in &mut self.courses {
            let hangs = course.attempt.as_mut().and_then(|attempt| attempt.hangs(now, &look.1));
            if hangs.is_none() {
                continue;
            }
            let mut own = None;
            let others = course.plan(course.seen(&look.1, &mut own), Policy::Auto).choices;
            if others.iter().any(|choice| choice.breaker() != BreakerState::Open) {
                self.actions.withdrawals.push(*id);
            }
        }
    }

    /// Ends the attempt of a request and takes note of how.
    fn settle(&mut self, now: Duration, id: RequestId, verdict: paddock::fleet::HostEffect) {
        let seed = self.chance();
        if let Some(attempt) = self.courses.get_mut(&id).and_then(|course| course.attempt.take()) {
            attempt.settle(now, &self.local, verdict, seed);
        }
    }
}

impl Gateway for Dispatcher {
    fn arrive(&mut self, _: Duration, request: &Request) {
        let Some(model) = self.models.get(request.model).cloned() else { return };
        let caller = format!("{:016x}", affinity(format!("caller-{}", request.caller).as_bytes()));
        let known = match request.session {
            Some(session) => format!("{caller}session-{session}"),
            None if self.alike.get(request.caller).is_some_and(|alike| *alike) => caller.clone(),
            None => format!("{caller}prompt-{}", request.id),
        };
        let known = affinity(known.as_bytes());
        let usual = crate::scenarios::USUAL_CONTEXT_LENGTH;
        let course = Course {
            id: format!("{:06}", request.id),
            lane: model.lane(Work::Answer),
            model,
            // Who wants the usual context names none.
            options: if request.context == usual {
                String::new()
            } else {
                format!("num_ctx={}", request.context)
            },
            affinity: known,
            prompt: Duration::from_secs_f64(request.prompt_tokens.max(0.0)).as_secs() * BYTES,
            caller,
            session: request.session.map(|_| format!("{known:016x}")).unwrap_or_default(),
            turn: self.turn,
            seed: self.chance(),
            tried: Vec::new(),
            is_retry: false,
            waiting: None,
            renewed: Duration::ZERO,
            is_displaced: false,
            attempt: None,
        };
        self.turn += 1;
        self.courses.insert(request.id, course);
        self.unplaced.insert(request.id);
    }

    fn poll(&mut self, now: Duration) -> Actions {
        self.move_on(now);
        let mut look = self.snapshot(now);
        for id in self.unplaced.clone() {
            if self.is_full(now, id, &look) {
                continue;
            }
            match self.step(now, id, &look) {
                Some(Step::Go(host)) => self.actions.dispatches.push((id, host)),
                Some(Step::Refuse(refusal)) => {
                    self.courses.remove(&id);
                    self.actions.refusals.push((id, refusal));
                }
                Some(Step::Enter) => {
                    look = self.snapshot(now);
                    continue;
                }
                Some(Step::Stay) | None => continue,
            }
            self.unplaced.remove(&id);
            look = self.snapshot(now);
        }
        let looks = self.unplaced.iter().map(|_| now + WOKEN);
        let suspicions = self.courses.values().filter_map(|course| course.attempt.as_ref()?.suspected_at());
        self.actions.wake_at = looks.chain(suspicions).min();
        std::mem::take(&mut self.actions)
    }

    fn first_byte(&mut self, now: Duration, request: RequestId, _: HostId) {
        let attempt = self.courses.get_mut(&request).and_then(|course| course.attempt.as_mut());
        if let Some(attempt) = attempt {
            attempt.note_first_byte(now, &self.local);
        }
    }

    fn finished(&mut self, now: Duration, request: RequestId, _: HostId, _: &Timings) {
        self.settle(now, request, paddock::fleet::HostEffect::Answered);
        self.courses.remove(&request);
    }

    fn failed(&mut self, now: Duration, request: RequestId, host: HostId, failure: Failure) {
        self.settle(now, request, attempt::verdict(failure));
        if failure == Failure::BrokenOff {
            self.courses.remove(&request);
            return;
        }
        let Some(course) = self.courses.get_mut(&request) else { return };
        if let (Failure::NotFound, Some(host)) = (failure, self.hosts.get(host)) {
            self.local.forget_model(host.url(), &course.model);
        }
        course.is_retry = !matches!(failure, Failure::Refused | Failure::NotFound);
        self.unplaced.insert(request);
    }

    fn probed(&mut self, now: Duration, host: HostId, found: Result<&Probe, Failure>) {
        let Some(url) = self.hosts.get(host).map(|host| host.url().to_owned()) else { return };
        let seed = self.chance();
        let is_refusal = found == Err(Failure::Refused);
        self.local.update(now, &url, None, |stats, now| {
            if !is_refusal {
                stats.breaker.reach();
            } else if stats.breaker.state(now) != BreakerState::Open {
                stats.breaker.fail(now, Cause::Unreachable, None, seed);
            }
        });
        let Ok(found) = found else { return };
        let name = |model: &usize| self.models.get(*model).map(ToString::to_string);
        let model = |model: &usize| Some(Model { name: name(model)?, digest: String::new() });
        let loaded = |loaded: &crate::gateway::LoadedModel| {
            let context_length = u64::from(loaded.context);
            Some(LoadedModel { name: name(&loaded.model)?, context_length, expires_at: String::new() })
        };
        let inventory = Inventory {
            is_unlisted: false,
            seen: now,
            models: found.models.iter().filter_map(model).collect(),
            loaded: found.loaded.iter().filter_map(loaded).collect(),
            version: String::new(),
            contexts: BTreeMap::new(),
            lacks: BTreeSet::new(),
        };
        self.local.note_inventory(&url, Arc::new(inventory));
    }
}
