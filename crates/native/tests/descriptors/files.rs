//! Files, directories, devices, memory files, locks.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

use fermata_sys::open_file::place;
use fermata_sys::record_lock::{LockOwner, lock_range};
use rustix::fs::{FlockOperation, MemfdFlags, OFlags, flock, memfd_create};

use super::harness::{Case, Guest, held, put, refused, take};

pub(crate) const CASES: &[Case] = &[
    ("a_file_keeps_position_and_flags", keeps_position),
    ("two_numbers_of_one_description_move_one_offset", shares),
    (
        "two_opens_of_one_file_have_an_offset_each",
        separate_offsets,
    ),
    ("a_directory_goes_on_listing", directory),
    ("devices", devices),
    ("a_path_only_descriptor", path_only),
    ("a_removed_file_keeps_its_content", nameless),
    ("a_removed_file_is_opened_by_its_other_name", hard_link),
    (
        "a_removed_file_whose_other_name_is_unknown_is_refused",
        hidden_link,
    ),
    ("a_memory_file", memory_file),
    ("locks", locks),
    ("a_file_about_a_process_is_refused", about_process),
    ("five_hundred_files_are_quick", many),
];

fn keeps_position() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, "0123456789").unwrap();
    held(
        || {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
                .open(&path)
                .unwrap();
            file.seek(std::io::SeekFrom::Start(4)).unwrap();
            put(100, file);
            let log = OpenOptions::new().append(true).open(&path).unwrap();
            put(101, log);
        },
        || {
            let mut file = File::from(take(100));
            let flags = rustix::fs::fcntl_getfl(&file).unwrap();
            assert!(flags.contains(OFlags::RDWR | OFlags::NONBLOCK));
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, "456789");
            File::from(take(101)).write_all(b"end").unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"0123456789end");
        },
    );
}

fn shares() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "0123456789").unwrap();
    held(
        || {
            let file = OwnedFd::from(File::open(file.path()).unwrap());
            place(file.as_raw_fd(), 101, true).unwrap();
            put(100, file);
        },
        || {
            let (mut first, mut second) = (File::from(take(100)), File::from(take(101)));
            first.seek(std::io::SeekFrom::Start(7)).unwrap();
            assert_eq!(second.stream_position().unwrap(), 7);
            let close = |file: &File| {
                let flags = rustix::io::fcntl_getfd(file).unwrap();
                flags.contains(rustix::io::FdFlags::CLOEXEC)
            };
            assert_eq!((close(&first), close(&second)), (false, true));
        },
    );
}

fn separate_offsets() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "0123456789").unwrap();
    held(
        || {
            put(100, File::open(file.path()).unwrap());
            put(101, File::open(file.path()).unwrap());
        },
        || {
            let (mut first, mut second) = (File::from(take(100)), File::from(take(101)));
            first.seek(std::io::SeekFrom::Start(7)).unwrap();
            assert_eq!(second.stream_position().unwrap(), 0);
        },
    );
}

fn directory() {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..200 {
        std::fs::write(directory.path().join(number.to_string()), "").unwrap();
    }
    let mut names = std::collections::BTreeSet::new();
    let open = || File::open(directory.path()).unwrap();
    // One read of a small buffer leaves the position in the middle.
    let mut buffer = Vec::with_capacity(1024);
    let probe = open();
    let mut half = rustix::fs::RawDir::new(&probe, buffer.spare_capacity_mut());
    while let Some(entry) = half.next() {
        names.insert(entry.unwrap().file_name().to_owned());
        if half.is_buffer_empty() {
            break;
        }
    }
    let position = rustix::fs::tell(&probe).unwrap();
    let before = names.len();
    assert!(before < 150);
    held(
        || put(100, probe),
        || {
            let mut names = names.clone();
            let copy = take(100);
            assert_eq!(rustix::fs::tell(&copy).unwrap(), position);
            let mut buffer = Vec::with_capacity(1024);
            let mut rest = rustix::fs::RawDir::new(&copy, buffer.spare_capacity_mut());
            while let Some(entry) = rest.next() {
                assert!(names.insert(entry.unwrap().file_name().to_owned()), "twice");
            }
            assert_eq!(names.len(), 202);
        },
    );
}

fn devices() {
    held(
        || {
            let open = |path| {
                OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(path)
                    .unwrap()
            };
            put(100, open("/dev/null"));
            put(101, open("/dev/zero"));
            put(102, File::open("/dev/urandom").unwrap());
        },
        || {
            assert_eq!(File::from(take(100)).write(b"x").unwrap(), 1);
            let mut bytes = [1; 4];
            File::from(take(101)).read_exact(&mut bytes).unwrap();
            assert_eq!(bytes, [0; 4]);
            let random = File::from(take(102));
            assert_eq!(random.metadata().unwrap().rdev(), rustix::fs::makedev(1, 9));
        },
    );
}

fn path_only() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    held(
        || {
            let flags = OFlags::PATH | OFlags::NOFOLLOW;
            let file = rustix::fs::open(&link, flags, rustix::fs::Mode::empty()).unwrap();
            put(100, file);
        },
        || {
            let file = take(100);
            assert!(
                rustix::fs::fcntl_getfl(&file)
                    .unwrap()
                    .contains(OFlags::PATH)
            );
            let target = rustix::fs::readlinkat(&file, "", Vec::new()).unwrap();
            assert_eq!(target.to_str().unwrap(), "nowhere");
        },
    );
}

