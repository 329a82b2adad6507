//! Random changes to a tree, of every kind that programs make.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lsetxattr, makedev, mknodat,
    utimensat,
};
use rustix::io::Errno;

/// Few, so that operations meet; odd, so that nothing that is fine with plain names passes.
const NAMES: [&[u8]; 7] = [
    b"a",
    b"b",
    b"with space",
    b"new\nline",
    b"\xff\xfe",
    "\u{fc}\u{1d110}".as_bytes(),
    &[b'l'; 254],
];
const DIRECTORIES: [&str; 5] = ["", "d", "d/e", "lower", "lower/inner"];

/// A place that operations use: an index into the directories, one into the names.
pub(crate) type Place = (usize, usize);

#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Write {
        at: Place,
        offset: u64,
        length: usize,
        seed: u8,
    },
    MakeDirectory(usize),
    Symlink {
        at: Place,
        target: usize,
    },
    Special {
        at: Place,
        kind: u8,
    },
    Link {
        from: Place,
        to: Place,
    },
    Rename {
        from: Place,
        to: Place,
    },
    Remove(Place),
    /// Leaves a whiteout where a lower layer has it.
    RemoveDirectory(usize),
    /// Makes it opaque where a lower layer has it.
    ReplaceDirectory(usize),
    Mode {
        at: Place,
        mode: u32,
    },
    Owner {
        at: Place,
        uid: u32,
        gid: u32,
    },
    Attribute {
        at: Place,
        name: &'static str,
        value: Vec<u8>,
    },
    AccessList {
        at: Place,
        user: u32,
    },
    DefaultAccessList {
        directory: usize,
        user: u32,
    },
    Capability(Place),
    Times {
        at: Place,
        seconds: i64,
        nanoseconds: i64,
    },
}

pub(crate) fn any() -> impl Strategy<Value = Operation> {
    let place = || (0..DIRECTORIES.len(), 0..NAMES.len());
    let directory = || 1..DIRECTORIES.len();
    prop_oneof![
        // Beyond the size of an inline extent, with holes before.
        6 => (place(), prop_oneof![Just(0u64), 0..300_000u64], 0..20_000usize, 0..=u8::MAX)
            .prop_map(|(at, offset, length, seed)| Operation::Write { at, offset, length, seed }),
        3 => directory().prop_map(Operation::MakeDirectory),
        1 => (place(), 0..NAMES.len()).prop_map(|(at, target)| Operation::Symlink { at, target }),
        2 => (place(), 0..4u8).prop_map(|(at, kind)| Operation::Special { at, kind }),
        2 => (place(), place()).prop_map(|(from, to)| Operation::Link { from, to }),
        2 => (place(), place()).prop_map(|(from, to)| Operation::Rename { from, to }),
        2 => place().prop_map(Operation::Remove),
        1 => directory().prop_map(Operation::RemoveDirectory),
        1 => directory().prop_map(Operation::ReplaceDirectory),
        1 => (place(), 0..0o10000u32).prop_map(|(at, mode)| Operation::Mode { at, mode }),
        1 => (place(), 0..70_000u32, 0..70_000u32).prop_map(|(at, uid, gid)| Operation::Owner { at, uid, gid }),
        1 => (
            place(),
            prop_oneof![Just("user.x"), Just("trusted.t"), Just("security.s")],
            proptest::collection::vec(0..=u8::MAX, 0..600),
        )
            .prop_map(|(at, name, value)| Operation::Attribute { at, name, value }),
        1 => (place(), 1..70_000u32).prop_map(|(at, user)| Operation::AccessList { at, user }),
        1 => (directory(), 1..70_000u32)
            .prop_map(|(directory, user)| Operation::DefaultAccessList { directory, user }),
        1 => place().prop_map(Operation::Capability),
        1 => (place(), 0..4_000_000_000i64, 0..1_000_000_000i64)
            .prop_map(|(at, seconds, nanoseconds)| Operation::Times { at, seconds, nanoseconds }),
    ]
}

/// Does it, and says whether it could be done: what is in the way of a random operation is no failure.
pub(crate) fn apply(root: &Path, operation: &Operation) -> bool {
    match attempt(root, operation) {
        Ok(()) => true,
        Err(error) => {
            let errno = Errno::from_io_error(&error);
            let expected = matches!(
                errno,
                Some(
                    Errno::NOENT
                        | Errno::EXIST
                        | Errno::NOTDIR
                        | Errno::ISDIR
                        | Errno::NOTEMPTY
                        | Errno::XDEV
                        | Errno::INVAL
                        | Errno::PERM
                        | Errno::NOTSUP
                        | Errno::LOOP
                        | Errno::NXIO
                        | Errno::NODEV
                )
            );
            assert!(expected, "{operation:?}: {error}");
            false
        }
    }
}

