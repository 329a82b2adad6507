//! Everything that can be seen of a tree, for comparing two.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, lgetxattr, llistxattr, seek};

/// One name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) mode: u32,
    owner: (u32, u32),
    device: u64,
    modified: (i64, i64),
    size: u64,
    content: blake3::Hash,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first name of the same inode.
    same_as: PathBuf,
    pub(crate) inode: u64,
    pub(crate) holes: Vec<(u64, u64)>,
}

/// What to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// Inode numbers too.
    Inodes,
    /// All but inode numbers.
    Holes,
    /// What an EROFS layer keeps: neither inode numbers nor holes.
    Content,
}

pub(crate) type Listing = BTreeMap<PathBuf, Entry>;

pub(crate) fn of(root: &Path, strictness: Strictness) -> Listing {
    let mut listing = Listing::new();
    walk(root, Path::new(""), &mut listing);
    let mut first: HashMap<u64, PathBuf> = HashMap::new();
    for (path, entry) in &mut listing {
        entry.same_as = first
            .entry(entry.inode)
            .or_insert_with(|| path.clone())
            .clone();
    }
    for entry in listing.values_mut() {
        if strictness != Strictness::Inodes {
            entry.inode = 0;
        }
        if strictness == Strictness::Content {
            entry.holes.clear();
        }
    }
    listing
}

/// Names the differences; whole listings are too long to read.
pub(crate) fn assert_same(before: &Listing, after: &Listing, what: &str) {
    let paths: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for path in paths {
        assert_eq!(
            before.get(path),
            after.get(path),
            "{what}: {}",
            path.display()
        );
    }
}

fn walk(root: &Path, relative: &Path, listing: &mut Listing) {
    let path = root.join(relative);
    let found = fs::symlink_metadata(&path).unwrap();
    let kind = found.file_type();
    let mut content = Vec::new();
    let mut holes = Vec::new();
    if kind.is_file() {
        content = fs::read(&path).unwrap();
        holes = data_ranges(&path, found.len());
    } else if kind.is_symlink() {
        content = fs::read_link(&path)
            .unwrap()
            .as_os_str()
            .as_bytes()
            .to_vec();
    }
    let is_device = kind.is_char_device() || kind.is_block_device();
    let entry = Entry {
        mode: found.mode(),
        owner: (found.uid(), found.gid()),
        device: if is_device { found.rdev() } else { 0 },
        modified: (found.mtime(), found.mtime_nsec()),
        // A directory's size is the filesystem's business.
        size: if kind.is_dir() { 0 } else { found.len() },
        content: blake3::hash(&content),
        attributes: attributes(&path),
        same_as: PathBuf::new(),
        inode: found.ino(),
        holes,
    };
    listing.insert(relative.to_owned(), entry);
    if kind.is_dir() {
        let mut names: Vec<_> = fs::read_dir(&path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        for name in names {
            walk(root, &relative.join(name), listing);
        }
    }
}

fn data_ranges(path: &Path, size: u64) -> Vec<(u64, u64)> {
    let file = File::open(path).unwrap();
    let mut ranges = Vec::new();
    let mut position = 0;
    while let Ok(start) = seek(&file, SeekFrom::Data(position)) {
        position = seek(&file, SeekFrom::Hole(start)).unwrap();
        ranges.push((start, position));
        if position >= size {
            break;
        }
    }
    ranges
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 4096];
    let length = llistxattr(path, &mut names[..]).unwrap();
    let names = names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 4096];
            let length = lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
            value.truncate(length);
            (name.to_vec(), value)
        })
        .collect()
}
