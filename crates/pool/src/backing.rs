//! The pool's own btrfs: a sparse image file, attached to a loop device, mounted in the data directory.
//!
//! ```text
//!   DIR/pool.btrfs ──LOOP_CONFIGURE──► /dev/loopN ──mount──► DIR/mnt
//! ```
//!
//! Three choices make a snapshot fast (`examples/snapshot_timing.rs` measures them; 500 MB written just before):
//! - **Direct I/O** of the loop device: the data is not cached twice, and the flush at a commit has nothing to write.
//!   0.4 s instead of 2 s.
//! - **Early writeback** ([`DIRTY_LIMIT`]): the disk works while the sandbox writes. 0.2 s instead of 0.4 s.
//! - **Single metadata**: a second copy in the same file on the same disk protects from little and doubles the work.
//!
//! One makes a full pool bearable: metadata has room of its own from the start ([`give_metadata_room`]). btrfs hands space to
//! data or metadata in chunks; with the 8 MiB for metadata that mkfs leaves, data takes all the rest, and then neither a
//! sandbox can be made nor, for half a minute after files were deleted, anything be written.
//!
//! Barriers and checksums stay on: after a power cut btrfs is consistent, and a snapshot that was answered is there.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use fermata_sys::loop_device::{LoopDevice, Options};
use rustix::fs::{statfs, statvfs};
use rustix::mount::{FsOpenFlags, MountAttrFlags, fsopen};

use crate::durable::{self, Temporary};
use crate::{PoolError, Result, mount, program};

const IMAGE: &str = "pool.btrfs";
const MOUNT_POINT: &str = "mnt";

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// More is never taken unasked.
const DEFAULT_SIZE: u64 = 64 * GIB;
/// Less is of no use for sandboxes.
const MINIMUM_DEFAULT_SIZE: u64 = 2 * GIB;
/// Below this data and metadata share their chunks (`--mixed`, mkfs.btrfs(8)): chunks of their own would be too large a part.
const MIXED_BELOW: u64 = 4 * GIB;
/// `BTRFS_SUPER_MAGIC`
const BTRFS_MAGIC: u64 = 0x9123_683E;
/// Dirty data of the pool beyond which writers wait for the disk; writing out starts at half of it.
const DIRTY_LIMIT: u64 = 512 * MIB;

/// Whether `path` is on btrfs already.
pub(crate) fn is_on_btrfs(path: &Path) -> Result<bool> {
    let found = statfs(path).map_err(PoolError::file("look at the filesystem of", path))?;
    Ok(u64::try_from(found.f_type).is_ok_and(|magic| magic == BTRFS_MAGIC))
}

/// Whether a pool's image has been made in `directory`.
pub(crate) fn exists(directory: &Path) -> Result<bool> {
    let image = directory.join(IMAGE);
    image
        .try_exists()
        .map_err(PoolError::file("look for", &image))
}

/// Why a pool's image could not be made or mounted on this host, if so.
pub(crate) fn missing_on_this_host() -> Option<String> {
    // Loads the module where there is one.
    if let Err(error) = fsopen("btrfs", FsOpenFlags::FSOPEN_CLOEXEC) {
        return Some(format!("the kernel has no btrfs ({error})"));
    }
    if let Err(error) = File::open("/dev/loop-control") {
        return Some(format!("there are no loop devices ({error})"));
    }
    match Command::new("mkfs.btrfs").arg("--version").output() {
        Ok(_) => None,
        Err(error) => Some(format!(
            "mkfs.btrfs cannot be run ({error}); install btrfs-progs"
        )),
    }
}

/// A mounted pool image.
#[derive(Debug)]
pub(crate) struct Backing {
    mount_point: PathBuf,
}

impl Backing {
    /// Makes, attaches and mounts whatever of it is missing; an earlier process may have left it mounted.
    pub(crate) fn open(directory: &Path, size: Option<u64>) -> Result<Self> {
        let image = directory.join(IMAGE);
        let mount_point = directory.join(MOUNT_POINT);
        durable::create_directory(&mount_point)?;
        if mount::is_mount_point(&mount_point)? {
            return Ok(Self { mount_point });
        }
        let mut chunks_of_new = None;
        if !exists(directory)? {
            chunks_of_new = Some(make(directory, &image, size)?);
        }
        let device = attach(&image)?;
        mount::mount(
            "btrfs",
            device.path(),
            &mount_point,
            &[],
            MountAttrFlags::MOUNT_ATTR_NOATIME,
        )
        .map_err(PoolError::file("mount", &image))?;
        if chunks_of_new == Some(Chunks::Separate) {
            give_metadata_room(&mount_point)?;
        }
        if let Err(error) = limit_dirty_data(device.path()) {
            // Only speed is lost: kernels before 6.2 lack the files.
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "early writeback is off"
            );
        }
        Ok(Self { mount_point })
    }

    pub(crate) fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// Unmounts; the device then detaches by itself.
    pub(crate) fn close(&self) -> Result<()> {
        mount::unmount_if_mounted(&self.mount_point)
    }
}

