//! Uppers and snapshots: one trait, two ways to keep them.
//!
//! ```text
//!  ROOT/uppers/ID/{upper,work}      writable; one sandbox each
//!  ROOT/snapshots/ID/{upper,work}   immutable
//!  ROOT/staging/…                   half-made and half-removed; emptied at open
//!
//!            create                 snapshot
//!  (staging) ──────► uppers/ID ───────────────► snapshots/ID
//!                       ▲      clone_snapshot       │
//!                       └───────────────────────────┘
//! ```
//!
//! Whatever stands under `uppers` or `snapshots` is complete: it gets there by one rename, or by one atomic ioctl.

mod btrfs;
mod copy;

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

pub(crate) use self::btrfs::BtrfsDriver;
pub(crate) use self::copy::CopyDriver;
use crate::durable;
use crate::id::{SnapshotId, UpperId};
use crate::{PoolError, Result};

/// The directory that overlayfs shows.
const UPPER: &str = "upper";
/// overlayfs's scratch directory.
const WORK: &str = "work";
/// Belongs to the host, not to the image: a sandbox that spoiled it must not spoil those made from its snapshots.
pub(crate) const SYSTEM_DIRECTORY: &str = ".fermata";

/// Which way uppers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriverKind {
    /// Subvolumes and their snapshots: time does not depend on size.
    Btrfs,
    /// Copies, with shared blocks where the filesystem can (`FICLONE`).
    Copy,
}

impl DriverKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Btrfs => "btrfs",
            Self::Copy => "copy",
        }
    }
}

impl fmt::Display for DriverKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Where an upper's two directories are; both on one mount, as overlayfs needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upper {
    /// `upperdir=`
    pub upper: PathBuf,
    /// `workdir=`
    pub work: PathBuf,
}

/// Something that takes space.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Item {
    /// A writable upper.
    Upper(UpperId),
    /// An immutable snapshot.
    Snapshot(SnapshotId),
}

impl fmt::Display for Item {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upper(id) => write!(formatter, "upper {id}"),
            Self::Snapshot(id) => write!(formatter, "snapshot {id}"),
        }
    }
}

impl From<UpperId> for Item {
    fn from(id: UpperId) -> Self {
        Self::Upper(id)
    }
}

impl From<SnapshotId> for Item {
    fn from(id: SnapshotId) -> Self {
        Self::Snapshot(id)
    }
}

/// What a file tree takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Allocated bytes, blocks shared with other snapshots included.
    pub bytes: u64,
    /// Names of any kind.
    pub files: u64,
}

/// Everything a driver holds, in order of name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents {
    /// The writable uppers.
    pub uppers: Vec<UpperId>,
    /// The snapshots.
    pub snapshots: Vec<SnapshotId>,
}

/// Keeps uppers and snapshots. Every call either has its whole effect or none; what a crash leaves half-made never appears.
///
/// All calls block; different ids may be worked on at once.
pub trait UpperDriver: fmt::Debug + Send + Sync + 'static {
    /// Which one this is.
    fn kind(&self) -> DriverKind;

    /// Makes an empty upper. It survives a power cut from the next [`UpperDriver::flush`] on.
    fn create(&self, id: &UpperId) -> Result<Upper>;

    /// Holds what `source` has at this instant as a new snapshot; on disk when this returns. The caller sees to it that
    /// nothing writes meanwhile (freeze) and that little is left to write out ([`UpperDriver::flush`] before).
    fn snapshot(&self, source: &UpperId, id: &SnapshotId) -> Result<()>;

    /// Makes an upper with the content of a snapshot and a clean work directory. The system's own directory in it is
    /// forgotten, so that the layer below shows through.
    fn clone_snapshot(&self, source: &SnapshotId, id: &UpperId) -> Result<Upper>;

    /// Forgets an upper or a snapshot. The clones of a snapshot stay whole. Space may come back only seconds later.
    fn delete(&self, item: &Item) -> Result<()>;

    /// What is there.
    fn list(&self) -> Result<Contents>;

    /// Writes an upper's data out while it is in use, so that a snapshot soon after has little left to do.
    fn flush(&self, id: &UpperId) -> Result<()>;

    /// Counts by walking the tree: 50,000 files take half a second, so never do it under a freeze.
    fn usage(&self, item: &Item) -> Result<Usage>;

    /// Ends what it does in the background, so that its file system can be unmounted.
    fn close(&self);
}

