//! A loaded model: its slots, what each has in its prompt cache, and the requests that wait for a slot.

use std::{collections::VecDeque, time::Duration};

use super::{Happening, Job, Work};
use crate::{
    gateway::{ModelId, RequestId, Timings},
    scenario::{HostSpec, ModelSpec},
};

/// Work that is left and takes less is done: times are rounded to nanoseconds, so there is always some.
const NOTHING: f64 = 1e-9;

#[derive(Debug)]
pub(super) struct Runner {
    pub(super) model: ModelId,
    pub(super) context: u32,
    /// When it last began or ended something.
    pub(super) last_used: Duration,
    prompt_speed: f64,
    token_speed: f64,
    slots: Vec<Slot>,
    waiting: VecDeque<Job>,
}

#[derive(Debug, Default)]
struct Slot {
    cache: Option<Cached>,
    running: Option<Running>,
    last_used: Duration,
}

/// The prompt and answer that a slot last worked on.
#[derive(Debug, Clone, Copy)]
struct Cached {
    conversation: u64,
    caller: usize,
    tokens: f64,
}

#[derive(Debug)]
struct Running {
    job: Job,
    /// Whether the first byte has gone out.
    answering: bool,
    /// What is left of the prompt or of the answer: the seconds that it takes alone.
    left: f64,
    /// When the prompt or the answer began.
    since: Duration,
    timings: Timings,
}

impl Slot {
    /// The tokens at the beginning of the prompt that are here from the same conversation.
    fn remembered(&self, work: &Work) -> Option<f64> {
        let cached = self.cache.filter(|cached| cached.conversation == work.conversation)?;
        Some(cached.tokens.min(work.known_prompt))
    }

    /// The tokens at the beginning of the prompt that can be copied from here, where the caller's prompt has been
    /// evaluated.
    fn copied(&self, work: &Work) -> f64 {
        let evaluated = match &self.running {
            Some(running) => running.answering && running.job.work.caller == work.caller,
            None => self.cache.is_some_and(|cached| cached.caller == work.caller),
        };
        if evaluated { work.shared_prompt } else { 0.0 }
    }
}

impl Runner {
    pub(super) fn new(
        spec: &HostSpec,
        model: ModelId,
        size: &ModelSpec,
        context: u32,
        now: Duration,
    ) -> Self {
        Self {
            model,
            context,
            last_used: now,
            prompt_speed: spec.prompt_speed / size.size,
            token_speed: spec.token_speed / size.size,
            slots: std::iter::repeat_with(Slot::default).take(spec.slots).collect(),
            waiting: VecDeque::new(),
        }
    }

    pub(super) fn fits(&self, work: &Work) -> bool {
        self.model == work.model && self.context == work.context
    }

    /// Requests that have a slot.
    pub(super) fn running(&self) -> usize {
        self.slots.iter().filter(|slot| slot.running.is_some()).count()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running() == 0
    }

    /// All requests it has, running and waiting.
    pub(super) fn requests(&self) -> impl Iterator<Item = RequestId> + '_ {
        let running =
            self.slots.iter().filter_map(|slot| slot.running.as_ref()).map(|running| running.job.id);
        running.chain(self.waiting.iter().map(|job| job.id))
    }

    pub(super) fn push(&mut self, job: Job, now: Duration) {
        self.waiting.push_back(job);
        self.start(now);
    }

    /// Gives free slots to those who wait: each the one that remembers its conversation, else the one unused longest
    /// with what another one knows of the caller's prompt, as Ollama does with `OLLAMA_MULTIUSER_CACHE`.
    fn start(&mut self, now: Duration) {
        while let Some(Job { work, .. }) = self.waiting.front() {
            let copied = self.slots.iter().map(|slot| slot.copied(work)).fold(0.0, f64::max);
            let free = self.slots.iter_mut().filter(|slot| slot.running.is_none());
            let Some(slot) = free.min_by_key(|slot| (slot.remembered(work).is_none(), slot.last_used)) else {
                return;
            };
            let known = slot.remembered(work).unwrap_or(copied);
            // At least one token is evaluated: the first of the answer comes from it.
            let prompt_tokens = (work.prompt - known).max(1.0);
            let Some(job) = self.waiting.pop_front() else { return };
            let timings = Timings {
                load: job.load,
                prompt_tokens,
                answer_tokens: job.work.answer,
                ..Timings::default()
            };
            let left = prompt_tokens / self.prompt_speed;
            // Until it is done nobody knows how much of it can be used again.
            slot.cache = None;
            slot.running = Some(Running { job, answering: false, left, since: now, timings });
            self.last_used = now;
        }
    }

    /// The seconds of work, as if each request were alone, until something happens.
    pub(super) fn until_next(&self) -> Option<f64> {
        let left = self.slots.iter().filter_map(|slot| slot.running.as_ref()).map(|running| running.left);
        left.min_by(f64::total_cmp)
    }

    /// Each running request gets this many seconds of work done.
    pub(super) fn progress(&mut self, seconds: f64) {
        for running in self.slots.iter_mut().filter_map(|slot| slot.running.as_mut()) {
            running.left -= seconds;
        }
    }

    /// What is done by now; then those who wait begin.
    pub(super) fn happen(&mut self, now: Duration, happenings: &mut Vec<Happening>) {
        for slot in &mut self.slots {
            let Some(running) = slot.running.as_mut().filter(|running| running.left <= NOTHING) else {
                continue;
            };
            let took = now.saturating_sub(running.since);
            if !running.answering {
                running.answering = true;
                running.timings.prompt = took;
                running.since = now;
                running.left = running.job.work.answer / self.token_speed;
                happenings.push(Happening::FirstByte(running.job.id));
                continue;
            }
            running.timings.answer = took;
            let Work { conversation, caller, prompt, answer, .. } = running.job.work;
            slot.cache = Some(Cached { conversation, caller, tokens: prompt + answer });
            slot.last_used = now;
            self.last_used = now;
            happenings.push(Happening::Finished(running.job.id, running.timings));
            slot.running = None;
        }
        self.start(now);
    }

    /// The client of a request has left.
    pub(super) fn abandon(&mut self, request: RequestId, now: Duration) {
        self.waiting.retain(|job| job.id != request);
        for slot in &mut self.slots {
            if slot.running.as_ref().is_some_and(|running| running.job.id == request) {
                slot.running = None;
                self.last_used = now;
            }
        }
        self.start(now);
    }
}
