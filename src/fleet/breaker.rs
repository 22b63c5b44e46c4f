//! The circuit breaker of one host, or of one lane of a host: whether it is sent requests after its earlier failures.
//! `failover.rs` decides which failures are the host's own; the breaker before Redis is `store/redis/breaker.rs`.
//!
//! What connections and looks met concerns the whole host. What answers and streams of one model did concerns its lane
//! alone ([`Cause::scope`]): the other models of the host may work.
//!
//! It opens at the first failure that is the host's own. The first opening lasts one second, each further one twice as
//! long, up to a minute, and never less than the host asked for in `Retry-After`. Then one request is let through; its
//! success closes the breaker. Pure: the time and the random seed are arguments.
//!
//! No crate serves: `failsafe` and the breakers of tower read the clock themselves, so no test could set the time.

use std::time::Duration;

use crate::platform::jittered;

/// The duration of the first opening.
const BASE: Duration = Duration::from_secs(1);
/// The longest opening, and the longest `Retry-After` that is respected.
const LIMIT: Duration = Duration::from_mins(1);
/// The time without a failure after which an opening counts as the first again.
const QUIET: Duration = Duration::from_mins(1);

/// What an opening keeps requests from, and what its trial tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All of the host.
    Host,
    /// One lane of the host.
    Lane,
}

/// Why a breaker opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// No connection.
    Unreachable,
    /// A time limit passed, or a proxy answered 504.
    TimedOut,
    /// The host answered 429 or 503.
    Busy,
    /// The host closed the connection early or did not speak HTTP, or a proxy answered 502.
    Protocol,
    /// The host failed a request that another host then answered.
    Failed,
    /// The host sent no first byte of a loaded model and completed no other request meanwhile.
    Hung,
    /// The host takes connections, but answers no look and no request.
    Silent,
    /// Something before the host answers its looks with 502, 503 or 504.
    Gateway,
}

impl Cause {
    const ALL: [Self; 8] = [
        Self::Unreachable,
        Self::TimedOut,
        Self::Busy,
        Self::Protocol,
        Self::Failed,
        Self::Hung,
        Self::Silent,
        Self::Gateway,
    ];

    /// Whether the whole host is concerned, or only the lane that met it.
    pub fn scope(self) -> Scope {
        match self {
            Self::Unreachable | Self::Silent | Self::Gateway => Scope::Host,
            Self::TimedOut | Self::Busy | Self::Protocol | Self::Failed | Self::Hung => Scope::Lane,
        }
    }

    /// The cause as a stable word, for metrics, `/fleet` and the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timeout",
            Self::Busy => "busy",
            Self::Protocol => "protocol",
            Self::Failed => "failed",
            Self::Hung => "hung",
            Self::Silent => "silent",
            Self::Gateway => "gateway",
        }
    }

    pub(crate) fn by_name(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == word)
    }
}

/// The state of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BreakerState {
    /// The host is sent requests.
    Closed,
    /// The host is sent one request at a time, as a trial.
    HalfOpen,
    /// The host is sent no request while another host is left.
    Open,
}

impl BreakerState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Closed, Self::HalfOpen, Self::Open];

    /// The state as a stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// The breaker of one host or of one lane.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Breaker {
    pub(crate) opening: Option<OpenUntil>,
    /// How many openings followed each other without a quiet time in between.
    pub(crate) streak: u32,
    /// The time of the last failure.
    pub(crate) failed: Duration,
}

/// The period for which a breaker is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenUntil {
    pub(crate) since: Duration,
    pub(crate) until: Duration,
    pub(crate) cause: Cause,
}

impl Breaker {
    /// The state at `now`.
    pub fn state(&self, now: Duration) -> BreakerState {
        match self.opening {
            None => BreakerState::Closed,
            Some(opening) if now < opening.until => BreakerState::Open,
            Some(_) => BreakerState::HalfOpen,
        }
    }

    /// Why the breaker is not closed.
    pub fn cause(&self) -> Option<Cause> {
        self.opening.map(|opening| opening.cause)
    }

    /// How much longer the breaker stays open.
    pub(crate) fn retry_in(&self, now: Duration) -> Duration {
        self.opening.map_or(Duration::ZERO, |opening| opening.until.saturating_sub(now))
    }

    /// Records a failure. While the breaker is open, failures of requests that were sent earlier only lengthen the
    /// opening, if the host asks for it. `seed` spreads the replicas' next trials by 20 % either way.
    pub fn fail(&mut self, now: Duration, cause: Cause, retry_after: Option<Duration>, seed: u64) {
        let asked = retry_after.unwrap_or_default().min(LIMIT);
        if let Some(opening) = self.opening.as_mut().filter(|opening| now < opening.until) {
            opening.until = opening.until.max(now + asked);
            return;
        }
        // A failed trial continues the streak, however long the opening before it was.
        let is_quiet = self.opening.is_none() && now.saturating_sub(self.failed) > QUIET;
        self.streak = if is_quiet { 1 } else { self.streak.saturating_add(1) };
        self.failed = now;
        let doubled = BASE * 2_u32.saturating_pow(self.streak.saturating_sub(1).min(10));
        let wait = jittered(doubled, seed).min(LIMIT).max(asked);
        self.opening = Some(OpenUntil { since: now, until: now + wait, cause });
    }

    /// Records that a request failed in a way that concerns its lane alone. As the trial of a host it failed all the same.
    pub(crate) fn fail_trial(&mut self, now: Duration, began: Duration, seed: u64) {
        if let Some(opening) = self.opening
            && now >= opening.until
            && began >= opening.since
        {
            self.fail(now, opening.cause, None, seed);
        }
    }

