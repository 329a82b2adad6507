//! Uppers as plain directories, for hosts without btrfs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::syncfs;

use super::{Contents, DriverKind, Item, Layout, Upper, UpperDriver, Usage, prepare};
use crate::durable::{self, Temporary};
use crate::id::{SnapshotId, UpperId};
use crate::{PoolError, Result, tree};

/// See [`UpperDriver`]. Works in staging, syncs, renames.
#[derive(Debug)]
pub(crate) struct CopyDriver {
    layout: Layout,
}

impl CopyDriver {
    /// Clears what a crash left half-made or half-removed.
    pub(crate) fn open(layout: Layout) -> Result<Self> {
        let staging = layout.staging();
        for entry in fs::read_dir(&staging).map_err(PoolError::file("list", &staging))? {
            durable::remove(&entry.map_err(PoolError::file("list", &staging))?.path())?;
        }
        Ok(Self { layout })
    }

    fn staged(&self, item: &Item) -> Temporary {
        let name = match item {
            Item::Upper(id) => format!("upper-{id}"),
            Item::Snapshot(id) => format!("snapshot-{id}"),
        };
        Temporary::new(self.layout.staging().join(self.layout.unique(&name)))
    }

    /// Everything, the names included; a copy has no cheaper point of truth.
    fn sync(&self) -> Result<()> {
        let root = self.layout.root();
        File::open(root)
            .and_then(|root| syncfs(&root).map_err(Into::into))
            .map_err(PoolError::file("sync the filesystem of", root))
    }

    fn copy(&self, source: &Item, target: &Item) -> Result<(Temporary, PathBuf)> {
        let source = self.layout.require(source)?;
        let path = self.layout.require_absent(target)?;
        let staged = self.staged(target);
        tree::copy(&source, staged.path())?;
        Ok((staged, path))
    }
}

impl UpperDriver for CopyDriver {
    fn kind(&self) -> DriverKind {
        DriverKind::Copy
    }

    fn create(&self, id: &UpperId) -> Result<Upper> {
        let item = Item::from(id.clone());
        let target = self.layout.require_absent(&item)?;
        let staged = self.staged(&item);
        fs::create_dir(staged.path()).map_err(PoolError::file("make directory", staged.path()))?;
        prepare(staged.path())?;
        rename(staged.path(), &target)?;
        Ok(self.layout.upper(id))
    }

    fn snapshot(&self, source: &UpperId, id: &SnapshotId) -> Result<()> {
        let (staged, target) = self.copy(&source.clone().into(), &id.clone().into())?;
        self.sync()?;
        durable::publish(staged.path(), &target)
    }

    fn clone_snapshot(&self, source: &SnapshotId, id: &UpperId) -> Result<Upper> {
        let (staged, target) = self.copy(&source.clone().into(), &id.clone().into())?;
        prepare(staged.path())?;
        rename(staged.path(), &target)?;
        Ok(self.layout.upper(id))
    }

    fn delete(&self, item: &Item) -> Result<()> {
        let path = self.layout.require(item)?;
        // Away from its name first, so that a crash in the middle leaves no half of it there.
        let staged = self.staged(item);
        rename(&path, staged.path())?;
        durable::remove(staged.path())
    }

    fn list(&self) -> Result<Contents> {
        self.layout.list()
    }

    fn flush(&self, id: &UpperId) -> Result<()> {
        self.layout.require(&id.clone().into())?;
        self.sync()
    }

    fn usage(&self, item: &Item) -> Result<Usage> {
        tree::usage(&self.layout.require(item)?)
    }

    /// It does nothing in the background.
    fn close(&self) {}
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(PoolError::file("rename to", to))
}
