//! The machine that this process runs on, as far as it limits what the process may hold.

use paddock::config::memory_budget_of;
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

/// The memory budget that fits the machine, and the control group of this process if it has one, besides `store` bytes
/// for the embedded store; `None` where the system does not tell.
pub(crate) fn memory_budget(store: u64) -> Option<u64> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    let limit = sysinfo::get_current_pid().ok().and_then(|own| {
        let processes = ProcessesToUpdate::Some(&[own]);
        system.refresh_processes_specifics(processes, false, ProcessRefreshKind::nothing());
        system.process(own)?.cgroup_limits()
    });
    Some(memory_budget_of(limit.map(|limit| limit.total_memory), system.total_memory(), store))
}
