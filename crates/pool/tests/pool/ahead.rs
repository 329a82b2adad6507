//! Clones that btrfs makes before somebody asks.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use fermata_pool::DriverChoice;

use crate::support::{TestPool, snapshot_id, upper_id};

const LIMIT: Duration = Duration::from_secs(20);

fn names(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}

/// Level-triggered: what is waited for stays so until the test changes it.
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn they_are_as_any_other_clone_and_go_with_their_snapshot() {
    let pool = TestPool::new(DriverChoice::Btrfs);
    let staging = pool.root().join("staging");
    let (source, snapshot) = (upper_id("source"), snapshot_id("s"));
    let upper = pool.uppers().create(&source).unwrap();
    fs::write(upper.upper.join("file"), "held").unwrap();
    fs::write(upper.work.join("leftover"), "").unwrap();
    pool.uppers().snapshot(&source, &snapshot).unwrap();
    fs::write(upper.upper.join("file"), "later").unwrap();

    eventually("clones are made", || names(&staging) >= 2);
    for number in 0..20 {
        let id = upper_id(&format!("clone-{number}"));
        let clone = pool.uppers().clone_snapshot(&snapshot, &id).unwrap();
        assert_eq!(clone, pool.upper(&id));
        assert_eq!(
            fs::read_to_string(clone.upper.join("file")).unwrap(),
            "held"
        );
        assert_eq!(names(&clone.work), 0);
        fs::write(clone.upper.join("file"), "its own").unwrap();
    }
    eventually("more are made", || names(&staging) >= 2);

    pool.uppers().delete(&snapshot.into()).unwrap();
    eventually("none is left", || names(&staging) == 0);
}

#[test]
fn another_process_finds_none_of_them() {
    let mut pool = TestPool::new(DriverChoice::Btrfs);
    let (source, snapshot) = (upper_id("source"), snapshot_id("s"));
    pool.uppers().create(&source).unwrap();
    pool.uppers().snapshot(&source, &snapshot).unwrap();
    let staging = pool.root().join("staging");
    eventually("clones are made", || names(&staging) >= 1);
    pool.reopen();
    assert_eq!(names(&staging), 0);
    assert_eq!(pool.uppers().list().unwrap().uppers, [source]);
}
