//! The circuit breaker of Redis itself, as plain data. The breaker of a backend host is `fleet/breaker.rs`.
//!
//! One command without a reply opens it for a second; then one command is sent as a trial, and after a failed trial the
//! pause is two seconds. It holds no future and wakes no task, so the requests of a Spin instance can share it.
//!
//! No crate serves: `failsafe` and the breakers of tower read the clock themselves.

use std::time::Duration;

/// The pause after the first failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Whether a command is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BreakerDecision {
    /// The command is sent.
    Send,
    /// The command fails without being sent.
    Refuse,
}

/// What the result of a command shows about the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// The server replied, even if with an error.
    Lives,
    /// There was no reply in time, or no connection.
    Gone,
}

/// The state of the breaker. Times are by one clock that never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct RedisBreaker {
    /// How many pauses failed in a row; 0 means closed.
    failures: u32,
    /// When the next trial may be sent. Each trial moves this time on, so that a trial without a result is followed by
    /// another.
    next: Duration,
}

impl RedisBreaker {
    /// Whether a command may be sent now.
    pub(super) fn admit(&mut self, now: Duration) -> BreakerDecision {
        if self.failures == 0 {
            return BreakerDecision::Send;
        }
        if now < self.next {
            return BreakerDecision::Refuse;
        }
        self.next = now + pause(self.failures);
        BreakerDecision::Send
    }

    /// Records the result of a command that was sent at `began`.
    pub(super) fn record(&mut self, sign: Sign, began: Duration, now: Duration) {
        match sign {
            Sign::Lives => *self = Self::default(),
            // Commands sent together fail together; that is one failure.
            Sign::Gone if self.failures > 0 && began < self.opened() => {}
            Sign::Gone => {
                self.failures = self.failures.saturating_add(1);
                self.next = now + pause(self.failures);
            }
        }
    }

    /// When the current trial was sent, or when the breaker opened.
    fn opened(&self) -> Duration {
        self.next.saturating_sub(pause(self.failures))
    }
}

fn pause(failures: u32) -> Duration {
    FIRST_PAUSE * failures.clamp(1, 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// A breaker whose commands failed at each of these times, after 30 ms each.
    fn failed(times: &[u64]) -> RedisBreaker {
        let mut breaker = RedisBreaker::default();
        for time in times {
            assert_eq!(breaker.admit(at(*time)), BreakerDecision::Send, "{time}");
            breaker.record(Sign::Gone, at(*time), at(*time + 30));
        }
        breaker
    }

    #[test]
    fn the_pause_doubles_once() {
        for (failures, seconds) in [(1, 1), (2, 2), (3, 2), (40, 2), (u32::MAX, 2)] {
            assert_eq!(pause(failures), Duration::from_secs(seconds), "{failures}");
        }
    }

    #[test]
    fn while_it_is_open_nothing_is_sent_and_then_one_command_tries() {
        for (failures, asked, sent) in [
            (&[][..], &[0, 1, 2][..], &[true, true, true][..]),
            (&[0], &[30, 500, 1029, 1030, 1031, 2029], &[false, false, false, true, false, false]),
            (&[0, 1030], &[1060, 3059, 3060, 3061], &[false, false, true, false]),
            // A trial that never ends is followed by another.
            (&[0], &[1030, 2029, 2030], &[true, false, true]),
        ] {
            let mut breaker = failed(failures);
            let admitted: Vec<_> =
                asked.iter().map(|time| breaker.admit(at(*time)) == BreakerDecision::Send).collect();
            assert_eq!(admitted, sent, "{failures:?}");
        }
    }

    #[test]
    fn an_answer_closes_it() {
        let mut breaker = failed(&[0, 1030, 3060]);
        breaker.record(Sign::Lives, at(7100), at(7101));
        assert_eq!(breaker, RedisBreaker::default());
    }

    #[test]
    fn commands_that_fail_together_are_one_failure() {
        let mut breaker = failed(&[0]);
        for _ in 0..5 {
            breaker.record(Sign::Gone, at(1), at(31));
        }
        assert_eq!(breaker, failed(&[0]));
    }
}
