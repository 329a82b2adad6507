//! Mounting and finding mounts.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use fermata_sys::loop_device::{LoopDevice, Options};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};

use crate::{PoolError, Result};

/// Whether something is mounted at exactly this path.
pub(crate) fn is_mount_point(path: &Path) -> Result<bool> {
    let found = statx(
        CWD,
        path,
        AtFlags::SYMLINK_NOFOLLOW,
        StatxFlags::BASIC_STATS,
    )
    .map_err(PoolError::file("look at", path))?;
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Mounts a filesystem; an option is a flag (`("ro", None)`) or has a value.
pub(crate) fn mount(
    kind: &str,
    source: &Path,
    target: &Path,
    options: &[(&str, Option<&str>)],
    attributes: MountAttrFlags,
) -> rustix::io::Result<()> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", source)?;
    for (key, value) in options {
        match value {
            Some(value) => fsconfig_set_string(context.as_fd(), *key, *value)?,
            None => fsconfig_set_flag(context.as_fd(), *key)?,
        }
    }
    fsconfig_create(context.as_fd())?;
    let mounted = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    move_mount(
        mounted.as_fd(),
        "",
        CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}

/// Mounts an EROFS file, directly where the kernel can (6.12), else through a loop device.
pub(crate) fn mount_erofs(file: &Path, target: &Path) -> Result<()> {
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
    let failed = || PoolError::file::<Errno>("mount layer", file);
    match mount("erofs", file, target, &[("ro", None)], attributes) {
        // What a kernel without file-backed mounts says to anything but a block device.
        Err(Errno::NOTBLK) => {}
        result => return result.map_err(failed()),
    }
    let backing = File::open(file).map_err(PoolError::file("open", file))?;
    let options = Options {
        read_only: true,
        ..Options::default()
    };
    let device =
        LoopDevice::attach(backing.as_fd(), options).map_err(PoolError::file("attach", file))?;
    mount("erofs", device.path(), target, &[("ro", None)], attributes).map_err(failed())
}

/// Unmounts; what is not mounted is fine. Mounts of other namespaces (running sandboxes) are not touched.
pub(crate) fn unmount_if_mounted(path: &Path) -> Result<()> {
    match is_mount_point(path) {
        Ok(true) => unmount(path, UnmountFlags::NOFOLLOW).map_err(PoolError::file("unmount", path)),
        Ok(false) => Ok(()),
        Err(PoolError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Unmounts everything mounted below a directory in this namespace, so that removing the tree cannot reach into it.
pub(crate) fn unmount_below(directory: &Path) -> Result<()> {
    let table = std::fs::read("/proc/self/mountinfo")
        .map_err(PoolError::file("read", Path::new("/proc/self/mountinfo")))?;
    let mut below: Vec<PathBuf> = table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(unescape)
        .filter(|path| path != directory && path.starts_with(directory))
        .collect();
    // Later mounts may be inside of or on top of earlier ones.
    below.reverse();
    for path in below {
        unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(PoolError::file("unmount", &path))?;
    }
    Ok(())
}

/// proc(5): space, tab, newline and backslash are written as `\` and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        match (first, tail) {
            (
                b'\\',
                [
                    a @ b'0'..=b'3',
                    b @ b'0'..=b'7',
                    c @ b'0'..=b'7',
                    after @ ..,
                ],
            ) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_odd_names_are_read() {
        assert_eq!(unescape(br"/a\040b\134c"), Path::new(r"/a b\c"));
        assert_eq!(unescape(br"/plain\9"), Path::new(r"/plain\9"));
    }
}
