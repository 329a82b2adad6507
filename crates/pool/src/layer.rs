//! Immutable EROFS layers, named by digest.
//!
//! ```text
//!   import ──► layers/.new-N ──(sync, rename, sync)──► layers/DIGEST.erofs ──mount──► mounts/DIGEST
//! ```
//!
//! A layer is mounted once on the host, so that every sandbox shares its page cache.

mod erofs;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::durable::{self, Temporary};
use crate::id::Digest;
use crate::{PoolError, Result, mount};

/// What a layer's file name ends with.
const SUFFIX: &str = ".erofs";
/// What a name starts with that is not a layer yet.
const TEMPORARY: &str = ".new-";

/// The layers of a pool.
#[derive(Debug)]
pub struct LayerStore {
    layers: PathBuf,
    mounts: PathBuf,
    /// Those known to be mounted. Held during a mount, so that two callers do not mount the same layer twice.
    mounted: Mutex<HashSet<Digest>>,
    next_temporary: AtomicU64,
}

impl LayerStore {
    /// Opens the layers in `layers` with mount points in `mounts`. Clears what a crash left half-made.
    pub(crate) fn open(layers: PathBuf, mounts: PathBuf) -> Result<Self> {
        durable::create_directory(&layers)?;
        durable::create_directory(&mounts)?;
        let store = Self {
            layers,
            mounts,
            mounted: Mutex::default(),
            next_temporary: AtomicU64::new(0),
        };
        for entry in fs::read_dir(&store.layers).map_err(PoolError::file("list", &store.layers))? {
            let entry = entry.map_err(PoolError::file("list", &store.layers))?;
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                durable::remove(&entry.path())?;
            }
        }
        Ok(store)
    }

    /// Makes a layer from a directory tree. overlayfs's whiteouts and attributes in it keep their meaning.
    pub fn import_directory(&self, tree: &Path) -> Result<Digest> {
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        let new = Temporary::new(self.layers.join(format!("{TEMPORARY}{number}")));
        erofs::make(tree, new.path())?;
        let file = File::open(new.path()).map_err(PoolError::file("open", new.path()))?;
        let digest = Digest::from(erofs::hash(&file, new.path())?);
        // An equal layer is replaced: the one that is there may have been damaged since. Its mount keeps the old file.
        durable::publish(new.path(), &self.file(&digest))?;
        Ok(digest)
    }

    /// Mounts a layer, or finds it mounted, and says where. A layer whose file is cut short is refused.
    pub fn mount(&self, digest: &Digest) -> Result<PathBuf> {
        let target = self.mounts.join(digest.as_str());
        let mut mounted = self.lock();
        if mounted.contains(digest) {
            return Ok(target);
        }
        let file = self.require(digest)?;
        erofs::check(&file).map_err(|error| damaged(digest, error))?;
        durable::create_directory(&target)?;
        // An earlier process may have mounted it.
        if !mount::is_mount_point(&target)? {
            mount::mount_erofs(&file, &target)?;
        }
        mounted.insert(digest.clone());
        Ok(target)
    }

    /// Removes a layer that no image needs. Sandboxes that have it mounted in their own namespaces keep it until they end.
    pub fn remove(&self, digest: &Digest) -> Result<()> {
        let file = self.require(digest)?;
        self.unmount(digest, &mut self.lock())?;
        durable::remove(&file)?;
        durable::sync_directory(&self.layers)
    }

    /// All layers, in order of digest.
    pub fn list(&self) -> Result<Vec<Digest>> {
        let mut digests = Vec::new();
        for entry in fs::read_dir(&self.layers).map_err(PoolError::file("list", &self.layers))? {
            let name = entry
                .map_err(PoolError::file("list", &self.layers))?
                .file_name();
            let digest = name
                .to_str()
                .and_then(|name| name.strip_suffix(SUFFIX))
                .and_then(|name| name.parse().ok());
            digests.extend(digest);
        }
        digests.sort();
        Ok(digests)
    }

    /// Whether the layer is there.
    pub fn contains(&self, digest: &Digest) -> Result<bool> {
        let path = self.file(digest);
        path.try_exists()
            .map_err(PoolError::file("look for", &path))
    }

    /// The size of a layer's file in bytes.
    pub fn size(&self, digest: &Digest) -> Result<u64> {
        let path = self.require(digest)?;
        Ok(fs::metadata(&path)
            .map_err(PoolError::file("look at", &path))?
            .len())
    }

    /// Reads the whole layer and compares it with its name.
    pub fn verify(&self, digest: &Digest) -> Result<()> {
        let path = self.require(digest)?;
        let file = File::open(&path).map_err(PoolError::file("open", &path))?;
        let found = Digest::from(erofs::hash(&file, &path)?);
        if found == *digest {
            return Ok(());
        }
        Err(PoolError::DamagedLayer {
            digest: digest.clone(),
            reason: format!("its content has the digest {found}"),
        })
    }

    /// Unmounts every layer, also those that an earlier process mounted.
    pub fn unmount_all(&self) -> Result<()> {
        let mut mounted = self.lock();
        for entry in fs::read_dir(&self.mounts).map_err(PoolError::file("list", &self.mounts))? {
            let name = entry
                .map_err(PoolError::file("list", &self.mounts))?
                .file_name();
            if let Some(digest) = name.to_str().and_then(|name| name.parse().ok()) {
                self.unmount(&digest, &mut mounted)?;
            }
        }
        Ok(())
    }

    fn unmount(&self, digest: &Digest, mounted: &mut HashSet<Digest>) -> Result<()> {
        let target = self.mounts.join(digest.as_str());
        mount::unmount_if_mounted(&target)?;
        mounted.remove(digest);
        durable::remove(&target)
    }

    fn require(&self, digest: &Digest) -> Result<PathBuf> {
        if self.contains(digest)? {
            Ok(self.file(digest))
        } else {
            Err(PoolError::LayerNotFound {
                digest: digest.clone(),
            })
        }
    }

    fn file(&self, digest: &Digest) -> PathBuf {
        let mut name = OsStr::new(digest.as_str()).to_owned();
        name.push(SUFFIX);
        self.layers.join(name)
    }

    /// A panic in the middle of a mount leaves the set as true as it was.
    fn lock(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.mounted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn damaged(digest: &Digest, error: PoolError) -> PoolError {
    match error {
        PoolError::NotErofs { reason, .. } => PoolError::DamagedLayer {
            digest: digest.clone(),
            reason: reason.to_owned(),
        },
        error => error,
    }
}
