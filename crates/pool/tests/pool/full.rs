//! A full disk is said to be one, and leaves nothing half-made.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use fermata_pool::{DriverChoice, Pool, PoolConfig};
use rustix::mount::{MountFlags, mount};

use crate::support::{Scratch, TestPool, snapshot_id, upper_id};

/// Incompressible, though nothing compresses.
fn noise(length: usize) -> Vec<u8> {
    let mut content = vec![0; length];
    blake3::Hasher::new()
        .update(b"noise")
        .finalize_xof()
        .fill(&mut content);
    content
}

fn fill(path: &Path) {
    let block = noise(1 << 20);
    let mut file = File::create(path).unwrap();
    let error = loop {
        if let Err(error) = file.write_all(&block).and_then(|()| file.sync_data()) {
            break error;
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
}

/// A pool of copies on 24 MiB.
fn tiny(scratch: &Scratch) -> Pool {
    let directory = scratch.path().join("disk");
    fs::create_dir(&directory).unwrap();
    mount(
        "tmpfs",
        &directory,
        "tmpfs",
        MountFlags::empty(),
        c"size=24m",
    )
    .unwrap();
    let agent = scratch.path().join("agent");
    fs::write(&agent, "the agent").unwrap();
    let config = PoolConfig {
        directory,
        driver: DriverChoice::Copy,
        size_bytes: None,
        agent,
        extra_certificates: Vec::new(),
    };
    Pool::open(config).unwrap()
}

fn is_empty(path: &Path) -> bool {
    fs::read_dir(path).unwrap().next().is_none()
}

#[test]
fn copies_on_a_full_disk() {
    let scratch = Scratch::new();
    let pool = tiny(&scratch);
    let upper = pool.uppers().create(&upper_id("u")).unwrap().upper;
    let content = noise(14 << 20);
    fs::write(upper.join("file"), &content).unwrap();

    let error = pool
        .uppers()
        .snapshot(&upper_id("u"), &snapshot_id("s"))
        .unwrap_err();
    assert!(error.is_no_space(), "{error:?}");
    assert!(pool.uppers().list().unwrap().snapshots.is_empty());
    assert!(is_empty(&scratch.path().join("disk/copy/staging")));
    assert_eq!(fs::read(upper.join("file")).unwrap(), content);

    fs::remove_file(upper.join("file")).unwrap();
    pool.uppers()
        .snapshot(&upper_id("u"), &snapshot_id("s"))
        .unwrap();
}

#[test]
fn layers_on_a_full_disk() {
    let scratch = Scratch::new();
    let pool = tiny(&scratch);
    let before = pool.layers().list().unwrap();
    let tree = scratch.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), noise(30 << 20)).unwrap();

    let error = pool.layers().import_directory(&tree).unwrap_err();
    assert!(error.is_no_space(), "{error:?}");
    assert_eq!(pool.layers().list().unwrap(), before);
    assert_eq!(
        fs::read_dir(scratch.path().join("disk/layers"))
            .unwrap()
            .count(),
        before.len()
    );
}

#[test]
fn a_full_btrfs_keeps_what_it_has() {
    let mut pool = TestPool::with_size(DriverChoice::Btrfs, 128 << 20);
    let upper = pool.uppers().create(&upper_id("u")).unwrap().upper;
    fs::write(upper.join("precious"), noise(1 << 20)).unwrap();
    pool.uppers()
        .snapshot(&upper_id("u"), &snapshot_id("before"))
        .unwrap();
    fill(&upper.join("filler"));

    // Metadata has its own room, so these may still work; if not, the reason is said and nothing is left.
    for round in 0..50 {
        let id = snapshot_id(&format!("full-{round}"));
        let known = pool.uppers().list().unwrap().snapshots.len();
        match pool.uppers().snapshot(&upper_id("u"), &id) {
            Ok(()) => assert!(pool.uppers().list().unwrap().snapshots.contains(&id)),
            Err(error) => {
                assert!(error.is_no_space(), "{error:?}");
                assert_eq!(pool.uppers().list().unwrap().snapshots.len(), known);
            }
        }
    }
    pool.reopen();
    assert!(is_empty(&pool.root().join("staging")));
    for item in pool.uppers().list().unwrap().snapshots.into_iter().skip(1) {
        pool.uppers().delete(&item.into()).unwrap();
    }
    fs::remove_file(upper.join("filler")).unwrap();
    // btrfs gives the space of deleted snapshots back in the background, from the next commit on.
    let deadline = Instant::now() + Duration::from_secs(30);
    let clone = loop {
        match pool
            .uppers()
            .clone_snapshot(&snapshot_id("before"), &upper_id("c"))
        {
            Ok(clone) => break clone.upper,
            Err(error) => assert!(
                error.is_no_space() && Instant::now() < deadline,
                "{error:?}"
            ),
        }
    };
    assert!(fs::read(clone.join("precious")).unwrap() == noise(1 << 20));
}
