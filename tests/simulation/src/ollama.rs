//! One Ollama server, as far as a router feels it: which models are loaded, who waits for what, and how fast it goes.
//!
//! As in Ollama's scheduler, a request for a loaded model goes straight to the model's own queue, which has no limit;
//! any other waits, with a limit, for its model to be loaded, in the order of arrival and one load at a time. A load
//! that finds no memory waits until a loaded model has nothing to do, however long others keep that model busy. Not
//! simulated: that Ollama unloads what nobody asks for (`OLLAMA_KEEP_ALIVE`), since whoever runs a herd turns it off.

mod runner;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, time::Duration};

use crate::{
    gateway::{Failure, LoadedModel, ModelId, Probe, RequestId, Timings},
    scenario::{FaultKind, HostSpec, ModelSpec},
};
use runner::Runner;

/// What a request is to a host. Lengths are in tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// The model that shall answer.
    pub model: ModelId,
    /// The context length it shall have.
    pub context: u32,
    /// Which conversation this is a part of.
    pub conversation: u64,
    /// Whose: all conversations of a caller begin with the same prompt.
    pub caller: usize,
    /// The length of that.
    pub shared_prompt: f64,
    /// The part of the prompt that is not new: the shared prompt, and what was said in earlier turns.
    pub known_prompt: f64,
    /// The length of the whole prompt.
    pub prompt: f64,
    /// The length of the answer.
    pub answer: f64,
}

/// What comes back from a host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Happening {
    /// The answer begins.
    FirstByte(RequestId),
    /// The answer is complete.
    Finished(RequestId, Timings),
}

#[derive(Debug)]
struct Job {
    id: RequestId,
    work: Work,
    arrived: Duration,
    /// How long it waited for its model.
    load: Duration,
}

#[derive(Debug)]
struct Loading {
    model: ModelId,
    context: u32,
    /// Seconds of loading that are left.
    left: f64,
    jobs: Vec<Job>,
}

/// One Ollama server.
#[derive(Debug)]
pub struct Server {
    spec: HostSpec,
    models: &'static [ModelSpec],
    runners: Vec<Runner>,
    /// Requests whose model is not loaded.
    pending: VecDeque<Job>,
    loading: Option<Loading>,
    fault: Option<FaultKind>,
    now: Duration,
    loads: u32,
}

impl Server {
    /// A server that has just started: nothing is loaded.
    pub fn new(spec: HostSpec, models: &'static [ModelSpec]) -> Self {
        Self {
            spec,
            models,
            runners: Vec::new(),
            pending: VecDeque::new(),
            loading: None,
            fault: None,
            now: Duration::ZERO,
            loads: 0,
        }
    }

    /// How many loads it has begun.
    pub fn loads(&self) -> u32 {
        self.loads
    }

    /// A request arrives; [`Server::advance`] has been called for the same time.
    ///
    /// # Errors
    /// How it is refused.
    pub fn accept(&mut self, id: RequestId, work: &Work) -> Result<(), Failure> {
        match self.fault {
            Some(FaultKind::Refuse) => return Err(Failure::Refused),
            Some(FaultKind::Busy) => return Err(Failure::Busy),
            Some(FaultKind::Hang | FaultKind::Slow(_)) | None => {}
        }
        if !self.spec.models.contains(&work.model) {
            return Err(Failure::NotFound);
        }
        let job = Job { id, work: *work, arrived: self.now, load: Duration::ZERO };
        if let Some(job) = self.join(job) {
            if self.pending.len() >= self.spec.max_queue {
                return Err(Failure::Busy);
            }
            self.pending.push_back(job);
            self.load_next();
        }
        Ok(())
    }

    /// What has happened until `now`. To be called at [`Server::next_change`] at the latest, and before anything else is
    /// asked of the server.
    pub fn advance(&mut self, now: Duration) -> Vec<Happening> {
        let elapsed = now.saturating_sub(self.now).as_secs_f64();
        let (speed, busy) = (self.speed(), self.busy_models());
        self.now = now;
        let mut happenings = Vec::new();
        for runner in &mut self.runners {
            runner.progress(elapsed * speed / (busy * HostSpec::batch_cost(runner.running())));
        }
        for runner in &mut self.runners {
            runner.happen(now, &mut happenings);
        }
        if let Some(loading) = &mut self.loading {
            loading.left -= elapsed * speed;
        }
        if let Some(loading) = self.loading.take_if(|loading| loading.left <= 0.0)
            && let Some(model) = self.models.get(loading.model)
        {
            let mut runner = Runner::new(&self.spec, loading.model, model, loading.context, now);
            for job in loading.jobs {
                runner.push(Job { load: now.saturating_sub(job.arrived), ..job }, now);
            }
            self.runners.push(runner);
        }
        self.load_next();
        happenings
    }