fn attempt(root: &Path, operation: &Operation) -> io::Result<()> {
    let path = |place: &Place| {
        root.join(DIRECTORIES[place.0])
            .join(OsStr::from_bytes(NAMES[place.1]))
    };
    let directory = |index: usize| root.join(DIRECTORIES[index]);
    match operation {
        Operation::Write {
            at,
            offset,
            length,
            seed,
        } => write(&path(at), *offset, *length, *seed),
        Operation::MakeDirectory(index) => fs::create_dir(directory(*index)),
        Operation::Symlink { at, target } => symlink(OsStr::from_bytes(NAMES[*target]), path(at)),
        Operation::Special { at, kind } => special(&path(at), *kind),
        Operation::Link { from, to } => fs::hard_link(path(from), path(to)),
        Operation::Rename { from, to } => fs::rename(path(from), path(to)),
        Operation::Remove(at) => fs::remove_file(path(at)),
        Operation::RemoveDirectory(index) => fs::remove_dir_all(directory(*index)),
        Operation::ReplaceDirectory(index) => {
            fs::remove_dir_all(directory(*index))?;
            fs::create_dir(directory(*index))
        }
        Operation::Mode { at, mode } => {
            let path = existing(path(at))?;
            fs::set_permissions(path, fs::Permissions::from_mode(*mode))
        }
        Operation::Owner { at, uid, gid } => lchown(path(at), Some(*uid), Some(*gid)),
        Operation::Attribute { at, name, value } => set(&path(at), name, value),
        Operation::AccessList { at, user } => set(
            &existing(path(at))?,
            "system.posix_acl_access",
            &access_list(*user),
        ),
        Operation::DefaultAccessList {
            directory: index,
            user,
        } => set(
            &directory(*index),
            "system.posix_acl_default",
            &access_list(*user),
        ),
        Operation::Capability(at) => {
            // VFS_CAP_REVISION_2 with the effective bit, then CAP_NET_BIND_SERVICE permitted.
            let words = [0x0200_0001u32, 1 << 10, 0, 0, 0];
            let value: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            set(&path(at), "security.capability", &value)
        }
        Operation::Times {
            at,
            seconds,
            nanoseconds,
        } => {
            let time = Timespec {
                tv_sec: *seconds,
                tv_nsec: *nanoseconds,
            };
            let times = Timestamps {
                last_access: time,
                last_modification: time,
            };
            Ok(utimensat(CWD, path(at), &times, AtFlags::SYMLINK_NOFOLLOW)?)
        }
    }
}

/// Not through symlinks, which may lead anywhere.
fn existing(path: PathBuf) -> io::Result<PathBuf> {
    if fs::symlink_metadata(&path)?.is_symlink() {
        return Err(Errno::LOOP.into());
    }
    Ok(path)
}

fn write(path: &Path, offset: u64, length: usize, seed: u8) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(Errno::EXIST.into());
    }
    let file: File = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    let content: Vec<u8> = (0..length)
        .map(|index| seed.wrapping_add(index.to_le_bytes()[0]).wrapping_mul(31))
        .collect();
    file.write_all_at(&content, offset)?;
    if seed.is_multiple_of(4) {
        // A hole at the end.
        file.set_len(offset + 200_000)?;
    }
    Ok(())
}

fn special(path: &Path, kind: u8) -> io::Result<()> {
    let (kind, device) = match kind {
        0 => (FileType::Fifo, 0),
        1 => (FileType::Socket, 0),
        2 => (FileType::CharacterDevice, makedev(1, 3)),
        _ => (FileType::BlockDevice, makedev(259, 70_000)),
    };
    Ok(mknodat(
        CWD,
        path,
        kind,
        Mode::from_raw_mode(0o640),
        device,
    )?)
}

fn set(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    Ok(lsetxattr(path, name, value, XattrFlags::empty())?)
}

/// acl(5) in the kernel's form (`posix_acl_xattr.h`): version 2, then tag, permissions, id.
fn access_list(user: u32) -> Vec<u8> {
    let none = u32::MAX;
    let entries: [(u16, u16, u32); 5] = [
        (1, 7, none),
        (2, 5, user),
        (4, 4, none),
        (0x10, 5, none),
        (0x20, 0, none),
    ];
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

/// A tree with at least one of everything below `lower`.
pub(crate) fn one_of_everything(root: &Path) {
    let fixed = [
        Operation::MakeDirectory(1),
        Operation::MakeDirectory(2),
        Operation::MakeDirectory(3),
        Operation::MakeDirectory(4),
        Operation::Write {
            at: (3, 0),
            offset: 100_000,
            length: 9_000,
            seed: 4,
        },
        Operation::Write {
            at: (3, 3),
            offset: 0,
            length: 100,
            seed: 1,
        },
        Operation::Write {
            at: (4, 6),
            offset: 0,
            length: 5_000,
            seed: 2,
        },
        Operation::Link {
            from: (3, 3),
            to: (3, 4),
        },
        Operation::Symlink {
            at: (3, 5),
            target: 4,
        },
        Operation::Special {
            at: (4, 0),
            kind: 0,
        },
        Operation::Special {
            at: (4, 1),
            kind: 1,
        },
        Operation::Special {
            at: (4, 2),
            kind: 2,
        },
        Operation::Special {
            at: (4, 3),
            kind: 3,
        },
        Operation::Owner {
            at: (3, 0),
            uid: 1000,
            gid: 66_000,
        },
        Operation::Mode {
            at: (3, 0),
            mode: 0o6755,
        },
        Operation::Capability((3, 0)),
        Operation::AccessList {
            at: (3, 0),
            user: 1234,
        },
        Operation::DefaultAccessList {
            directory: 4,
            user: 99,
        },
        Operation::Attribute {
            at: (3, 5),
            name: "trusted.t",
            value: vec![0, 255],
        },
        Operation::Attribute {
            at: (4, 0),
            name: "trusted.t",
            value: vec![7; 3000],
        },
        Operation::Attribute {
            at: (3, 3),
            name: "user.x",
            value: Vec::new(),
        },
        Operation::Times {
            at: (3, 0),
            seconds: 1_000_000_000,
            nanoseconds: 123_456_789,
        },
        Operation::Times {
            at: (3, 5),
            seconds: 1,
            nanoseconds: 1,
        },
        Operation::Times {
            at: (4, 2),
            seconds: 3_000_000_000,
            nanoseconds: 999_999_999,
        },
    ];
    for operation in &fixed {
        assert!(apply(root, operation), "{operation:?}");
    }
    fs::set_permissions(root.join("d"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::set_permissions(root.join("d/e"), fs::Permissions::from_mode(0o2711)).unwrap();
}
