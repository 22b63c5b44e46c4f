//! A limit for the memory of a process, as a container has it: a control group of the kernel, of version 1 or 2.

use std::{
    ffi::OsStr,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};

/// The names of what a control group is told and tells.
#[derive(Debug)]
struct Names {
    root: &'static str,
    limit: &'static str,
    peak: &'static str,
    kills: &'static str,
}

const VERSIONS: [Names; 2] = [
    Names { root: "/sys/fs/cgroup", limit: "memory.max", peak: "memory.peak", kills: "memory.events" },
    Names {
        root: "/sys/fs/cgroup/memory",
        limit: "memory.limit_in_bytes",
        peak: "memory.max_usage_in_bytes",
        kills: "memory.oom_control",
    },
];

/// A control group with a limit. Dropping it removes the group, once its processes have ended.
#[derive(Debug)]
pub struct MemoryLimit {
    names: &'static Names,
    path: PathBuf,
}

impl MemoryLimit {
    /// A group with a limit of `bytes`; `None` where no group can be made, as without the rights of root.
    pub fn new(bytes: u64) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("paddock-test-{}-{number}", std::process::id());
        VERSIONS.iter().find_map(|names| {
            let path = Path::new(names.root).join(&name);
            fs::create_dir(&path).ok()?;
            let group = Self { names, path };
            // Where the kernel has groups of the other version, this is a plain directory without the file.
            let mut limit = fs::OpenOptions::new().write(true).open(group.path.join(names.limit)).ok()?;
            limit.write_all(bytes.to_string().as_bytes()).ok()?;
            Some(group)
        })
    }

    /// The same command within the group, from its first instruction on.
    pub fn around(&self, command: &Command) -> Command {
        let mut within = Command::new("/bin/sh");
        within.args([OsStr::new("-c"), OsStr::new("echo $$ > \"$0\" && exec \"$@\"")]);
        within.arg(self.path.join("cgroup.procs")).arg(command.get_program()).args(command.get_args());
        within.env_clear();
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                within.env(name, value);
            }
        }
        within
    }

    /// The most memory that the group has had, in bytes.
    pub fn peak(&self) -> Result<u64> {
        Ok(self.read(self.names.peak)?.trim().parse()?)
    }

    /// How many processes were killed because the group had no memory left.
    pub fn kills(&self) -> Result<u64> {
        let text = self.read(self.names.kills)?;
        let count =
            text.lines().find_map(|line| line.strip_prefix("oom_kill ")).context("no count of kills")?;
        Ok(count.parse()?)
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.path.join(name);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        // A group that still has a process stays; it holds nothing else.
        fs::remove_dir(&self.path).ok();
    }
}
