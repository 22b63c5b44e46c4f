//! The guard before Redis: while the server does not answer, commands fail without being sent.
//!
//! It never waits and never retries. Its state is plain data behind a lock that is not held across an `await`.
//!
//! No crate serves: guards with a breaker read the clock themselves and take the error types of one client.

use std::{sync::Arc, time::Duration};

use super::{
    RedisCommands, RedisValue,
    breaker::{BreakerDecision, RedisBreaker, Sign},
};
use crate::{
    platform::{Clock, Locked},
    store::{StoreError, StoreResult, TimeLimit},
};

/// The command that tests whether the server answers; it is always sent.
pub(super) const PROBE: &str = "PING";

/// Commands behind a circuit breaker. Clones share the breaker.
#[derive(Debug, Clone)]
pub struct Guard<C, K> {
    commands: C,
    clock: K,
    state: Arc<Locked<GuardState>>,
}

#[derive(Debug, Default)]
struct GuardState {
    breaker: RedisBreaker,
    /// Whether the server can never be used with these settings.
    is_unfit: bool,
}

impl<C: RedisCommands, K: Clock> Guard<C, K> {
    /// Guards `commands`; pauses are measured by `clock`.
    pub fn new(commands: C, clock: K) -> Self {
        Self { commands, clock, state: Arc::default() }
    }

    fn admit(&self, command: &'static str, now: Duration) -> StoreResult<()> {
        let mut state = self.state.lock();
        if state.is_unfit {
            return Err(StoreError::Cluster);
        }
        if command == PROBE || state.breaker.admit(now) == BreakerDecision::Send {
            return Ok(());
        }
        Err(StoreError::Spared)
    }

    fn record_result<T>(&self, began: Duration, result: &StoreResult<T>) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let sign = match result {
            Ok(_) | Err(StoreError::Refused(_) | StoreError::UnexpectedReply(_) | StoreError::Full) => {
                Sign::Lives
            }
            Err(StoreError::TimedOut | StoreError::Unavailable(_)) => Sign::Gone,
            Err(StoreError::Cluster) => {
                state.is_unfit = true;
                return;
            }
            Err(StoreError::OutOfTime | StoreError::Absent | StoreError::Spared) => return,
        };
        state.breaker.record(sign, began, now);
    }
}

impl<C: RedisCommands, K: Clock> RedisCommands for Guard<C, K> {
    fn is_configured(&self) -> bool {
        self.commands.is_configured()
    }

    async fn execute(
        &self,
        command: &'static str,
        arguments: &[&[u8]],
        limit: TimeLimit,
    ) -> StoreResult<Vec<RedisValue>> {
        let began = self.clock.now();
        self.admit(command, began)?;
        let result = self.commands.execute(command, arguments, limit).await;
        self.record_result(began, &result);
        result
    }

    async fn execute_replicated(
        &self,
        command: &'static str,
        arguments: &[&[u8]],
        replicas: u32,
        limit: TimeLimit,
    ) -> StoreResult<(Vec<RedisValue>, u32)> {
        let began = self.clock.now();
        self.admit(command, began)?;
        let result = self.commands.execute_replicated(command, arguments, replicas, limit).await;
        self.record_result(began, &result);
        result
    }
}

#[cfg(test)]
#[cfg(feature = "memory")]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;
    use crate::host::memory::ManualClock;

    /// Replies as it is told, and counts the commands.
    #[derive(Debug, Clone, Default)]
    struct Scripted {
        reply: Arc<Mutex<Option<StoreError>>>,
        sent: Arc<AtomicUsize>,
    }

    impl RedisCommands for Scripted {
        async fn execute(&self, _: &'static str, _: &[&[u8]], _: TimeLimit) -> StoreResult<Vec<RedisValue>> {
            self.sent.fetch_add(1, Ordering::Relaxed);
            self.reply.lock().unwrap().clone().map_or_else(|| Ok(Vec::new()), Err)
        }

        async fn execute_replicated(
            &self,
            command: &'static str,
            arguments: &[&[u8]],
            replicas: u32,
            limit: TimeLimit,
        ) -> StoreResult<(Vec<RedisValue>, u32)> {
            Ok((self.execute(command, arguments, limit).await?, replicas))
        }
    }

    struct Scene {
        guard: Guard<Scripted, ManualClock>,
        commands: Scripted,
        clock: ManualClock,
    }

    impl Scene {
        fn new(reply: Option<StoreError>) -> Self {
            let (commands, clock) = (Scripted::default(), ManualClock::default());
            *commands.reply.lock().unwrap() = reply;
            Self { guard: Guard::new(commands.clone(), clock.clone()), commands, clock }
        }

        async fn send(&self, command: &'static str) -> StoreResult<Vec<RedisValue>> {
            self.guard.execute(command, &[], TimeLimit::whole(Duration::from_millis(30))).await
        }

        fn sent(&self) -> usize {
            self.commands.sent.swap(0, Ordering::Relaxed)
        }
    }

    fn text() -> String {
        "says the server".to_owned()
    }

    #[tokio::test]
    async fn what_shows_that_nobody_lives_there_opens_it_and_what_a_living_server_says_does_not() {
        for (error, sent) in [
            (StoreError::TimedOut, 1),
            (StoreError::Unavailable(text()), 1),
            (StoreError::Cluster, 1),
            (StoreError::Refused(text()), 3),
            (StoreError::UnexpectedReply("GET"), 3),
            (StoreError::Full, 3),
            (StoreError::OutOfTime, 3),
            (StoreError::Absent, 3),
        ] {
            let scene = Scene::new(Some(error.clone()));
            for _ in 0..3 {
                scene.send("GET").await.unwrap_err();
            }
            assert_eq!(scene.sent(), sent, "{error:?}");
        }
    }

    #[tokio::test]
    async fn it_recovers_by_the_next_trial_and_a_look_is_always_a_trial() {
        for command in ["GET", PROBE] {
            let scene = Scene::new(Some(StoreError::TimedOut));
            scene.send("GET").await.unwrap_err();
            *scene.commands.reply.lock().unwrap() = None;
            if command != PROBE {
                assert!(scene.send(command).await.is_err());
                scene.clock.advance(Duration::from_secs(1));
            }
            assert!(scene.send(command).await.is_ok(), "{command}");
            assert!(scene.send("GET").await.is_ok(), "{command}");
        }
    }

    #[tokio::test]
    async fn a_cluster_that_cannot_be_used_is_never_asked_again() {
        let scene = Scene::new(Some(StoreError::Cluster));
        scene.send("GET").await.unwrap_err();
        *scene.commands.reply.lock().unwrap() = None;
        scene.clock.advance(Duration::from_hours(1));
        assert_eq!(scene.send(PROBE).await, Err(StoreError::Cluster));
        assert_eq!(scene.sent(), 1);
    }
}
