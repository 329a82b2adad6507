//! What every driver must do.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::thread;

use fermata_pool::{DriverChoice, Item, PoolError};

use crate::listing::{self, Strictness, assert_same};
use crate::operation;
use crate::support::{TestPool, snapshot_id, upper_id};

macro_rules! contract {
    ($($case:ident),+ $(,)?) => {
        mod btrfs {
            $(#[test] fn $case() { super::$case(super::TestPool::new(super::DriverChoice::Btrfs)); })+
        }
        mod copy {
            $(#[test] fn $case() { super::$case(super::TestPool::new(super::DriverChoice::Copy)); })+
        }
    };
}

contract!(
    a_new_upper_is_empty_and_open_to_all,
    names_are_taken_or_missing,
    a_snapshot_is_of_one_instant,
    a_clone_starts_clean,
    clones_outlive_their_snapshot,
    everything_is_found_again,
    half_made_things_do_not_appear,
    every_kind_of_inode_survives,
    usage_counts_blocks_once,
    different_ids_do_not_disturb_each_other,
);

#[expect(clippy::needless_pass_by_value, reason = "each case owns its pool")]
fn a_new_upper_is_empty_and_open_to_all(pool: TestPool) {
    let upper = pool.uppers().create(&upper_id("u")).unwrap();
    assert_eq!(upper, pool.upper(&upper_id("u")));
    for path in [&upper.upper, &upper.work] {
        let found = fs::metadata(path).unwrap();
        assert_eq!(found.permissions().mode() & 0o7777, 0o755);
        assert_eq!(fs::read_dir(path).unwrap().count(), 0);
    }
    assert_eq!(
        fs::metadata(&upper.upper).unwrap().dev(),
        fs::metadata(&upper.work).unwrap().dev()
    );
}

#[expect(clippy::needless_pass_by_value, reason = "each case owns its pool")]
fn names_are_taken_or_missing(pool: TestPool) {
    let (upper, snapshot) = (upper_id("u"), snapshot_id("s"));
    let (no_upper, no_snapshot) = (upper_id("none"), snapshot_id("none"));
    let uppers = pool.uppers();
    let path = uppers.create(&upper).unwrap().upper;
    fs::write(path.join("file"), "mine").unwrap();
    uppers.snapshot(&upper, &snapshot).unwrap();

    assert!(matches!(uppers.create(&upper), Err(PoolError::UpperExists { id }) if id == upper));
    assert!(matches!(
        uppers.clone_snapshot(&snapshot, &upper),
        Err(PoolError::UpperExists { .. })
    ));
    assert!(
        matches!(uppers.snapshot(&upper, &snapshot), Err(PoolError::SnapshotExists { id }) if id == snapshot)
    );
    assert!(matches!(
        uppers.snapshot(&no_upper, &no_snapshot),
        Err(PoolError::UpperNotFound { .. })
    ));
    assert!(matches!(
        uppers.clone_snapshot(&no_snapshot, &no_upper),
        Err(PoolError::SnapshotNotFound { .. })
    ));
    assert!(matches!(
        uppers.flush(&no_upper),
        Err(PoolError::UpperNotFound { .. })
    ));
    for item in [Item::Upper(no_upper), Item::Snapshot(no_snapshot)] {
        uppers.delete(&item).unwrap_err();
        uppers.usage(&item).unwrap_err();
    }
    assert_eq!(fs::read(path.join("file")).unwrap(), b"mine");
    assert_eq!(uppers.list().unwrap().uppers, [upper]);
}

#[expect(clippy::needless_pass_by_value, reason = "each case owns its pool")]
fn a_snapshot_is_of_one_instant(pool: TestPool) {
    let uppers = pool.uppers();
    let upper = uppers.create(&upper_id("u")).unwrap().upper;
    for state in ["one", "two"] {
        fs::write(upper.join("file"), state).unwrap();
        uppers.flush(&upper_id("u")).unwrap();
        uppers
            .snapshot(&upper_id("u"), &snapshot_id(state))
            .unwrap();
    }
    fs::write(upper.join("file"), "three").unwrap();
    uppers.delete(&upper_id("u").into()).unwrap();
    for state in ["one", "two"] {
        let clone = uppers
            .clone_snapshot(&snapshot_id(state), &upper_id(state))
            .unwrap()
            .upper;
        assert_eq!(fs::read_to_string(clone.join("file")).unwrap(), state);
        fs::write(clone.join("file"), "changed").unwrap();
        let again = uppers
            .clone_snapshot(&snapshot_id(state), &upper_id(&format!("{state}-again")))
            .unwrap()
            .upper;
        assert_eq!(fs::read_to_string(again.join("file")).unwrap(), state);
    }
}

#[expect(clippy::needless_pass_by_value, reason = "each case owns its pool")]
fn a_clone_starts_clean(pool: TestPool) {
    let uppers = pool.uppers();
    let source = uppers.create(&upper_id("u")).unwrap();
    // What overlayfs leaves, and a sandbox that spoiled its agent.
    fs::create_dir_all(source.work.join("work/#1")).unwrap();
    fs::set_permissions(source.work.join("work"), fs::Permissions::from_mode(0o0)).unwrap();
    fs::create_dir(source.upper.join(".fermata")).unwrap();
    fs::write(source.upper.join(".fermata/agent"), "spoiled").unwrap();
    fs::write(source.upper.join("kept"), "").unwrap();
    uppers.snapshot(&upper_id("u"), &snapshot_id("s")).unwrap();

    let clone = uppers
        .clone_snapshot(&snapshot_id("s"), &upper_id("c"))
        .unwrap();
    assert_eq!(fs::read_dir(&clone.work).unwrap().count(), 0);
    let names: Vec<_> = fs::read_dir(&clone.upper)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["kept"]);
    assert!(source.upper.join(".fermata/agent").exists());
}

#[expect(clippy::needless_pass_by_value, reason = "each case owns its pool")]
fn clones_outlive_their_snapshot(pool: TestPool) {
    let uppers = pool.uppers();
    let upper = uppers.create(&upper_id("u")).unwrap().upper;
    fs::write(upper.join("file"), vec![5; 100_000]).unwrap();
    uppers.snapshot(&upper_id("u"), &snapshot_id("s")).unwrap();
    let clone = uppers
        .clone_snapshot(&snapshot_id("s"), &upper_id("c"))
        .unwrap()
        .upper;
    uppers.delete(&upper_id("u").into()).unwrap();
    uppers.delete(&snapshot_id("s").into()).unwrap();
    assert_eq!(fs::read(clone.join("file")).unwrap(), vec![5; 100_000]);
    let contents = uppers.list().unwrap();
    assert_eq!(
        (contents.uppers, contents.snapshots),
        (vec![upper_id("c")], vec![])
    );
}

fn everything_is_found_again(mut pool: TestPool) {
    let upper = pool.uppers().create(&upper_id("u")).unwrap().upper;
    fs::write(upper.join("file"), "content").unwrap();
    pool.uppers()
        .snapshot(&upper_id("u"), &snapshot_id("s"))
        .unwrap();
    let before = pool.uppers().list().unwrap();
    pool.reopen();
    assert_eq!(pool.uppers().list().unwrap(), before);
    pool.close();
    assert!(!pool.config.directory.join("mnt/subvolumes").exists());
    pool = {
        let config = pool.config.clone();
        let reopened = fermata_pool::Pool::open(config).unwrap();
        assert_eq!(reopened.uppers().list().unwrap(), before);
        let path = reopened.upper(&upper_id("u")).upper.join("file");
        assert_eq!(fs::read_to_string(path).unwrap(), "content");
        reopened.close().unwrap();
        pool
    };
    drop(pool);
}

fn half_made_things_do_not_appear(mut pool: TestPool) {
    let staging = pool.root().join("staging");
    fs::create_dir_all(staging.join("upper-left/upper")).unwrap();
    fs::write(staging.join("a-file"), "").unwrap();
    // As a crash between snapshot and rename leaves it.
    let made = pool.uppers().create(&upper_id("u")).unwrap();
    fs::write(made.upper.join("file"), "").unwrap();
    fs::rename(made.upper.parent().unwrap(), staging.join("u")).unwrap();

    pool.reopen();
    assert_eq!(fs::read_dir(&staging).unwrap().count(), 0);
    assert_eq!(
        pool.uppers().list().unwrap(),
        fermata_pool::Contents::default()
    );
    pool.uppers().create(&upper_id("u")).unwrap();
}

#[expect(clippy::needless_pass_by_value, reason = "each case owns its pool")]
fn every_kind_of_inode_survives(pool: TestPool) {
    let upper = pool.uppers().create(&upper_id("u")).unwrap().upper;
    operation::one_of_everything(&upper);
    fs::write(upper.join("l".repeat(255)), "the longest name").unwrap();
    // What overlayfs writes for a deleted file and for a replaced directory.
    let whiteout = rustix::fs::makedev(0, 0);
    let mode = rustix::fs::Mode::empty();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        upper.join("gone"),
        rustix::fs::FileType::CharacterDevice,
        mode,
        whiteout,
    )
    .unwrap();
    rustix::fs::lsetxattr(
        upper.join("d"),
        "trusted.overlay.opaque",
        b"y",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    let before = listing::of(&upper, Strictness::Holes);
    assert!(
        before
            .values()
            .any(|entry| entry.holes.first().is_some_and(|range| range.0 > 0)),
        "a sparse file"
    );

    pool.uppers()
        .snapshot(&upper_id("u"), &snapshot_id("s"))
        .unwrap();
    let clone = pool
        .uppers()
        .clone_snapshot(&snapshot_id("s"), &upper_id("c"))
        .unwrap()
        .upper;
    assert_same(&before, &listing::of(&clone, Strictness::Holes), "clone");
}

#[expect(clippy::needless_pass_by_value, reason = "each case owns its pool")]
fn usage_counts_blocks_once(pool: TestPool) {
    let id = upper_id("u");
    let upper = pool.uppers().create(&id).unwrap().upper;
    let empty = pool.uppers().usage(&id.clone().into()).unwrap();
    fs::write(upper.join("file"), vec![1; 1 << 20]).unwrap();
    fs::hard_link(upper.join("file"), upper.join("link")).unwrap();
    pool.uppers().flush(&id).unwrap();
    let usage = pool.uppers().usage(&id.clone().into()).unwrap();
    assert_eq!(usage.files, empty.files + 2);
    let grown = usage.bytes - empty.bytes;
    assert!((1 << 20..(1 << 20) + 65536).contains(&grown), "{grown}");
    pool.uppers().snapshot(&id, &snapshot_id("s")).unwrap();
    assert_eq!(
        pool.uppers().usage(&snapshot_id("s").into()).unwrap().files,
        usage.files
    );
}

#[expect(clippy::needless_pass_by_value, reason = "each case owns its pool")]
fn different_ids_do_not_disturb_each_other(pool: TestPool) {
    thread::scope(|scope| {
        for worker in 0..4 {
            let pool = &pool;
            scope.spawn(move || {
                for round in 0..5 {
                    let name = format!("{worker}-{round}");
                    let upper = pool.uppers().create(&upper_id(&name)).unwrap().upper;
                    fs::write(upper.join("file"), &name).unwrap();
                    pool.uppers()
                        .snapshot(&upper_id(&name), &snapshot_id(&name))
                        .unwrap();
                    let clone_name = format!("{name}-clone");
                    let clone = pool
                        .uppers()
                        .clone_snapshot(&snapshot_id(&name), &upper_id(&clone_name))
                        .unwrap();
                    assert_eq!(fs::read_to_string(clone.upper.join("file")).unwrap(), name);
                    pool.uppers().delete(&upper_id(&name).into()).unwrap();
                }
            });
        }
    });
    let contents = pool.uppers().list().unwrap();
    assert_eq!(contents.snapshots.iter().collect::<BTreeSet<_>>().len(), 20);
    assert_eq!(contents.uppers.len(), 20);
}
