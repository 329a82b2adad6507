//! Control groups of the sandboxes, on plain v2 and on hybrid machines.
//!
//! ```text
//! v2      /sys/fs/cgroup/fermata/SANDBOX           everything
//! hybrid  /sys/fs/cgroup/unified/fermata/SANDBOX   freeze, kill, device filter
//!         /sys/fs/cgroup/{cpu,memory,pids}/fermata/SANDBOX   limits
//! ```

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use fermata_protocol::CgroupSpec;
use fermata_sys::device_filter::{DeviceFilter, DeviceKind, DeviceRule};

use crate::RuntimeError;

/// The directory below each hierarchy that holds all sandboxes of this machine.
const PARENT: &str = "fermata";

/// Docker's default devices. Making any node is allowed (an image may hold some), opening only these.
const DEVICES: &[DeviceRule] = &[
    allowed(DeviceKind::Character, None, None, false),
    allowed(DeviceKind::Block, None, None, false),
    allowed(DeviceKind::Character, Some(1), Some(3), true), // null
    allowed(DeviceKind::Character, Some(1), Some(5), true), // zero
    allowed(DeviceKind::Character, Some(1), Some(7), true), // full
    allowed(DeviceKind::Character, Some(1), Some(8), true), // random
    allowed(DeviceKind::Character, Some(1), Some(9), true), // urandom
    allowed(DeviceKind::Character, Some(5), Some(0), true), // tty
    allowed(DeviceKind::Character, Some(5), Some(1), true), // console
    allowed(DeviceKind::Character, Some(5), Some(2), true), // ptmx
    allowed(DeviceKind::Character, Some(136), None, true),  // pts
];

const fn allowed(
    kind: DeviceKind,
    major: Option<u16>,
    minor: Option<u16>,
    open: bool,
) -> DeviceRule {
    DeviceRule {
        kind,
        major,
        minor,
        open,
    }
}

/// What a sandbox may use; 0 means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Thousandths of a core.
    pub cpu_millicores: u64,
    /// A hard cap that protects the host.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub processes: u64,
}

/// Where this machine has its hierarchies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchies {
    /// The mount of cgroup2.
    pub unified: PathBuf,
    /// Mounts of v1 controllers; `None` where the controller is on v2 or missing.
    pub cpu: Option<PathBuf>,
    /// As above.
    pub memory: Option<PathBuf>,
    /// As above.
    pub pids: Option<PathBuf>,
}

