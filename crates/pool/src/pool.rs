//! The pool: its directory, and what is opened and closed in which order.
//!
//! ```text
//!   DIR/lock                    one process at a time
//!   DIR/pool.btrfs, DIR/mnt     uppers and snapshots on a btrfs of our own (crate::backing)
//!   DIR/subvolumes              … or here, when DIR is on btrfs
//!   DIR/copy                    … or here, with the copy driver
//!   DIR/layers, DIR/mounts      EROFS layers (crate::layer)
//!   DIR/recipes                 which layer came out of which recipe
//!   DIR/staging                 trees on their way to a layer; emptied at open
//! ```

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fermata_sys::file_lock::lock_exclusively;
use rustix::fs::statvfs;

use crate::backing::{self, Backing};
use crate::base::{self, BaseImage};
use crate::driver::{BtrfsDriver, CopyDriver, DriverKind, Layout, Upper, UpperDriver};
use crate::id::{Digest, SnapshotId, UpperId};
use crate::layer::LayerStore;
use crate::recipe::Recipes;
use crate::system::SystemLayers;
use crate::{PoolError, Result, durable, mount, tree};

/// Which driver to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DriverChoice {
    /// What the pool has been made with; for a new one btrfs where it can be had, else copy.
    #[default]
    Auto,
    /// btrfs or an error.
    Btrfs,
    /// Copies, also where btrfs could be had.
    Copy,
}

/// How a pool is set up.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// Everything is under here; made when missing.
    pub directory: PathBuf,
    /// How uppers are kept.
    pub driver: DriverChoice,
    /// Size of a new btrfs image, which is sparse: `None` for 80 % of the free space, at most 64 GiB.
    pub size_bytes: Option<u64>,
    /// The agent program that sandboxes start.
    pub agent: PathBuf,
    /// PEM files of certificate authorities that the base image is to trust beside the usual ones.
    pub extra_certificates: Vec<PathBuf>,
}

/// Room in the pool and under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that the pool's filesystem has.
    pub total: u64,
    /// Bytes of it that are free.
    pub free: u64,
    /// Bytes free on the filesystem of the data directory. A sparse image can run out of these first; writing to the pool
    /// then fails as if the disk were broken, so stop making sandboxes before that.
    pub host_free: u64,
}

/// An open pool. Dropping it leaves everything mounted for sandboxes that run on; [`Pool::close`] undoes the mounts.
#[derive(Debug)]
pub struct Pool {
    driver: Box<dyn UpperDriver>,
    layout: Layout,
    layers: LayerStore,
    recipes: Recipes,
    system: SystemLayers,
    backing: Option<Backing>,
    directory: PathBuf,
    extra_certificates: Vec<PathBuf>,
    _lock: File,
}

impl Pool {
    /// Opens a pool, making what is missing, finding again what an earlier process mounted, and clearing what it left
    /// half-made.
    pub fn open(config: PoolConfig) -> Result<Self> {
        durable::create_directory(&config.directory)?;
        // Mount points are compared with what the kernel says.
        let directory = config
            .directory
            .canonicalize()
            .map_err(PoolError::file("find", &config.directory))?;
        let lock = lock(&directory)?;
        let staging = directory.join("staging");
        clear_staging(&staging)?;

        let layers = LayerStore::open(directory.join("layers"), directory.join("mounts"))?;
        let recipes = Recipes::open(directory.join("recipes"))?;
        let system = SystemLayers::open(&config.agent, &staging, &layers, &recipes)?;
        let (driver, layout, backing) = open_driver(&directory, config.driver, config.size_bytes)?;
        Ok(Self {
            driver,
            layout,
            layers,
            recipes,
            system,
            backing,
            directory,
            extra_certificates: config.extra_certificates,
            _lock: lock,
        })
    }

    /// Unmounts layers and pool. The loop device detaches when the last sandbox that still uses the pool has ended.
    pub fn close(&self) -> Result<()> {
        self.driver.close();
        self.layers.unmount_all()?;
        match &self.backing {
            Some(backing) => backing.close(),
            None => Ok(()),
        }
    }

    /// Uppers and snapshots.
    #[must_use]
    pub fn uppers(&self) -> &dyn UpperDriver {
        &*self.driver
    }

    /// Makes an empty upper for an image. The upper's own directory is what overlayfs shows as `/`, so it gets mode, owner
    /// and times of the image's uppermost layer (the first).
    pub fn create_upper(&self, id: &UpperId, image: &[Digest]) -> Result<Upper> {
        let top = image
            .first()
            .map(|digest| self.layers.mount(digest))
            .transpose()?;
        let upper = self.driver.create(id)?;
        if let Some(top) = top
            && let Err(error) = tree::copy_root_metadata(&top, &upper.upper)
        {
            self.driver.delete(&id.clone().into())?;
            return Err(error);
        }
        Ok(upper)
    }

    /// Which driver it is.
    #[must_use]
    pub fn driver(&self) -> DriverKind {
        self.driver.kind()
    }

