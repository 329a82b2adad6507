//! Uppers as btrfs subvolumes.

mod ahead;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use fermata_sys::btrfs;
use rustix::fs::syncfs;
use rustix::io::Errno;

use self::ahead::{Ahead, Workshop};
use super::{Contents, DriverKind, Item, Layout, Upper, UpperDriver, Usage, prepare};
use crate::id::{SnapshotId, UpperId};
use crate::{PoolError, Result, durable, tree};

/// A flush pass shorter than this leaves so little dirty data that another would win nothing.
const SHORT_FLUSH: Duration = Duration::from_millis(20);
/// A sandbox that writes without pause is never clean.
const FLUSH_PASSES: usize = 3;

/// How long deleted subvolumes may take to give their space back before a pool counts as full.
const RECLAIM_LIMIT: Duration = Duration::from_secs(3);
const RECLAIM_STEP: Duration = Duration::from_millis(100);

/// See [`UpperDriver`]. A snapshot or clone is one ioctl, atomic by itself.
#[derive(Debug)]
pub(crate) struct BtrfsDriver {
    subvolumes: Subvolumes,
    ahead: Ahead,
}

/// The directories, and how one gets into them.
#[derive(Debug, Clone)]
struct Subvolumes {
    layout: Layout,
}

impl BtrfsDriver {
    /// `layout` is on btrfs. Clears what an earlier process left in staging.
    pub(crate) fn open(layout: Layout) -> Result<Self> {
        let subvolumes = Subvolumes { layout };
        subvolumes.clear_staging()?;
        let ahead = Ahead::start(subvolumes.clone())?;
        Ok(Self { subvolumes, ahead })
    }

    fn layout(&self) -> &Layout {
        &self.subvolumes.layout
    }
}

impl Subvolumes {
    fn clear_staging(&self) -> Result<()> {
        let staging = self.layout.staging();
        for entry in std::fs::read_dir(&staging).map_err(PoolError::file("list", &staging))? {
            let entry = entry.map_err(PoolError::file("list", &staging))?;
            delete_subvolume(&staging, &entry.file_name())?;
        }
        Ok(())
    }

    /// Wakes the cleaner, which frees what was deleted only now and then. Called when space ran out, and never by a flush
    /// or a snapshot: it would be at work under the freeze.
    fn reclaim(&self) -> Result<()> {
        let root = self.layout.root();
        btrfs::sync(open_directory(root)?.as_fd()).map_err(PoolError::file("sync", root))
    }

    /// Makes a clean subvolume in staging with `make`; its name. When space runs out, what was deleted before is freed first:
    /// btrfs does that when it pleases.
    fn stage(&self, label: &str, make: impl Fn(&File, &OsStr) -> Result<()>) -> Result<OsString> {
        let deadline = Instant::now() + RECLAIM_LIMIT;
        loop {
            match self.try_stage(label, &make) {
                Err(error) if error.is_no_space() && Instant::now() < deadline => {
                    self.reclaim()?;
                    std::thread::sleep(RECLAIM_STEP);
                }
                result => return result,
            }
        }
    }

    fn try_stage(
        &self,
        label: &str,
        make: impl Fn(&File, &OsStr) -> Result<()>,
    ) -> Result<OsString> {
        let staging = self.layout.staging();
        let name = OsString::from(self.layout.unique(label));
        let made = make(&open_directory(&staging)?, &name);
        match made.and_then(|()| prepare(&staging.join(&name))) {
            Ok(()) => Ok(name),
            Err(error) => {
                self.discard(&name);
                Err(error)
            }
        }
    }

    /// Moves what was staged to its place.
    fn place(&self, name: &OsString, id: &UpperId) -> Result<Upper> {
        let target = self.layout.item(&id.clone().into());
        let placed = std::fs::rename(self.layout.staging().join(name), &target)
            .map_err(PoolError::file("rename to", &target));
        if let Err(error) = placed {
            self.discard(name);
            return Err(error);
        }
        Ok(self.layout.upper(id))
    }
}