/// The directories that both drivers share.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
    next: Arc<AtomicU64>,
}

impl Layout {
    /// Makes what is missing.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let layout = Self {
            root: root.to_owned(),
            next: Arc::default(),
        };
        for directory in [layout.uppers(), layout.snapshots(), layout.staging()] {
            durable::create_directory(&directory)?;
        }
        // Files of sandboxes may be setuid: nobody but root may reach them from the host.
        fs::set_permissions(root, fs::Permissions::from_mode(0o700))
            .map_err(PoolError::file("protect", root))?;
        Ok(layout)
    }

    pub(crate) fn uppers(&self) -> PathBuf {
        self.root.join("uppers")
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// A name in staging that nobody else uses, so that a leftover is never in the way.
    fn unique(&self, name: &str) -> String {
        format!("{}-{name}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn item(&self, item: &Item) -> PathBuf {
        match item {
            Item::Upper(id) => self.uppers().join(id.as_str()),
            Item::Snapshot(id) => self.snapshots().join(id.as_str()),
        }
    }

    pub(crate) fn upper(&self, id: &UpperId) -> Upper {
        let directory = self.uppers().join(id.as_str());
        Upper {
            upper: directory.join(UPPER),
            work: directory.join(WORK),
        }
    }

    /// The content of a snapshot, as overlayfs left it.
    pub(crate) fn snapshot_tree(&self, id: &SnapshotId) -> PathBuf {
        self.snapshots().join(id.as_str()).join(UPPER)
    }

    pub(crate) fn list(&self) -> Result<Contents> {
        Ok(Contents {
            uppers: names(&self.uppers())?,
            snapshots: names(&self.snapshots())?,
        })
    }

    /// `NotFound` unless the item is there.
    pub(crate) fn require(&self, item: &Item) -> Result<PathBuf> {
        let path = self.item(item);
        if exists(&path)? {
            return Ok(path);
        }
        Err(match item.clone() {
            Item::Upper(id) => PoolError::UpperNotFound { id },
            Item::Snapshot(id) => PoolError::SnapshotNotFound { id },
        })
    }

    /// `Exists` when the item is there.
    pub(crate) fn require_absent(&self, item: &Item) -> Result<PathBuf> {
        let path = self.item(item);
        if !exists(&path)? {
            return Ok(path);
        }
        Err(match item.clone() {
            Item::Upper(id) => PoolError::UpperExists { id },
            Item::Snapshot(id) => PoolError::SnapshotExists { id },
        })
    }
}

fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(PoolError::file("look for", path))
}

fn names<T: FromStr + Ord>(directory: &Path) -> Result<Vec<T>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(PoolError::file("list", directory))? {
        let entry = entry.map_err(PoolError::file("list", directory))?;
        // What is not a valid id was not made by a driver.
        if let Some(name) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Gives a new or cloned tree the two directories in their first state.
fn prepare(directory: &Path) -> Result<()> {
    let (upper, work) = (directory.join(UPPER), directory.join(WORK));
    // The work directory of a clone holds overlayfs's leftovers of the source, marked as in use by it.
    durable::remove(&work)?;
    make_directory(&work)?;
    if exists(&upper)? {
        return durable::remove(&upper.join(SYSTEM_DIRECTORY));
    }
    // The upper directory's mode is that of `/` inside.
    make_directory(&upper)
}

fn make_directory(path: &Path) -> Result<()> {
    fs::create_dir(path).map_err(PoolError::file("make directory", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .map_err(PoolError::file("set mode of", path))
}
