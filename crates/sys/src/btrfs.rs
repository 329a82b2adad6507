//! The subvolume calls of btrfs (`linux/btrfs.h`), so that taking a snapshot starts no program.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::ioctl;

/// `BTRFS_IOCTL_MAGIC`.
const MAGIC: u8 = 0x94;
/// `BTRFS_SUBVOL_RDONLY`.
const READ_ONLY: u64 = 1 << 1;
/// `BTRFS_SUBVOL_NAME_MAX` + 1: what makes the structure one page.
const NAME_SIZE: usize = 4040;
/// A file name is never longer (`BTRFS_NAME_LEN`).
const NAME_MAX: usize = 255;

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct VolumeArguments {
    fd: i64,
    transaction: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; NAME_SIZE],
}

const _: () = assert!(
    size_of::<VolumeArguments>() == 4096,
    "the kernel's structure is one page"
);

const SYNC: ioctl::Opcode = ioctl::opcode::none(MAGIC, 8);
const SNAP_CREATE_V2: ioctl::Opcode = ioctl::opcode::write::<VolumeArguments>(MAGIC, 23);
const SUBVOL_CREATE_V2: ioctl::Opcode = ioctl::opcode::write::<VolumeArguments>(MAGIC, 24);
const SNAP_DESTROY_V2: ioctl::Opcode = ioctl::opcode::write::<VolumeArguments>(MAGIC, 63);

/// Makes an empty subvolume `name` in the directory `parent`.
pub fn create_subvolume(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    call::<SUBVOL_CREATE_V2>(parent, arguments(name, 0, 0)?)
}

/// Makes `name` in the directory `parent` a snapshot of the subvolume `source`. When this returns, the data and the snapshot
/// are on disk: the kernel writes out the source's dirty data and commits the transaction.
pub fn snapshot_subvolume(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    source: BorrowedFd<'_>,
    read_only: bool,
) -> io::Result<()> {
    let flags = if read_only { READ_ONLY } else { 0 };
    call::<SNAP_CREATE_V2>(
        parent,
        arguments(name, i64::from(source.as_raw_fd()), flags)?,
    )
}

/// Removes the subvolume `name` from the directory `parent` with everything in it; its space is freed in the background.
pub fn delete_subvolume(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    call::<SNAP_DESTROY_V2>(parent, arguments(name, 0, 0)?)
}

/// Writes out all dirty data of the filesystem that `any` is on, commits, and wakes the cleaner, which frees the space of
/// deleted subvolumes; syncfs(2) does not do the last.
pub fn sync(any: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: BTRFS_IOC_SYNC takes no argument.
    let call = unsafe { ioctl::NoArg::<SYNC>::new() };
    // SAFETY: as above; descriptors of another kind give ENOTTY.
    unsafe { ioctl::ioctl(any, call) }?;
    Ok(())
}

fn arguments(name: &OsStr, fd: i64, flags: u64) -> io::Result<VolumeArguments> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() > NAME_MAX || bytes.contains(&b'/') || bytes.contains(&0) {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    let mut arguments = VolumeArguments {
        fd,
        transaction: 0,
        flags,
        unused: [0; 4],
        name: [0; NAME_SIZE],
    };
    arguments.name[..bytes.len()].copy_from_slice(bytes);
    Ok(arguments)
}

fn call<const OPCODE: ioctl::Opcode>(
    parent: BorrowedFd<'_>,
    arguments: VolumeArguments,
) -> io::Result<()> {
    // SAFETY: all three opcodes take a pointer to `struct btrfs_ioctl_vol_args_v2`, which `VolumeArguments` mirrors (size
    // checked above), and only read it.
    let setter = unsafe { ioctl::Setter::<OPCODE, VolumeArguments>::new(arguments) };
    // SAFETY: the setter holds the structure that the opcode asks for; descriptors of another kind give ENOTTY.
    unsafe { ioctl::ioctl(parent, setter) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn opcodes_are_those_of_the_kernel_header() {
        assert_eq!(SYNC, 0x9408);
        assert_eq!(SNAP_CREATE_V2, 0x5000_9417);
        assert_eq!(SUBVOL_CREATE_V2, 0x5000_9418);
        assert_eq!(SNAP_DESTROY_V2, 0x5000_943f);
    }

    #[test]
    fn names_that_are_not_names_are_refused() {
        for name in ["", "a/b", "a\0b", &"x".repeat(256)] {
            let error = arguments(OsStr::new(name), 0, 0)
                .err()
                .map(|error| error.kind());
            assert_eq!(error, Some(io::ErrorKind::InvalidFilename), "{name:?}");
        }
    }

    #[test]
    fn another_filesystem_is_an_error() {
        let proc = std::fs::File::open("/proc").unwrap();
        create_subvolume(proc.as_fd(), OsStr::new("x")).unwrap_err();
    }
}
