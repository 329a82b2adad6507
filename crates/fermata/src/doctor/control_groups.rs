//! Control groups: freezing, killing, limits.

use std::io;
use std::path::{Path, PathBuf};

use fermata_runtime::cgroup::Hierarchies;

use super::Check;

const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

pub(super) fn checks() -> Vec<Check> {
    const NAME: &str = "control groups";
    let mounts = match std::fs::read_to_string("/proc/self/mounts") {
        Ok(mounts) => mounts,
        Err(error) => return vec![Check::fail(NAME, format!("cannot be found: {error}"))],
    };
    let Some(hierarchies) = Hierarchies::parse(&mounts) else {
        return vec![
            Check::fail(NAME, "no cgroup2 is mounted")
                .advise("mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with systemd"),
        ];
    };
    vec![controllers(&hierarchies), freezing(&hierarchies.unified)]
}

fn controllers(hierarchies: &Hierarchies) -> Check {
    const NAME: &str = "cgroup limits";
    let unified =
        std::fs::read_to_string(hierarchies.unified.join("cgroup.controllers")).unwrap_or_default();
    let unified: Vec<_> = unified.split_ascii_whitespace().collect();
    let legacy = [&hierarchies.cpu, &hierarchies.memory, &hierarchies.pids];
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for (name, legacy) in CONTROLLERS.into_iter().zip(legacy) {
        if unified.contains(&name) {
            found.push(format!("{name} (v2)"));
        } else if legacy.is_some() {
            found.push(format!("{name} (v1)"));
        } else {
            missing.push(name);
        }
    }
    let found = found.join(", ");
    if missing.is_empty() {
        Check::ok(NAME, found)
    } else {
        Check::warning(NAME, format!("found {found}, but not {}", missing.join(", ")))
            .advise("sandboxes are not limited in these; boot with cgroup_enable=memory or a kernel that has them")
    }
}

fn freezing(unified: &Path) -> Check {
    const NAME: &str = "cgroup freeze";
    let path = unified.join(format!("fermata-doctor-{}", std::process::id()));
    match try_freezing(&path) {
        Ok(()) => Check::ok(
            NAME,
            format!(
                "a group below {} was frozen, thawed and killed",
                unified.display()
            ),
        ),
        Err(error) => Check::fail(
            NAME,
            format!("not possible below {}: {error}", unified.display()),
        )
        .advise("a kernel of 5.14 or later with a writable cgroup2 is needed"),
    }
}

fn try_freezing(path: &Path) -> io::Result<()> {
    std::fs::create_dir(path)?;
    let group = Group(path.to_owned());
    for (file, value) in [
        ("cgroup.freeze", "1"),
        ("cgroup.freeze", "0"),
        ("cgroup.kill", "1"),
    ] {
        std::fs::write(group.0.join(file), value)?;
    }
    Ok(())
}

/// Removed again, whatever happened.
struct Group(PathBuf);

impl Drop for Group {
    fn drop(&mut self) {
        // An empty group that stays is harmless, and its name tells where it is from.
        let _ = std::fs::remove_dir(&self.0);
    }
}
