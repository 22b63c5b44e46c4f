//! What the server says of its memory, and how much of it Paddock uses: half for answers, three eighths for sessions; the rest
//! is for what must always have room (epochs, the fleet, flights) and for the server's own.
//!
//! Pure. It never asks the server: a server that tells nothing has the limits for an unknown one.

/// The bytes of answers where the server does not tell how much memory it may use.
const UNKNOWN: u64 = 256 << 20;

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ServerMemory {
    /// How many bytes it may use; `None` where it told nothing, or has no limit.
    limit: Option<u64>,
    /// The name of the rule by which it evicts keys, where it may do so.
    evicts_by: Option<String>,
}

impl ServerMemory {
    /// Reads the reply to `INFO memory`.
    pub(super) fn read(info: &str) -> Self {
        let value = |name: &str| {
            let mut lines = info.lines().filter_map(|line| line.trim().split_once(':'));
            lines.find(|(known, _)| *known == name).map(|(_, value)| value)
        };
        let limit = value("maxmemory").and_then(|bytes| bytes.parse().ok()).filter(|bytes| *bytes > 0);
        let policy = value("maxmemory_policy").filter(|policy| *policy != "noeviction");
        Self { limit, evicts_by: policy.filter(|_| limit.is_some()).map(str::to_owned) }
    }

    /// What two servers of one cluster said: the limit of the smaller one holds for both.
    pub(super) fn and(self, other: Self) -> Self {
        let limit = self.limit.into_iter().chain(other.limit).min();
        Self { limit, evicts_by: self.evicts_by.or(other.evicts_by) }
    }

    /// The most bytes of answers, where the operator has set none.
    pub(super) fn answers(&self) -> u64 {
        self.limit.map_or(UNKNOWN, |limit| limit / 2)
    }

    /// The most bytes of sessions; `None` where only their ends bound them.
    pub(super) fn sessions(&self) -> Option<u64> {
        self.limit.map(|limit| limit / 8 * 3)
    }

    /// What an operator should know.
    pub(super) fn warning(&self) -> Option<String> {
        let policy = self.evicts_by.as_deref()?;
        Some(format!(
            "Redis evicts keys (maxmemory-policy {policy}), sessions among them: set it to noeviction, Paddock bounds what it caches by itself"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_of_its_memory_is_read_and_what_it_does_not_say_is_unknown() {
        let told = |limit: u64, policy: &str| {
            let info = format!(
                "# Memory\r\nused_memory:1\r\nmaxmemory:{limit}\r\nmaxmemory_human:x\r\nmaxmemory_policy:{policy}\r\n"
            );
            let memory = ServerMemory::read(&info);
            (memory.answers() >> 20, memory.sessions().map(|bytes| bytes >> 20), memory.warning().is_some())
        };
        assert_eq!(told(256 << 20, "noeviction"), (128, Some(96), false));
        assert_eq!(told(256 << 20, "volatile-lru"), (128, Some(96), true));
        assert_eq!(told(0, "allkeys-lru"), (256, None, false), "without a limit nothing is evicted");
        let [small, large] =
            ["maxmemory:8", "maxmemory:9\r\nmaxmemory_policy:allkeys-lru"].map(ServerMemory::read);
        let both = small.and(large).and(ServerMemory::default());
        assert_eq!((both.limit, both.evicts_by.as_deref()), (Some(8), Some("allkeys-lru")));
        for nothing in ["", "maxmemory", "maxmemory:\r\n", "maxmemory:many\r\nmaxmemory_policy:allkeys-lru"] {
            assert_eq!(ServerMemory::read(nothing), ServerMemory::default(), "{nothing}");
        }
    }
}
