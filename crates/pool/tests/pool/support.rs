//! Pools and overlayfs mounts that are gone when a test ends, however it ends.

use std::fs;
use std::path::{Path, PathBuf};

use fermata_pool::{Digest, DriverChoice, Pool, PoolConfig, SnapshotId, Upper, UpperId};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

/// Sparse; the smallest that leaves room for the tests.
pub(crate) const POOL_SIZE: u64 = 1 << 30;

pub(crate) fn upper_id(text: &str) -> UpperId {
    text.parse().unwrap()
}

pub(crate) fn snapshot_id(text: &str) -> SnapshotId {
    text.parse().unwrap()
}

/// A directory below which nothing stays mounted.
#[derive(Debug)]
pub(crate) struct Scratch(TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self(TempDir::with_prefix("fermata-pool-").unwrap())
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let below = table
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .map(Path::new);
        let below: Vec<&Path> = below
            .filter(|path| path.starts_with(self.0.path()))
            .collect();
        for path in below.iter().rev() {
            let _ = unmount(*path, UnmountFlags::DETACH);
        }
    }
}

/// A pool in a scratch directory.
#[derive(Debug)]
pub(crate) struct TestPool {
    // Before the directory: what it holds open is let go first.
    pool: Option<Pool>,
    pub(crate) scratch: Scratch,
    pub(crate) config: PoolConfig,
}

impl TestPool {
    pub(crate) fn new(driver: DriverChoice) -> Self {
        Self::with_size(driver, POOL_SIZE)
    }

    pub(crate) fn with_size(driver: DriverChoice, size: u64) -> Self {
        let scratch = Scratch::new();
        let agent = scratch.path().join("agent");
        fs::write(&agent, "the agent").unwrap();
        let config = PoolConfig {
            directory: scratch.path().join("pool"),
            driver,
            size_bytes: Some(size),
            agent,
            extra_certificates: Vec::new(),
        };
        let pool = Some(Pool::open(config.clone()).unwrap());
        Self {
            pool,
            scratch,
            config,
        }
    }

    /// As after the death of the process: nothing is closed.
    pub(crate) fn reopen(&mut self) {
        self.release();
        self.pool = Some(Pool::open(self.config.clone()).unwrap());
    }

    /// As the process's death: nothing is closed, but the lock is free.
    pub(crate) fn release(&mut self) {
        self.pool = None;
    }

    pub(crate) fn close(&mut self) {
        self.pool.take().unwrap().close().unwrap();
    }

    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.scratch.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    }

    /// Where the driver keeps its things.
    pub(crate) fn root(&self) -> PathBuf {
        let any = self.upper(&upper_id("any")).upper;
        any.ancestors().nth(3).unwrap().to_owned()
    }
}

impl std::ops::Deref for TestPool {
    type Target = Pool;

    fn deref(&self) -> &Pool {
        self.pool.as_ref().unwrap()
    }
}

/// A mounted overlayfs.
#[derive(Debug)]
pub(crate) struct Overlay(PathBuf);

impl Overlay {
    pub(crate) fn mount(pool: &Pool, image: &[Digest], upper: &Upper, target: PathBuf) -> Self {
        let lower = pool.mount_layers(&pool.stack(image)).unwrap();
        let lower: Vec<&str> = lower.iter().map(|path| path.to_str().unwrap()).collect();
        let options = format!(
            "xino=on,lowerdir={},upperdir={},workdir={}",
            lower.join(":"),
            upper.upper.display(),
            upper.work.display()
        );
        fs::create_dir_all(&target).unwrap();
        let options = std::ffi::CString::new(options).unwrap();
        mount(
            "overlay",
            &target,
            "overlay",
            MountFlags::empty(),
            options.as_c_str(),
        )
        .unwrap();
        Self(target)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}