    /// When something will have happened, unless something else is asked of the server before.
    pub fn next_change(&self) -> Option<Duration> {
        let (speed, busy) = (self.speed(), self.busy_models());
        let answers = self
            .runners
            .iter()
            .filter_map(|runner| Some(runner.until_next()? * busy * HostSpec::batch_cost(runner.running())));
        let load = self.loading.as_ref().map(|loading| loading.left);
        let seconds = answers.chain(load).min_by(f64::total_cmp)?.max(0.0) / speed;
        // Rounded up, so that the work is done by then.
        let wait = Duration::try_from_secs_f64(seconds).ok()?;
        Some(self.now + wait + Duration::from_nanos(2))
    }

    /// The gateway closed the connection of a request.
    pub fn abandon(&mut self, request: RequestId) {
        self.pending.retain(|job| job.id != request);
        if let Some(loading) = &mut self.loading {
            loading.jobs.retain(|job| job.id != request);
        }
        for runner in &mut self.runners {
            runner.abandon(request, self.now);
        }
        self.load_next();
    }

    /// A fault begins; returns the requests whose connections break.
    pub fn fail(&mut self, kind: FaultKind) -> Vec<RequestId> {
        self.fault = Some(kind);
        if kind != FaultKind::Refuse {
            return Vec::new();
        }
        let loading = self.loading.take().map_or_else(Vec::new, |loading| loading.jobs);
        let waiting = loading.iter().chain(&self.pending).map(|job| job.id);
        let lost = self.runners.iter().flat_map(Runner::requests).chain(waiting).collect();
        self.runners.clear();
        self.pending.clear();
        lost
    }

    /// The fault has ended.
    pub fn recover(&mut self) {
        self.fault = None;
    }

    /// Whether nothing moves.
    pub fn hangs(&self) -> bool {
        self.fault == Some(FaultKind::Hang)
    }

    /// What a probe finds at once; `None` when there is no answer.
    pub fn probe(&self) -> Option<Probe> {
        if matches!(self.fault, Some(FaultKind::Refuse | FaultKind::Hang)) {
            return None;
        }
        let loaded = |runner: &Runner| LoadedModel { model: runner.model, context: runner.context };
        Some(Probe { models: self.spec.models.to_vec(), loaded: self.runners.iter().map(loaded).collect() })
    }

    /// How fast everything goes, beside a host that is well.
    fn speed(&self) -> f64 {
        match self.fault {
            Some(FaultKind::Hang) => 0.0,
            Some(FaultKind::Slow(factor)) => 1.0 / factor,
            Some(FaultKind::Refuse | FaultKind::Busy) | None => 1.0,
        }
    }

    /// How many models share the graphics card now.
    fn busy_models(&self) -> f64 {
        let busy = self.runners.iter().filter(|runner| runner.running() > 0).count();
        f64::from(u32::try_from(busy.max(1)).unwrap_or(u32::MAX))
    }

    /// Gives a job to its model if that is loaded or being loaded; else gives it back.
    fn join(&mut self, job: Job) -> Option<Job> {
        if let Some(runner) = self.runners.iter_mut().find(|runner| runner.fits(&job.work)) {
            runner.push(Job { load: self.now.saturating_sub(job.arrived), ..job }, self.now);
            return None;
        }
        let (model, context) = (job.work.model, job.work.context);
        match &mut self.loading {
            Some(loading) if loading.model == model && loading.context == context => {
                loading.jobs.push(job);
                None
            }
            _ => Some(job),
        }
    }

    /// Goes through those who wait for a load, in the order of arrival, as far as it goes.
    fn load_next(&mut self) {
        while let Some(job) = self.pending.pop_front() {
            let Some(job) = self.join(job) else { continue };
            let Work { model, context, .. } = job.work;
            let Some(spec) =
                self.models.get(model).filter(|_| self.loading.is_none() && self.make_room(model))
            else {
                self.pending.push_front(job);
                return;
            };
            self.loads += 1;
            self.loading = Some(Loading { model, context, left: spec.load.as_secs_f64(), jobs: vec![job] });
        }
    }

    /// Whether there is memory for the model now: its own, loaded with other options, goes; else, where memory is full, the
    /// one unused longest; but none that has something to do.
    fn make_room(&mut self, model: ModelId) -> bool {
        let place = if let Some(place) = self.runners.iter().position(|runner| runner.model == model) {
            Some(place).filter(|place| self.runners.get(*place).is_some_and(Runner::is_idle))
        } else if self.runners.len() < self.spec.memory {
            return true;
        } else {
            let idle = self.runners.iter().enumerate().filter(|(_, runner)| runner.is_idle());
            idle.min_by_key(|(_, runner)| runner.last_used).map(|(place, _)| place)
        };
        place.map(|place| self.runners.remove(place)).is_some()
    }
}