impl Workshop for Subvolumes {
    fn make(&self, source: &SnapshotId) -> Result<OsString> {
        let path = self.layout.require(&source.clone().into())?;
        let source_directory = open_directory(&path)?;
        self.stage(source.as_str(), |staging, name| {
            btrfs::snapshot_subvolume(staging.as_fd(), name, source_directory.as_fd(), false)
                .map_err(PoolError::file(
                    "make clone",
                    &self.layout.staging().join(name),
                ))
        })
    }

    fn discard(&self, name: &OsString) {
        let staging = self.layout.staging();
        // The error before this one is the one to tell; what stays in staging goes at the next open.
        if staging.join(name).exists()
            && let Err(error) = delete_subvolume(&staging, name)
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a subvolume stays in staging"
            );
        }
    }
}

impl UpperDriver for BtrfsDriver {
    fn kind(&self) -> DriverKind {
        DriverKind::Btrfs
    }

    fn create(&self, id: &UpperId) -> Result<Upper> {
        self.layout().require_absent(&id.clone().into())?;
        let name = self.subvolumes.stage(id.as_str(), |staging, name| {
            btrfs::create_subvolume(staging.as_fd(), name).map_err(PoolError::file(
                "make subvolume",
                &self.layout().staging().join(name),
            ))
        })?;
        self.subvolumes.place(&name, id)
    }

    fn snapshot(&self, source: &UpperId, id: &SnapshotId) -> Result<()> {
        let source_path = self.layout().require(&source.clone().into())?;
        let target = self.layout().require_absent(&id.clone().into())?;
        let source = open_directory(&source_path)?;
        let parent = open_directory(&self.layout().snapshots())?;
        let made = btrfs::snapshot_subvolume(
            parent.as_fd(),
            OsStr::new(id.as_str()),
            source.as_fd(),
            true,
        )
        .map_err(PoolError::file("make snapshot", &target));
        if made.is_ok() {
            self.ahead.want(id);
        }
        self.ahead.go_on();
        made
    }

    fn clone_snapshot(&self, source: &SnapshotId, id: &UpperId) -> Result<Upper> {
        self.layout().require(&source.clone().into())?;
        self.layout().require_absent(&id.clone().into())?;
        let name = match self.ahead.take(source) {
            Some(name) => name,
            None => self.subvolumes.make(source)?,
        };
        self.subvolumes.place(&name, id)
    }

    fn delete(&self, item: &Item) -> Result<()> {
        let path = self.layout().require(item)?;
        if let Item::Snapshot(id) = item {
            for name in self.ahead.forget(id) {
                self.subvolumes.discard(&name);
            }
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(PoolError::file("delete", &path)(Errno::INVAL));
        };
        delete_subvolume(parent, name)
    }

    fn list(&self) -> Result<Contents> {
        self.layout().list()
    }

    fn flush(&self, id: &UpperId) -> Result<()> {
        self.ahead.quiet();
        let path = self.layout().require(&id.clone().into())?;
        let directory = open_directory(&path)?;
        for _ in 0..FLUSH_PASSES {
            let start = Instant::now();
            syncfs(&directory).map_err(PoolError::file("flush", &path))?;
            if start.elapsed() < SHORT_FLUSH {
                break;
            }
        }
        Ok(())
    }

    fn usage(&self, item: &Item) -> Result<Usage> {
        tree::usage(&self.layout().require(item)?)
    }

    fn close(&self) {
        self.ahead.close();
    }
}

fn open_directory(path: &Path) -> Result<File> {
    File::open(path).map_err(PoolError::file("open", path))
}

fn delete_subvolume(parent: &Path, name: &OsStr) -> Result<()> {
    let path = parent.join(name);
    match btrfs::delete_subvolume(open_directory(parent)?.as_fd(), name) {
        // An ordinary directory or file, which no driver makes but a hand may.
        Err(error)
            if matches!(
                Errno::from_io_error(&error),
                Some(Errno::INVAL | Errno::NOTDIR)
            ) =>
        {
            durable::remove(&path)
        }
        result => result.map_err(PoolError::file("delete subvolume", &path)),
    }
}
