//! EROFS files: made by `mkfs.erofs`, then named in their superblock by their content.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::{PoolError, Result, program, tree};

/// Where the superblock is (`EROFS_SUPER_OFFSET`).
const SUPERBLOCK: usize = 1024;
const MAGIC: u32 = 0xE0F5_E1E2;
/// `EROFS_FEATURE_COMPAT_SB_CHKSUM`
const HAS_CHECKSUM: u32 = 1;
/// The checksum covers the superblock up to the end of its block. Pages, and thus blocks, have this size on the machines
/// that we run on; others are refused.
const BLOCK: usize = 4096;
const BLOCK_BITS: u8 = 12;

// Offsets in `struct erofs_super_block`.
const AT_MAGIC: usize = 0;
const AT_CHECKSUM: usize = 4;
const AT_COMPATIBLE_FEATURES: usize = 8;
const AT_BLOCK_BITS: usize = 12;
/// Seconds, then nanoseconds.
const AT_BUILD_TIME: usize = 24;
const AT_BLOCKS: usize = 36;
const AT_UUID: usize = 48;

/// mkfs.erofs 1.5 keeps 254 bytes of a name; the rest is lost without a word if such a file exists as well.
const LONGEST_NAME: usize = 254;

/// Makes `image` from the tree at `source` with every time, owner, attribute and hard link. Equal trees give equal files.
pub(super) fn make(source: &Path, image: &Path) -> Result<()> {
    if let Some(path) = tree::find_name_longer_than(source, LONGEST_NAME)? {
        return Err(PoolError::NameTooLong { path });
    }
    let mut command = Command::new("mkfs.erofs");
    // Extended inodes have room for a time of their own, with nanoseconds, and for 32-bit owners.
    command.args(["--quiet", "--preserve-mtime", "-Eforce-inode-extended"]);
    command
        .args(["-U", "00000000-0000-0000-0000-000000000000"])
        .arg(image)
        .arg(source);
    program::run("mkfs.erofs", &mut command)?;
    seal(image)
}

/// Takes out the time of the build, which no inode refers to, and gives the image an UUID that is its own. overlayfs finds the origin of a copied-up file, and with it a lasting inode number,
/// by the UUID of the lower filesystem; layers that shared one would lose that (`ovl_lower_uuid_ok` in the kernel).
fn seal(image: &Path) -> Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(image)
        .map_err(PoolError::file("open", image))?;
    let mut superblock = Superblock::read(&file, image)?;
    superblock.clear_build_time();
    superblock.write(&file, image)?;
    let digest = hash(&file, image)?;
    superblock.set_uuid(&digest);
    superblock.write(&file, image)?;
    file.sync_all().map_err(PoolError::file("sync", image))
}

/// The BLAKE3 of a whole file.
pub(super) fn hash(file: &File, path: &Path) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update_reader(file)
        .map_err(PoolError::file("read", path))?;
    Ok(hasher.finalize())
}

/// What a look at the first block can tell; costs nothing beside a mount.
pub(super) fn check(path: &Path) -> Result<()> {
    let file = File::open(path).map_err(PoolError::file("open", path))?;
    let superblock = Superblock::read(&file, path)?;
    let length = file
        .metadata()
        .map_err(PoolError::file("look at", path))?
        .len();
    if length < superblock.size() {
        return Err(PoolError::NotErofs {
            path: path.to_owned(),
            reason: "it is shorter than its superblock says",
        });
    }
    Ok(())
}

/// The first block from the superblock on.
struct Superblock([u8; BLOCK - SUPERBLOCK]);