    /// Records an answered request. One that began before the breaker opened does not close it.
    pub(crate) fn succeed(&mut self, began: Duration) {
        if self.opening.is_some_and(|opening| began >= opening.since) {
            self.opening = None;
        }
    }

    /// Records a look that the host left without an answer, where it answers nothing else either. Only a look that is
    /// answered ends such an opening: a request for a trial would wait as long as the looks do.
    pub(crate) fn fall_silent(&mut self, now: Duration, seed: u64) {
        // An opening of another cause ends by itself, and is followed by this one where the host stays silent.
        if self.state(now) != BreakerState::Open || self.cause() == Some(Cause::Silent) {
            self.fail(now, Cause::Silent, Some(LIMIT), seed);
        }
    }

    /// Records that the host answers a look, which closes the breaker of a host.
    pub fn reach(&mut self) {
        if self.cause().is_some_and(|cause| cause.scope() == Scope::Host) {
            self.opening = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIDDLE: u64 = 20;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_opens_at_a_failure_lets_one_try_after_the_wait_and_closes_at_a_success() {
        let mut breaker = Breaker::default();
        assert_eq!(breaker.state(seconds(100)), BreakerState::Closed);
        breaker.fail(seconds(100), Cause::Protocol, None, MIDDLE);
        assert_eq!(breaker.state(seconds(100)), BreakerState::Open);
        assert_eq!((breaker.retry_in(seconds(100)), breaker.cause()), (seconds(1), Some(Cause::Protocol)));
        assert_eq!(breaker.state(seconds(101)), BreakerState::HalfOpen);
        breaker.succeed(seconds(99));
        assert_eq!(
            breaker.state(seconds(101)),
            BreakerState::HalfOpen,
            "a request from before proves nothing"
        );
        breaker.succeed(seconds(101));
        assert_eq!(breaker.state(seconds(101)), BreakerState::Closed);
    }

    #[test]
    fn each_failed_trial_doubles_the_wait_up_to_a_minute_until_it_was_quiet() {
        let (mut breaker, mut now, mut waits) = (Breaker::default(), seconds(1000), Vec::new());
        for _ in 0..8 {
            breaker.fail(now, Cause::TimedOut, None, MIDDLE);
            waits.push(breaker.retry_in(now).as_secs());
            now += breaker.retry_in(now);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        breaker.succeed(now);
        breaker.fail(now + seconds(61), Cause::Busy, None, MIDDLE);
        assert_eq!(breaker.retry_in(now + seconds(61)), seconds(1));
    }

    #[test]
    fn a_trial_that_fails_late_is_no_first_failure() {
        let (mut breaker, mut now) = (Breaker::default(), seconds(1000));
        for _ in 0..7 {
            breaker.fail(now, Cause::TimedOut, None, MIDDLE);
            now += breaker.retry_in(now) + seconds(300);
        }
        breaker.fail(now, Cause::TimedOut, None, 40);
        assert_eq!(breaker.retry_in(now), seconds(60), "neither from the start nor above the limit");
    }

    #[test]
    fn failures_on_their_way_before_it_opened_count_once() {
        let mut breaker = Breaker::default();
        for _ in 0..5 {
            breaker.fail(seconds(100), Cause::Protocol, None, MIDDLE);
        }
        assert_eq!(breaker.retry_in(seconds(100)), seconds(1));
    }

    #[test]
    fn the_wait_that_a_host_asks_for_is_kept_up_to_a_minute() {
        let mut breaker = Breaker::default();
        breaker.fail(seconds(100), Cause::Busy, Some(seconds(7)), MIDDLE);
        assert_eq!(breaker.retry_in(seconds(100)), seconds(7));
        breaker.fail(seconds(101), Cause::Busy, Some(seconds(3600)), MIDDLE);
        assert_eq!(breaker.retry_in(seconds(101)), seconds(60));
    }

    #[test]
    fn an_answered_look_ends_what_looks_began_and_nothing_else() {
        for cause in Cause::ALL {
            let mut breaker = Breaker::default();
            breaker.fail(seconds(100), cause, None, MIDDLE);
            breaker.reach();
            let is_of_looks = matches!(cause, Cause::Unreachable | Cause::Silent | Cause::Gateway);
            assert_eq!(breaker.cause().is_none(), is_of_looks, "{cause:?}");
            assert_eq!(Cause::by_name(cause.as_str()), Some(cause));
        }
    }

    #[test]
    fn a_silent_host_is_not_tried_by_requests_until_a_look_is_answered() {
        let mut breaker = Breaker::default();
        for look in 0..20 {
            breaker.fall_silent(seconds(100 + look * 12), look);
            assert_eq!(breaker.state(seconds(111 + look * 12)), BreakerState::Open);
        }
        breaker.reach();
        assert_eq!(breaker.state(seconds(400)), BreakerState::Closed);
        breaker.fail(seconds(500), Cause::Busy, None, MIDDLE);
        breaker.fall_silent(seconds(500), MIDDLE);
        assert_eq!(breaker.cause(), Some(Cause::Busy));
        breaker.fall_silent(seconds(503), MIDDLE);
        assert_eq!(breaker.cause(), Some(Cause::Silent));
    }

    #[test]
    fn replicas_try_again_at_different_times() {
        let wait = |seed| {
            let mut breaker = Breaker::default();
            breaker.fail(seconds(100), Cause::Busy, None, seed);
            breaker.retry_in(seconds(100)).as_millis()
        };
        assert_eq!((wait(0), wait(20), wait(40), wait(41)), (800, 1000, 1200, 800));
    }
}
