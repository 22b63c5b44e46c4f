//! The clock of the machine, as the core's port.

use std::time::{Duration, Instant, SystemTime};

use paddock::platform::Clock;

/// Time since 1970: the system time when the process started, plus steady time since then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SystemClock {
    started: Instant,
    since_1970: Duration,
}

impl SystemClock {
    pub(crate) fn start() -> Self {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { started: Instant::now(), since_1970 }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.since_1970 + self.started.elapsed()
    }
}
