//! Which of several daemons on one machine this is: its number names its interfaces, its table and its addresses.
//!
//! A claim is a file with the run directory and the boot it was made in, locked while the daemon lives. It outlives a daemon
//! that leaves sandboxes behind; the next one with the same run directory finds it again.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fermata_sys::file_lock::lock_exclusively;
use rustix::fs::{FlockOperation, flock};

use super::INTERFACE_PREFIX;
use super::cidr::Cidr;
use super::namespace::file;
use crate::RuntimeError;

/// How many there can be; a power of two, that many parts the transfer range is cut into.
const INSTANCES: u8 = 1 << INSTANCE_BITS;
const INSTANCE_BITS: u8 = 4;

/// A child that a killed server was about to start holds its descriptors until it executes its program.
const OWN_PATIENCE: Duration = Duration::from_millis(500);

/// A claimed number.
#[derive(Debug)]
pub(super) struct Instance {
    number: u8,
    range: Cidr,
    path: PathBuf,
    /// Holds the lock.
    _claim: File,
}

impl Instance {
    /// The number that `run_directory` has already, or a free one.
    pub(super) fn claim(
        claims: &Path,
        run_directory: &Path,
        ranges: Cidr,
    ) -> Result<Self, RuntimeError> {
        std::fs::create_dir_all(claims).map_err(file("make", claims))?;
        let run_directory = run_directory
            .canonicalize()
            .map_err(file("resolve", run_directory))?;
        let mut wanted = boot_id()?;
        wanted.extend_from_slice(run_directory.as_os_str().as_bytes());

        // Held while looking and claiming: two daemons that start at once must not take the same.
        let lock_path = claims.join("lock");
        let lock = open(&lock_path)?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(|errno| file("lock", &lock_path)(errno.into()))?;

        let mut free = None;
        for number in 0..INSTANCES {
            let path = claims.join(number.to_string());
            let mut claim = open(&path)?;
            let mut text = Vec::new();
            claim.read_to_end(&mut text).map_err(file("read", &path))?;
            let own = text == wanted;
            let locked = lock_exclusively(&claim, if own { OWN_PATIENCE } else { Duration::ZERO })
                .map_err(file("lock", &path))?;
            if own {
                if !locked {
                    return Err(RuntimeError::NetworkInUse { run_directory });
                }
                return Ok(Self::new(number, ranges, path, claim));
            }
            if free.is_none() && locked && !is_alive(&text, &wanted) {
                free = Some((number, path, claim));
            }
        }
        let (number, path, mut claim) =
            free.ok_or(RuntimeError::NoFreeInstance { limit: INSTANCES })?;
        claim
            .set_len(0)
            .and_then(|()| claim.rewind())
            .and_then(|()| claim.write_all(&wanted))
            .map_err(file("write", &path))?;
        Ok(Self::new(number, ranges, path, claim))
    }

    fn new(number: u8, ranges: Cidr, path: PathBuf, claim: File) -> Self {
        let first = match ranges.address() {
            IpAddr::V4(first) => first.to_bits(),
            // Checked when the configuration is taken.
            IpAddr::V6(_) => 0,
        };
        let prefix = ranges.prefix() + INSTANCE_BITS;
        let range = Ipv4Addr::from_bits(first + (u32::from(number) << (32 - prefix)));
        Self {
            number,
            range: Cidr::new(range.into(), prefix),
            path,
            _claim: claim,
        }
    }

    /// Gives the number up; nothing of the instance may be left in the kernel.
    pub(super) fn release(&self) -> Result<(), RuntimeError> {
        // Emptied, not removed: another daemon may be waiting for the lock of this very file.
        OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&self.path)
            .map(drop)
            .map_err(file("empty", &self.path))
    }

    pub(super) fn table(&self) -> String {
        format!("fermata_{}", self.number)
    }

    /// What the names of this instance's interfaces begin with, and of no other's.
    pub(super) fn interface_prefix(&self) -> String {
        format!("{INTERFACE_PREFIX}{:x}-", self.number)
    }

    /// The host's end of a slot. At most 15 characters (`IFNAMSIZ`).
    pub(super) fn interface(&self, slot: u32) -> String {
        format!("{}{slot}", self.interface_prefix())
    }

    /// The group that interfaces to be deleted are put into.
    pub(super) fn retired_group(&self) -> u32 {
        0x00fe_0000 + u32::from(self.number)
    }

    /// The addresses of all slots.
    pub(super) fn range(&self) -> Cidr {
        self.range
    }

    /// How many slots there are: they are numbered from 1, and the last address of the range stays unused too.
    pub(super) fn slots(&self) -> u32 {
        (1 << (32 - self.range.prefix())) - 2
    }

    /// The address by which the host knows a slot.
    pub(super) fn transfer_address(&self, slot: u32) -> Ipv4Addr {
        match self.range.address() {
            IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() + slot),
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        }
    }
}

fn open(path: &Path) -> Result<File, RuntimeError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(file("open", path))
}

/// Whether a claim that nobody holds may still have sandboxes: made since the machine started, in a directory that exists.
fn is_alive(claim: &[u8], wanted: &[u8]) -> bool {
    const BOOT_ID: usize = 37;
    let Some((boot, directory)) = claim.split_at_checked(BOOT_ID) else {
        return false;
    };
    wanted.starts_with(boot) && Path::new(std::ffi::OsStr::from_bytes(directory)).exists()
}

fn boot_id() -> Result<Vec<u8>, RuntimeError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    std::fs::read(path).map_err(file("read", path))
}
