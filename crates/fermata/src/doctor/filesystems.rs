//! Filesystems, tried with mounts that are never attached to a path and vanish with their descriptor.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use fermata_sys::loop_device::{LoopDevice, Options};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use super::Check;

/// `mkfs.btrfs` refuses devices below 109 MiB. The file is sparse.
const BTRFS_BYTES: u64 = 128 << 20;

pub(super) fn checks() -> Vec<Check> {
    match tempfile::Builder::new().prefix("fermata-doctor-").tempdir() {
        Ok(scratch) => {
            let scratch = scratch.path();
            vec![overlayfs(scratch), erofs(scratch), btrfs(scratch)]
        }
        Err(error) => {
            vec![Check::fail(
                "temporary files",
                format!("no directory for trying filesystems: {error}"),
            )]
        }
    }
}

fn overlayfs(scratch: &Path) -> Check {
    const NAME: &str = "overlayfs";
    let tried = || {
        let mut options = Vec::new();
        for (option, directory) in [
            ("lowerdir", "lower"),
            ("upperdir", "upper"),
            ("workdir", "work"),
        ] {
            let path = scratch.join(directory);
            std::fs::create_dir(&path)?;
            options.push((option, path.display().to_string()));
        }
        let mut options: Vec<_> = options
            .iter()
            .map(|(key, value)| (*key, value.as_str()))
            .collect();
        options.push(("xino", "on"));
        mount("overlay", &options)
    };
    match tried() {
        Ok(_mount) => Check::ok(NAME, "mounted, with xino"),
        Err(error) => Check::fail(NAME, format!("cannot be mounted: {error}"))
            .advise("modprobe overlay; if the temporary directory is itself on an overlay, set TMPDIR to one that is not"),
    }
}

fn erofs(scratch: &Path) -> Check {
    const NAME: &str = "erofs";
    let tree = scratch.join("tree");
    let image = scratch.join("erofs.img");
    if let Err(error) = std::fs::create_dir(&tree) {
        return Check::fail(NAME, format!("cannot be tried: {error}"));
    }
    if let Err(reason) = make("mkfs.erofs", &["--quiet"], &[&image, &tree]) {
        return Check::fail(NAME, reason).advise("apt-get install erofs-utils");
    }
    let direct = mount("erofs", &[("source", &image.display().to_string())]);
    let Err(direct) = direct else {
        return Check::ok(NAME, "mounted from a file");
    };
    match attach(&image, true).and_then(|device| {
        mount(
            "erofs",
            &[("source", &device.path().display().to_string()), ("ro", "")],
        )
    }) {
        Ok(_mount) => Check::ok(
            NAME,
            format!("mounted from a loop device; from a file (Linux 6.12): {direct}"),
        ),
        Err(error) => Check::fail(NAME, format!("cannot be mounted: {error}"))
            .advise("modprobe erofs loop; a kernel with CONFIG_EROFS_FS is needed"),
    }
}

fn btrfs(scratch: &Path) -> Check {
    const NAME: &str = "btrfs";
    const SLOWER: &str = "snapshots copy files instead, which is slower";
    let image = scratch.join("btrfs.img");
    let sized = File::create(&image).and_then(|file| file.set_len(BTRFS_BYTES));
    if let Err(error) = sized {
        return Check::warning(NAME, format!("cannot be tried: {error}")).advise(SLOWER);
    }
    if let Err(reason) = make("mkfs.btrfs", &["--quiet"], &[&image]) {
        return Check::warning(NAME, reason)
            .advise(format!("apt-get install btrfs-progs; without it {SLOWER}"));
    }
    match attach(&image, false)
        .and_then(|device| mount("btrfs", &[("source", &device.path().display().to_string())]))
    {
        Ok(_mount) => Check::ok(NAME, "mounted from a loop device"),
        Err(error) => Check::warning(NAME, format!("cannot be mounted: {error}"))
            .advise(format!("modprobe btrfs loop; without it {SLOWER}")),
    }
}

fn attach(image: &Path, read_only: bool) -> io::Result<LoopDevice> {
    let backing = File::options().read(true).write(!read_only).open(image)?;
    LoopDevice::attach(
        backing.as_fd(),
        Options {
            read_only,
            ..Options::default()
        },
    )
}

/// An option without value is a flag.
fn mount(filesystem: &str, options: &[(&str, &str)]) -> io::Result<OwnedFd> {
    let context = fsopen(filesystem, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        if value.is_empty() {
            rustix::mount::fsconfig_set_flag(context.as_fd(), *key)?;
        } else {
            fsconfig_set_string(context.as_fd(), *key, *value)?;
        }
    }
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?)
}

fn make(program: &str, options: &[&str], paths: &[&Path]) -> Result<(), String> {
    let output = Command::new(program)
        .args(options)
        .args(paths)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program} cannot be run: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        let reason = String::from_utf8_lossy(&output.stderr);
        Err(format!(
            "{program} failed: {}",
            reason.lines().next_back().unwrap_or_default()
        ))
    }
}
