//! The death of the process at any instant.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use fermata_pool::{DriverChoice, Pool, PoolConfig, PoolError};
use rustix::mount::{UnmountFlags, mount_bind, unmount};

use crate::listing::{self, Strictness, assert_same};
use crate::operation;
use crate::support::{TestPool, snapshot_id, upper_id};

fn loop_devices(backing: &Path) -> usize {
    let devices = fs::read_dir("/sys/block").unwrap();
    let files = devices.filter_map(|entry| {
        fs::read_to_string(entry.unwrap().path().join("loop/backing_file")).ok()
    });
    files
        .filter(|text| Path::new(text.trim_end()) == backing)
        .count()
}

#[test]
fn a_pool_has_one_owner() {
    let mut pool = TestPool::new(DriverChoice::Copy);
    assert!(
        matches!(Pool::open(pool.config.clone()), Err(PoolError::InUse { path }) if path == pool.config.directory)
    );
    pool.close();
    Pool::open(pool.config.clone()).unwrap().close().unwrap();
}

#[test]
fn the_device_is_not_attached_twice() {
    let mut pool = TestPool::new(DriverChoice::Btrfs);
    let image = pool.config.directory.join("pool.btrfs");
    let upper = pool.uppers().create(&upper_id("u")).unwrap().upper;
    fs::write(upper.join("file"), "content").unwrap();
    assert_eq!(loop_devices(&image), 1);
    pool.reopen();
    assert_eq!(loop_devices(&image), 1);

    // A sandbox that runs on holds the filesystem in a namespace of its own; a bind mount does as well.
    let elsewhere = pool.directory("elsewhere");
    mount_bind(pool.config.directory.join("mnt"), &elsewhere).unwrap();
    pool.close();
    assert_eq!(loop_devices(&image), 1);
    let reopened = Pool::open(pool.config.clone()).unwrap();
    assert_eq!(loop_devices(&image), 1);
    assert_eq!(
        fs::read_to_string(reopened.upper(&upper_id("u")).upper.join("file")).unwrap(),
        "content"
    );

    unmount(&elsewhere, UnmountFlags::empty()).unwrap();
    reopened.close().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while loop_devices(&image) > 0 {
        assert!(
            std::time::Instant::now() < deadline,
            "the device is still attached"
        );
        std::thread::yield_now();
    }
}

#[test]
fn remains_of_layers_are_cleared() {
    let mut pool = TestPool::new(DriverChoice::Copy);
    let layers = pool.config.directory.join("layers");
    let staging = pool.config.directory.join("staging");
    fs::write(layers.join(".new-3"), "half").unwrap();
    // A base build that was killed with something of the host's mounted in it.
    let precious = pool.directory("precious");
    fs::write(precious.join("file"), "").unwrap();
    fs::create_dir_all(staging.join("base-1/dev")).unwrap();
    mount_bind(&precious, staging.join("base-1/dev")).unwrap();

    pool.reopen();
    assert!(!layers.join(".new-3").exists());
    assert_eq!(fs::read_dir(&staging).unwrap().count(), 0);
    assert!(precious.join("file").exists());
}

/// The part of [`killed_while_taking_snapshots`] that is killed: takes snapshots and says so, for ever.
#[test]
#[ignore = "is started by another test"]
fn child() {
    let Ok(directory) = std::env::var("FERMATA_TEST_POOL") else {
        return;
    };
    let driver = match std::env::var("FERMATA_TEST_DRIVER").as_deref() {
        Ok("btrfs") => DriverChoice::Btrfs,
        _ => DriverChoice::Copy,
    };
    let agent = Path::new(&directory).with_file_name("agent");
    let config = PoolConfig {
        directory: directory.into(),
        driver,
        size_bytes: None,
        agent,
        extra_certificates: Vec::new(),
    };
    let pool = Pool::open(config).unwrap();
    for number in 0.. {
        let (clone, snapshot) = (
            upper_id(&format!("c{number}")),
            snapshot_id(&format!("s{number}")),
        );
        pool.uppers().snapshot(&upper_id("u"), &snapshot).unwrap();
        pool.uppers().clone_snapshot(&snapshot, &clone).unwrap();
        // To stderr, which no test harness captures in another process.
        eprintln!("took {number}");
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn killed_while_taking_snapshots(driver: DriverChoice, name: &str) {
    let mut pool = TestPool::new(driver);
    let upper = pool.uppers().create(&upper_id("u")).unwrap().upper;
    operation::one_of_everything(&upper);
    for number in 0..300 {
        fs::write(upper.join(format!("file-{number}")), [3; 5000]).unwrap();
    }
    let whole = listing::of(&upper, Strictness::Holes);
    for after in [1, 2, 4] {
        // The lock goes from hand to hand.
        pool.release();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "crash::child", "--ignored", "--nocapture"]);
        command
            .env("FERMATA_TEST_POOL", &pool.config.directory)
            .env("FERMATA_TEST_DRIVER", name);
        let mut child = Killed(
            command
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let lines = BufReader::new(child.0.stderr.take().unwrap()).lines();
        let taken = lines
            .map(Result::unwrap)
            .filter(|line| line.starts_with("took "))
            .take(after)
            .count();
        drop(child);
        assert_eq!(taken, after, "the child ended too early");

        pool.reopen();
        let contents = pool.uppers().list().unwrap();
        assert!(contents.snapshots.len() >= after);
        for id in contents.snapshots {
            let clone = upper_id("check");
            let path = pool.uppers().clone_snapshot(&id, &clone).unwrap().upper;
            assert_same(&whole, &listing::of(&path, Strictness::Holes), id.as_str());
            pool.uppers().delete(&clone.into()).unwrap();
            pool.uppers().delete(&id.into()).unwrap();
        }
        for id in contents.uppers {
            assert_same(
                &whole,
                &listing::of(&pool.upper(&id).upper, Strictness::Holes),
                id.as_str(),
            );
            if id != upper_id("u") {
                pool.uppers().delete(&id.into()).unwrap();
            }
        }
    }
}

#[test]
fn killed_while_btrfs_takes_snapshots() {
    killed_while_taking_snapshots(DriverChoice::Btrfs, "btrfs");
}

#[test]
fn killed_while_copies_are_made() {
    killed_while_taking_snapshots(DriverChoice::Copy, "copy");
}