fn nameless() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gone");
    held(
        || {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o640)
                .open(&path)
                .unwrap();
            file.write_all(b"begin").unwrap();
            file.seek(std::io::SeekFrom::Start(1 << 20)).unwrap();
            file.write_all(b"end").unwrap();
            file.set_len(2 << 20).unwrap();
            put(101, File::open(&path).unwrap());
            put(100, file);
            std::fs::remove_file(&path).unwrap();
        },
        || {
            let (mut first, mut second) = (File::from(take(100)), File::from(take(101)));
            assert_eq!(first.stream_position().unwrap(), (1 << 20) + 3);
            let metadata = second.metadata().unwrap();
            assert_eq!((metadata.len(), metadata.nlink()), (2 << 20, 0));
            assert_eq!(metadata.mode() & 0o7777, 0o640);
            assert!(metadata.blocks() < 1000, "holes stay");
            first.seek(std::io::SeekFrom::Start(0)).unwrap();
            first.write_all(b"BEGIN").unwrap();
            let mut bytes = Vec::new();
            second.read_to_end(&mut bytes).unwrap();
            assert_eq!(&bytes[..5], b"BEGIN");
            assert_eq!(&bytes[1 << 20..(1 << 20) + 3], b"end");
        },
    );
}

fn hard_link() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("one");
    held(
        || {
            let mut file = File::create(&path).unwrap();
            file.write_all(b"content").unwrap();
            put(100, file);
            std::fs::hard_link(&path, directory.path().join("other")).unwrap();
            std::fs::remove_file(&path).unwrap();
        },
        || {
            let mut file = File::from(take(100));
            file.write_all(b" and more").unwrap();
            let other = std::fs::read(directory.path().join("other")).unwrap();
            assert_eq!(other, b"content and more");
        },
    );
}

fn hidden_link() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("one");
    std::fs::create_dir(directory.path().join("elsewhere")).unwrap();
    let reason = refused(|| {
        put(100, File::create(&path).unwrap());
        std::fs::hard_link(&path, directory.path().join("elsewhere/other")).unwrap();
        std::fs::remove_file(&path).unwrap();
    });
    assert!(
        reason.contains("descriptor 100") && reason.contains("other name"),
        "{reason}"
    );
}

fn memory_file() {
    held(
        || {
            let mut file = File::from(memfd_create("x", MemfdFlags::CLOEXEC).unwrap());
            file.write_all(b"content").unwrap();
            put(100, file);
        },
        || {
            let mut file = File::from(take(100));
            assert_eq!(file.stream_position().unwrap(), 7);
            file.rewind().unwrap();
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, "content");
        },
    );
}

fn locks() {
    // Only their paths: a process gives up its locks on a file with any descriptor of it that it closes.
    let paths: Vec<_> = (0..3)
        .map(|_| tempfile::NamedTempFile::new().unwrap().into_temp_path())
        .collect();
    let open = |index: usize| {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).open(&paths[index]);
        file.unwrap()
    };
    held(
        || {
            for (index, number) in (100..103).enumerate() {
                put(number, open(index));
            }
            let whole = take(100);
            flock(&whole, FlockOperation::LockExclusive).unwrap();
            std::mem::forget(whole);
            lock_range(101, LockOwner::Description, true, 4, Some(8)).unwrap();
            lock_range(102, LockOwner::Process, true, 100, None).unwrap();
        },
        || {
            let lock = |file: &File, start, bytes| {
                lock_range(file.as_raw_fd(), LockOwner::Description, true, start, bytes)
            };
            let exclusively = FlockOperation::NonBlockingLockExclusive;
            assert!(flock(open(0), exclusively).is_err());
            let other = open(1);
            assert!(lock(&other, 11, Some(1)).is_err());
            lock(&other, 12, Some(1)).unwrap();
            lock(&other, 0, Some(4)).unwrap();
            let other = open(2);
            assert!(lock(&other, 1 << 40, Some(1)).is_err());
            lock(&other, 0, Some(100)).unwrap();
        },
    );
}

fn about_process() {
    let reason = refused(|| put(100, File::open("/proc/self/status").unwrap()));
    assert!(reason.contains("about a process"), "{reason}");
}

/// Without optimization it takes some times longer.
const SLOWER: u32 = if cfg!(debug_assertions) { 20 } else { 1 };

fn many() {
    let directory = tempfile::tempdir().unwrap();
    for (count, limit_ms) in [(20, 1), (500, 10)] {
        let guest = Guest::start(|| {
            let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
            assert!(limit.maximum.is_none_or(|maximum| maximum > 700));
            for number in 100..100 + count {
                let path = directory.path().join(number.to_string());
                put(number, File::create(path).unwrap());
            }
        });
        guest.capture().unwrap();
        let start = std::time::Instant::now();
        let captured = guest.capture().unwrap();
        let took = start.elapsed();
        assert_eq!(
            captured.descriptions.list.len(),
            count.unsigned_abs() as usize
        );
        println!("{count} files captured in {took:?}");
        let limit = std::time::Duration::from_millis(limit_ms) * SLOWER;
        assert!(took < limit, "{count} files captured in {took:?}");
    }
}
