//! The looks at one host that requests of this process ask for: one at a time, and not one for each request.
//!
//! A look answers every request that waits for it. A few may follow each other at once, so that a change shows at once; then
//! one a second, and whoever asks meanwhile gets what the last one found. The watch looks on its own and is not counted. This
//! module must never ask a host itself.

use std::{sync::Arc, time::Duration};

use super::Inventory;
use crate::platform::UpstreamFailure;

/// How long a look stands once the first ones are used up.
const AGE: Duration = Duration::from_secs(1);
/// How many looks may follow each other at once.
const AT_ONCE: u32 = 24;

/// What a look found.
pub(crate) type Look = Result<Arc<Inventory>, UpstreamFailure>;

/// The looks at one host.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    /// Whether a request is looking now.
    is_looking: bool,
    /// How many looks have ended.
    ended: u64,
    /// What the last one found.
    found: Option<Look>,
    /// When all looks so far are paid for, at one a second.
    paid: Duration,
}

/// What a request does that wants to know what a host says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LookDecision {
    /// It looks.
    Ask,
    /// It waits for the look of another request, and then decides again with this number.
    Wait(u64),
    /// It takes what the last look found.
    Take(Look),
}

impl Looks {
    /// Decides for a request at `now`. `waited` is the number of a decision to wait.
    pub(crate) fn decide(&mut self, now: Duration, waited: Option<u64>) -> LookDecision {
        if let Some(found) = &self.found
            && waited.is_some_and(|waited| self.ended > waited)
        {
            return LookDecision::Take(found.clone());
        }
        if self.is_looking {
            return LookDecision::Wait(waited.unwrap_or(self.ended));
        }
        let is_early = self.paid > now + AGE * (AT_ONCE - 1);
        match &self.found {
            Some(found) if is_early => LookDecision::Take(found.clone()),
            Some(_) | None => {
                // Looks that nothing can stand for pay no more than those that others may take.
                self.paid = (self.paid.max(now) + AGE).min(now + AGE * AT_ONCE);
                self.is_looking = true;
                LookDecision::Ask
            }
        }
    }

    /// Records what a look found.
    pub(crate) fn note(&mut self, found: Look) {
        self.ended += 1;
        self.found = Some(found);
    }

    /// Whether the last look failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.found.as_ref().is_some_and(Result::is_err)
    }

    /// Forgets what the last look found, because the host has contradicted it since.
    pub(crate) fn forget(&mut self) {
        self.found = None;
    }

    /// Records that the request that looked has ended, with or without a result.
    pub(crate) fn end(&mut self) {
        self.is_looking = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(text: &str) -> Look {
        Err(UpstreamFailure::Unreachable(text.to_owned()))
    }

    #[test]
    fn a_few_looks_follow_each_other_and_then_one_a_second() {
        let mut looks = Looks::default();
        let at = Duration::from_millis;
        let mut asked = Vec::new();
        for time in (0..10_000).step_by(10) {
            match looks.decide(at(time), None) {
                LookDecision::Ask => {
                    asked.push(time);
                    looks.note(failed(&time.to_string()));
                    looks.end();
                }
                LookDecision::Take(found) => {
                    assert_eq!(found, failed(&asked.last().unwrap().to_string()));
                }
                LookDecision::Wait(_) => panic!("nobody looks"),
            }
        }
        assert_eq!(asked[..24], (0..24).map(|number| number * 10).collect::<Vec<_>>());
        assert_eq!(asked[24..26], [1000, 2000]);
        assert_eq!(asked.len(), 24 + 9);
        // After a pause as many as at first.
        let later = (0..40).filter(|number| {
            let decision = looks.decide(at(60_000 + number), None);
            looks.end();
            decision == LookDecision::Ask
        });
        assert_eq!(later.count(), 24);
    }

    #[test]
    fn whoever_comes_while_another_looks_gets_what_that_one_finds() {
        let mut looks = Looks::default();
        let now = Duration::ZERO;
        assert_eq!(looks.decide(now, None), LookDecision::Ask);
        assert_eq!(looks.decide(now, None), LookDecision::Wait(0));
        assert_eq!(looks.decide(now, Some(0)), LookDecision::Wait(0));
        looks.note(failed("a"));
        looks.end();
        assert_eq!(looks.decide(now, Some(0)), LookDecision::Take(failed("a")));
        // What the host has contradicted since is no answer.
        looks.forget();
        assert_eq!(looks.decide(now, None), LookDecision::Ask);
        looks.note(failed("a"));
        looks.end();
        // One whose request was given up found nothing: the next one looks.
        assert_eq!(looks.decide(now, None), LookDecision::Ask);
        assert_eq!(looks.decide(now, None), LookDecision::Wait(2));
        looks.end();
        assert_eq!(looks.decide(now, Some(2)), LookDecision::Ask);
    }
}