impl Hierarchies {
    /// Reads them from the text of `/proc/self/mounts`.
    #[must_use]
    pub fn parse(mounts: &str) -> Option<Self> {
        let mut unified = None;
        let (mut cpu, mut memory, mut pids) = (None, None, None);
        for line in mounts.lines() {
            let fields = line.split(' ').collect::<Vec<_>>();
            let [_, path, kind, options, ..] = fields.as_slice() else {
                continue;
            };
            let path = PathBuf::from(path);
            match *kind {
                "cgroup2" => unified = unified.or(Some(path)),
                "cgroup" => {
                    for option in options.split(',') {
                        match option {
                            "cpu" => cpu = Some(path.clone()),
                            "memory" => memory = Some(path.clone()),
                            "pids" => pids = Some(path.clone()),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Some(Self {
            unified: unified?,
            cpu,
            memory,
            pids,
        })
    }
}

/// Makes and removes the control groups of sandboxes.
#[derive(Debug)]
pub struct Cgroups {
    hierarchies: Hierarchies,
    /// Controllers that the unified hierarchy itself has.
    unified_controllers: Vec<String>,
    devices: DeviceFilter,
}

impl Cgroups {
    /// Looks at the machine and makes the parent directories.
    ///
    /// # Errors
    /// [`RuntimeError::File`] when there is no cgroup2 or it cannot be written, [`RuntimeError::System`] when the kernel refuses
    /// the device filter.
    pub fn open() -> Result<Self, RuntimeError> {
        let path = Path::new("/proc/self/mounts");
        let mounts = std::fs::read_to_string(path).map_err(file("read", path))?;
        let hierarchies = Hierarchies::parse(&mounts).ok_or_else(|| RuntimeError::File {
            action: "find cgroup2 in",
            path: path.into(),
            source: io::ErrorKind::NotFound.into(),
        })?;
        let parent = hierarchies.unified.join(PARENT);
        make(&parent)?;
        let unified_controllers = ["cpu", "memory", "pids"]
            .into_iter()
            .filter(|controller| {
                // Both levels must hand the controller down; it is missing where v1 has it.
                let enable = format!("+{controller}");
                [&hierarchies.unified, &parent].iter().all(|directory| {
                    std::fs::write(directory.join("cgroup.subtree_control"), &enable).is_ok()
                })
            })
            .map(str::to_owned)
            .collect();
        for hierarchy in [&hierarchies.cpu, &hierarchies.memory, &hierarchies.pids]
            .into_iter()
            .flatten()
        {
            make(&hierarchy.join(PARENT))?;
        }
        let devices = DeviceFilter::load(DEVICES).map_err(|source| RuntimeError::System {
            action: "load the device filter",
            source,
        })?;
        Ok(Self {
            hierarchies,
            unified_controllers,
            devices,
        })
    }

    /// Removes the parent directories when no sandbox of any server is left in them.
    pub fn remove_parents() {
        let Some(hierarchies) = std::fs::read_to_string("/proc/self/mounts")
            .ok()
            .and_then(|mounts| Hierarchies::parse(&mounts))
        else {
            return;
        };
        let unified = Some(&hierarchies.unified);
        for hierarchy in [
            unified,
            hierarchies.cpu.as_ref(),
            hierarchies.memory.as_ref(),
            hierarchies.pids.as_ref(),
        ]
        .into_iter()
        .flatten()
        {
            // Refused by the kernel while another server has a sandbox there.
            let _ = std::fs::remove_dir(hierarchy.join(PARENT));
        }
    }

    /// Makes a sandbox's control groups, limited and empty.
    ///
    /// # Errors
    /// [`RuntimeError::File`]; nothing of the attempt is left.
    pub fn create(&self, sandbox: &str, limits: Limits) -> Result<CgroupSpec, RuntimeError> {
        let spec = self.spec(sandbox);
        self.fill(&spec, limits).inspect_err(|_| remove(&spec))?;
        Ok(spec)
    }

    /// The control groups that a sandbox of this name has.
    #[must_use]
    pub fn spec(&self, sandbox: &str) -> CgroupSpec {
        let below = |hierarchy: &PathBuf| hierarchy.join(PARENT).join(sandbox);
        let unified = below(&self.hierarchies.unified);
        let memory = if self.has_unified("memory") {
            Some(unified.clone())
        } else {
            self.hierarchies.memory.as_ref().map(below)
        };
        let mut controllers = [
            &self.hierarchies.cpu,
            &self.hierarchies.memory,
            &self.hierarchies.pids,
        ]
        .into_iter()
        .flatten()
        .map(below)
        .collect::<Vec<_>>();
        controllers.dedup();
        CgroupSpec {
            unified,
            controllers,
            memory,
        }
    }

    fn has_unified(&self, controller: &str) -> bool {
        self.unified_controllers
            .iter()
            .any(|name| name == controller)
    }

    fn fill(&self, spec: &CgroupSpec, limits: Limits) -> Result<(), RuntimeError> {
        for directory in spec.controllers.iter().chain([&spec.unified]) {
            // Another server of this machine removes the parent when it ends and has seen no sandbox there.
            if let Some(parent) = directory.parent() {
                make(parent)?;
            }
            make(directory)?;
        }
        if let Some(parent) = spec.unified.parent() {
            for controller in &self.unified_controllers {
                write(parent, "cgroup.subtree_control", &format!("+{controller}"))?;
            }
        }
        // The limits' files appear in the group once its parent hands the controllers down.
        let directory = std::fs::File::open(&spec.unified).map_err(file("open", &spec.unified))?;
        self.devices
            .attach(directory.as_fd())
            .map_err(file("limit devices in", &spec.unified))?;
        /// `cpu.max` counts in microseconds per period; the kernel's default period is 100 ms.
        const PERIOD_US: u64 = 100_000;
        /// The kernel's smallest quota (`min_cfs_quota_period` in kernel/sched/core.c).
        const SMALLEST_QUOTA_US: u64 = 1_000;
        let quota_us = (limits.cpu_millicores * PERIOD_US / 1000).max(SMALLEST_QUOTA_US);
        if limits.cpu_millicores > 0 {
            if self.has_unified("cpu") {
                write(&spec.unified, "cpu.max", &format!("{quota_us} {PERIOD_US}"))?;
            } else if let Some(directory) = find(spec, self.hierarchies.cpu.as_ref()) {
                write(directory, "cpu.cfs_quota_us", &quota_us.to_string())?;
            }
        }
        if limits.memory_bytes > 0 {
            let bytes = limits.memory_bytes.to_string();
            if self.has_unified("memory") {
                write(&spec.unified, "memory.max", &bytes)?;
            } else if let Some(directory) = find(spec, self.hierarchies.memory.as_ref()) {
                write(directory, "memory.limit_in_bytes", &bytes)?;
            }
        }
        if limits.processes > 0 {
            let count = limits.processes.to_string();
            if self.has_unified("pids") {
                write(&spec.unified, "pids.max", &count)?;
            } else if let Some(directory) = find(spec, self.hierarchies.pids.as_ref()) {
                write(directory, "pids.max", &count)?;
            }
        }
        Ok(())
    }
}

/// Kills what is left in a sandbox's control groups and removes them; for sandboxes whose shim is gone.
pub fn remove(spec: &CgroupSpec) {
    // Absent directories and files are the aim, so failures mean nothing here; the next sweep tries again.
    let _ = std::fs::write(spec.unified.join("cgroup.kill"), "1");
    for directory in spec.controllers.iter().chain([&spec.unified]) {
        let _ = std::fs::remove_dir(directory);
    }
}

/// Whether no process is left in the sandbox; an absent directory has none.
#[must_use]
pub fn is_empty(spec: &CgroupSpec) -> bool {
    std::fs::read_to_string(spec.unified.join("cgroup.events"))
        .is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
        .eq(&false)
}

fn find<'a>(spec: &'a CgroupSpec, hierarchy: Option<&PathBuf>) -> Option<&'a Path> {
    let hierarchy = hierarchy?;
    spec.controllers
        .iter()
        .map(PathBuf::as_path)
        .find(|directory| directory.starts_with(hierarchy))
}

fn make(directory: &Path) -> Result<(), RuntimeError> {
    match std::fs::create_dir(directory) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(file("make", directory)(error)),
    }
}

fn write(directory: &Path, name: &str, value: &str) -> Result<(), RuntimeError> {
    let path = directory.join(name);
    std::fs::write(&path, value).map_err(file("write", &path))
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RuntimeError {
    let path = path.to_owned();
    move |source| RuntimeError::File {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_machine_is_understood() {
        let hierarchies = Hierarchies::parse(
            "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
             cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
             cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
             cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
        )
        .unwrap();
        assert_eq!(hierarchies.unified, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(
            hierarchies.cpu.as_deref(),
            Some(Path::new("/sys/fs/cgroup/cpu,cpuacct"))
        );
        assert_eq!(hierarchies.pids, None);
    }

    #[test]
    fn a_plain_v2_machine_is_understood() {
        let hierarchies =
            Hierarchies::parse("cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n").unwrap();
        assert_eq!(hierarchies.unified, Path::new("/sys/fs/cgroup"));
        assert_eq!(hierarchies.memory, None);
    }

    #[test]
    fn groups_are_made_with_their_limits_and_removed() {
        let cgroups = Cgroups::open().unwrap();
        let name = format!("test-{}", std::process::id());
        let limits = Limits {
            cpu_millicores: 500,
            memory_bytes: 64 << 20,
            processes: 17,
        };
        let spec = cgroups.create(&name, limits).unwrap();
        assert!(is_empty(&spec));
        let memory = spec.memory.clone().unwrap();
        let limit = ["memory.max", "memory.limit_in_bytes"]
            .iter()
            .find_map(|name| std::fs::read_to_string(memory.join(name)).ok())
            .unwrap();
        assert_eq!(limit.trim(), (64 << 20).to_string());
        remove(&spec);
        assert!(!spec.unified.exists());
        assert!(spec.controllers.iter().all(|directory| !directory.exists()));
    }
}