/// How a filesystem's space is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunks {
    /// To data or to metadata.
    Separate,
    /// To both.
    Mixed,
}

fn make(directory: &Path, image: &Path, size: Option<u64>) -> Result<Chunks> {
    let size = match size {
        Some(size) => size,
        None => default_size(directory)?,
    };
    let chunks = if size < MIXED_BELOW {
        Chunks::Mixed
    } else {
        Chunks::Separate
    };
    let new = Temporary::new(directory.join(format!(".new-{IMAGE}")));
    durable::remove(new.path())?;
    File::create_new(new.path())
        .and_then(|file| file.set_len(size))
        .map_err(PoolError::file("make", new.path()))?;
    let mut command = Command::new("mkfs.btrfs");
    command.args(["--quiet", "--metadata", "single", "--label", "fermata"]);
    if chunks == Chunks::Mixed {
        command.args(["--mixed", "--data", "single"]);
    }
    command.arg(new.path());
    program::run("mkfs.btrfs", &mut command)?;
    durable::sync_file(new.path())?;
    durable::publish(new.path(), image)?;
    Ok(chunks)
}

/// Moves the metadata, of which there is next to none yet, into chunks of the size that the kernel chooses for this filesystem:
/// 256 MiB or 1 GiB instead of mkfs's 8 MiB.
fn give_metadata_room(mount_point: &Path) -> Result<()> {
    let mut command = Command::new("btrfs");
    command.args(["balance", "start", "-m"]).arg(mount_point);
    program::run("btrfs", &mut command)
}

fn default_size(directory: &Path) -> Result<u64> {
    let space =
        statvfs(directory).map_err(PoolError::file("look at the filesystem of", directory))?;
    let available = space.f_bavail.saturating_mul(space.f_frsize);
    let size = DEFAULT_SIZE.min(available / 5 * 4);
    if size < MINIMUM_DEFAULT_SIZE {
        return Err(PoolError::TooLittleSpace {
            needed: MINIMUM_DEFAULT_SIZE / 4 * 5,
            available,
        });
    }
    // Whole MiB, for a size that people can read.
    Ok(size / MIB * MIB)
}

fn attach(image: &Path) -> Result<LoopDevice> {
    let canonical = image
        .canonicalize()
        .map_err(PoolError::file("find", image))?;
    // Mounts of sandboxes that outlived the last process hold the device; a second one would corrupt the filesystem.
    if let Some(device) = LoopDevice::find(&canonical)
        .map_err(PoolError::file("look for the loop device of", image))?
    {
        return Ok(device);
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&canonical)
        .map_err(PoolError::file("open", image))?;
    // 4096 is btrfs's sector size, and what a disk with large sectors needs for direct I/O.
    let options = Options {
        direct_io: true,
        block_size: 4096,
        read_only: false,
    };
    let attached = match LoopDevice::attach(file.as_fd(), options) {
        // Before Linux 5.10 or so this is how a filesystem without direct I/O shows; later the kernel falls back by itself.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => LoopDevice::attach(
            file.as_fd(),
            Options {
                direct_io: false,
                ..options
            },
        ),
        result => result,
    };
    attached.map_err(PoolError::file("attach", image))
}

/// `max_bytes` counts for a device only with `strict_limit` (kernel: Documentation/ABI/testing/sysfs-class-bdi).
fn limit_dirty_data(device: &Path) -> io::Result<()> {
    let name = device.file_name().unwrap_or_default();
    for entry in fs::read_dir("/sys/fs/btrfs")? {
        let filesystem = entry?.path();
        if filesystem.join("devices").join(name).exists() {
            let settings = filesystem.join("bdi");
            fs::write(settings.join("strict_limit"), "1")?;
            return fs::write(settings.join("max_bytes"), DIRTY_LIMIT.to_string());
        }
    }
    Err(io::ErrorKind::NotFound.into())
}