    /// Where the directories of an upper are; says nothing about whether it exists.
    #[must_use]
    pub fn upper(&self, id: &UpperId) -> Upper {
        self.layout.upper(id)
    }

    /// The layers.
    #[must_use]
    pub fn layers(&self) -> &LayerStore {
        &self.layers
    }

    /// What a new sandbox from an image stands on, uppermost first, as overlayfs wants it: the agent, the image's own layers
    /// (uppermost first), the skeleton. A memory snapshot keeps this list: its processes have these files open.
    #[must_use]
    pub fn stack(&self, image: &[Digest]) -> Vec<Digest> {
        std::iter::once(&self.system.agent)
            .chain(image)
            .chain(std::iter::once(&self.system.skeleton))
            .cloned()
            .collect()
    }

    /// Mounts layers and says where, in the same order.
    pub fn mount_layers(&self, layers: &[Digest]) -> Result<Vec<PathBuf>> {
        layers
            .iter()
            .map(|digest| self.layers.mount(digest))
            .collect()
    }

    /// Makes a layer of a snapshot's upper; it goes on top of the layers of the image that the sandbox ran from.
    pub fn bake(&self, id: &SnapshotId) -> Result<Digest> {
        self.layout.require(&id.clone().into())?;
        self.layers.import_directory(&self.layout.snapshot_tree(id))
    }

    /// The Debian base image; made when it is missing, which takes a while. `progress` gets a line per step.
    pub fn base_image(&self, progress: &mut dyn FnMut(&str)) -> Result<BaseImage> {
        let kitchen = base::Kitchen {
            staging: &self.directory.join("staging"),
            layers: &self.layers,
            recipes: &self.recipes,
            extra_certificates: &self.extra_certificates,
        };
        base::build(&kitchen, progress)
    }

    /// Room left.
    pub fn space(&self) -> Result<Space> {
        let room = |path: &Path| {
            let found =
                statvfs(path).map_err(PoolError::file("look at the filesystem of", path))?;
            Ok((
                found.f_blocks * found.f_frsize,
                found.f_bavail * found.f_frsize,
            ))
        };
        let (total, free) = room(self.layout.root())?;
        let (_, host_free) = room(&self.directory)?;
        Ok(Space {
            total,
            free,
            host_free,
        })
    }
}

fn lock(directory: &Path) -> Result<File> {
    let path = directory.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(PoolError::file("open", &path))?;
    // For what a killed process was just starting.
    const PATIENCE: Duration = Duration::from_secs(3);
    if lock_exclusively(&file, PATIENCE).map_err(PoolError::file("lock", &path))? {
        Ok(file)
    } else {
        Err(PoolError::InUse {
            path: directory.to_owned(),
        })
    }
}

fn clear_staging(staging: &Path) -> Result<()> {
    durable::create_directory(staging)?;
    // A base build that was killed may have left the host's /dev or /proc mounted in its tree.
    mount::unmount_below(staging)?;
    for entry in fs::read_dir(staging).map_err(PoolError::file("list", staging))? {
        durable::remove(&entry.map_err(PoolError::file("list", staging))?.path())?;
    }
    Ok(())
}

type OpenDriver = (Box<dyn UpperDriver>, Layout, Option<Backing>);

fn open_driver(directory: &Path, choice: DriverChoice, size: Option<u64>) -> Result<OpenDriver> {
    let copy = directory.join("copy");
    let kind = match choice {
        DriverChoice::Btrfs => DriverKind::Btrfs,
        DriverChoice::Copy => DriverKind::Copy,
        // Snapshots must not vanish because a program was removed or installed: what is there decides.
        DriverChoice::Auto
            if copy
                .try_exists()
                .map_err(PoolError::file("look for", &copy))? =>
        {
            DriverKind::Copy
        }
        DriverChoice::Auto => DriverKind::Btrfs,
    };
    if kind == DriverKind::Copy {
        return open_copy(&copy);
    }
    if backing::is_on_btrfs(directory)? {
        let layout = Layout::open(&directory.join("subvolumes"))?;
        return Ok((Box::new(BtrfsDriver::open(layout.clone())?), layout, None));
    }
    if !backing::exists(directory)?
        && let Some(reason) = backing::missing_on_this_host()
    {
        if choice == DriverChoice::Btrfs {
            return Err(PoolError::DriverUnavailable {
                driver: DriverKind::Btrfs.name(),
                reason,
            });
        }
        tracing::warn!(
            reason,
            "no btrfs here: snapshots are copies, slower and larger"
        );
        return open_copy(&copy);
    }
    let backing = Backing::open(directory, size)?;
    // Its own directory: the root of a btrfs cannot be told apart from an empty mount point.
    let layout = Layout::open(&backing.mount_point().join("subvolumes"))?;
    Ok((
        Box::new(BtrfsDriver::open(layout.clone())?),
        layout,
        Some(backing),
    ))
}

fn open_copy(root: &Path) -> Result<OpenDriver> {
    let layout = Layout::open(root)?;
    Ok((Box::new(CopyDriver::open(layout.clone())?), layout, None))
}