impl Superblock {
    fn read(file: &File, path: &Path) -> Result<Self> {
        let refuse = |reason| PoolError::NotErofs {
            path: path.to_owned(),
            reason,
        };
        let mut block = Self([0; BLOCK - SUPERBLOCK]);
        match file.read_exact_at(&mut block.0, SUPERBLOCK as u64) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                return Err(refuse("it is shorter than one block"));
            }
            Err(error) => return Err(PoolError::file("read", path)(error)),
        }
        if block.word(AT_MAGIC) != MAGIC {
            return Err(refuse("it has no EROFS superblock"));
        }
        if block.0[AT_BLOCK_BITS] != BLOCK_BITS {
            return Err(refuse("its block size is not 4096"));
        }
        if block.has_checksum() && block.word(AT_CHECKSUM) != block.checksum() {
            return Err(refuse("the checksum of its superblock is wrong"));
        }
        Ok(block)
    }

    fn write(&self, file: &File, path: &Path) -> Result<()> {
        file.write_all_at(&self.0, SUPERBLOCK as u64)
            .map_err(PoolError::file("write", path))
    }

    fn clear_build_time(&mut self) {
        self.0[AT_BUILD_TIME..AT_BUILD_TIME + 12].fill(0);
        self.update_checksum();
    }

    fn set_uuid(&mut self, digest: &blake3::Hash) {
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&digest.as_bytes()[..16]);
        // RFC 9562: version 8, made from something of one's own.
        uuid[6] = uuid[6] & 0x0f | 0x80;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        self.0[AT_UUID..AT_UUID + 16].copy_from_slice(&uuid);
        self.update_checksum();
    }

    fn update_checksum(&mut self) {
        if self.has_checksum() {
            let checksum = self.checksum().to_le_bytes();
            self.0[AT_CHECKSUM..AT_CHECKSUM + 4].copy_from_slice(&checksum);
        }
    }

    fn size(&self) -> u64 {
        u64::from(self.word(AT_BLOCKS)) << BLOCK_BITS
    }

    fn has_checksum(&self) -> bool {
        self.word(AT_COMPATIBLE_FEATURES) & HAS_CHECKSUM != 0
    }

    fn checksum(&self) -> u32 {
        let mut bytes = self.0;
        bytes[AT_CHECKSUM..AT_CHECKSUM + 4].fill(0);
        crc32c(&bytes)
    }

    fn word(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.0[at..at + 4]);
        u32::from_le_bytes(bytes)
    }
}

/// CRC-32C as the kernel's `crc32c(~0, …)`: no inversion at the end.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _bit| {
            (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_gives_the_check_value_of_the_catalogue() {
        assert_eq!(!crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn equal_trees_give_equal_images_and_different_trees_different_uuids() {
        let directory = tempfile::tempdir().unwrap();
        let image = |name: &str, content: &str| {
            let tree = directory.path().join(format!("tree-{name}"));
            std::fs::create_dir(&tree).unwrap();
            for file in ["a", "b", "c"] {
                let path = tree.join(file);
                std::fs::write(&path, content).unwrap();
                let file = File::options().write(true).open(&path).unwrap();
                file.set_modified(
                    std::time::UNIX_EPOCH
                        + std::time::Duration::from_nanos(1_234_567_890_123_456_789),
                )
                .unwrap();
            }
            File::open(&tree)
                .unwrap()
                .set_modified(std::time::UNIX_EPOCH)
                .unwrap();
            let image = directory.path().join(name);
            make(&tree, &image).unwrap();
            check(&image).unwrap();
            std::fs::read(image).unwrap()
        };
        let uuid = |image: &[u8]| image[SUPERBLOCK + AT_UUID..SUPERBLOCK + AT_UUID + 16].to_vec();
        let (first, second, third) = (image("one", "x"), image("two", "x"), image("three", "y"));
        assert!(first == second);
        assert_ne!(uuid(&first), uuid(&third));
    }

    #[test]
    fn what_is_not_a_whole_image_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        std::fs::write(tree.join("file"), [7; 20000]).unwrap();
        let path = directory.path().join("image");
        make(&tree, &path).unwrap();
        let good = std::fs::read(&path).unwrap();

        let refused = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            matches!(check(&path), Err(PoolError::NotErofs { .. }))
        };
        assert!(refused(b""));
        assert!(refused(&[0; 8192]));
        assert!(refused(&good[..good.len() - 1]));
        let mut flipped = good.clone();
        flipped[SUPERBLOCK + AT_UUID] ^= 1;
        assert!(refused(&flipped));
        assert!(!refused(&good));
    }
}
