//! Digests of a snapshot's files, and which of them need no second look.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{FILE, Manifest, ManifestError, Part};

/// Large enough for the hash to be spread over the cores.
const BUFFER_BYTES: usize = 4 << 20;

/// Most files are tiny, and what takes time is the disk.
const WORKERS: usize = 4;

/// Checks snapshots before they are used, and remembers what it has checked: a file whose inode, size and times are the same has
/// the same content, unless the disk itself is broken.
#[derive(Debug, Default)]
pub struct Verifier {
    seen: Mutex<HashMap<PathBuf, Seen>>,
}

/// How a file was when its digest was found right.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    stamp: Stamp,
    digest: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_ns: (i64, i64),
    /// Cannot be set back by whoever changes the file.
    changed_ns: (i64, i64),
}

impl Verifier {
    /// Checks that the directory holds exactly the manifest's parts, unchanged. Reads only what it has not read before.
    ///
    /// # Errors
    /// [`ManifestError::Corrupt`] that names the first file that differs, [`ManifestError::File`].
    pub fn verify(&self, directory: &Path, manifest: &Manifest) -> Result<(), ManifestError> {
        let found = files(directory)?;
        for name in &found {
            if !manifest.parts.iter().any(|part| part.file == *name) {
                let reason = "it is no part of the snapshot";
                return Err(ManifestError::corrupt(directory.join(name), reason));
            }
        }
        // Sizes first: a truncated file is found without reading any.
        for part in &manifest.parts {
            let path = directory.join(&part.file);
            if !found.contains(&part.file) {
                return Err(ManifestError::corrupt(path, "it is missing"));
            }
            let stamp = Stamp::of(&path)?;
            if stamp.bytes != part.bytes {
                let reason = format!("it has {} bytes, not {}", stamp.bytes, part.bytes);
                return Err(ManifestError::corrupt(path, reason));
            }
        }
        each_part(&manifest.parts, |part| {
            let path = directory.join(&part.file);
            if self.digest(&path)? == part.digest {
                Ok(())
            } else {
                Err(ManifestError::corrupt(path, "its digest does not match"))
            }
        })
    }

    /// Forgets a snapshot that is being removed.
    pub fn forget(&self, directory: &Path) {
        self.seen().retain(|path, _| !path.starts_with(directory));
    }

    /// The parts of a directory that was just captured, on the disk when this returns.
    pub(super) fn seal(&self, directory: &Path) -> Result<Vec<Part>, ManifestError> {
        let parts = files(directory)?
            .into_iter()
            .map(|file| Part {
                file,
                bytes: 0,
                digest: String::new(),
            })
            .collect::<Vec<_>>();
        let sealed = Mutex::new(Vec::with_capacity(parts.len()));
        // At the same time: one waits for the disk, the other for the processor.
        std::thread::scope(|scope| {
            let flushing =
                scope.spawn(|| each_part(&parts, |part| flush(&directory.join(&part.file))));
            let hashed = each_part(&parts, |part| {
                let path = directory.join(&part.file);
                let digest = self.digest(&path)?;
                let part = Part {
                    file: part.file.clone(),
                    bytes: Stamp::of(&path)?.bytes,
                    digest,
                };
                lock(&sealed).push(part);
                Ok(())
            });
            let flushed = flushing
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            flushed.and(hashed)
        })?;
        let mut parts = sealed.into_inner().unwrap_or_else(PoisonError::into_inner);
        parts.sort_by(|one, other| one.file.cmp(&other.file));
        Ok(parts)
    }

    fn digest(&self, path: &Path) -> Result<String, ManifestError> {
        let before = Stamp::of(path)?;
        if let Some(seen) = self.seen().get(path)
            && seen.stamp == before
        {
            return Ok(seen.digest.clone());
        }
        let digest = hash(path)?;
        // A file that was changed meanwhile is looked at again the next time.
        if Stamp::of(path)? == before {
            let seen = Seen {
                stamp: before,
                digest: digest.clone(),
            };
            self.seen().insert(path.to_owned(), seen);
        }
        Ok(digest)
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Seen>> {
        lock(&self.seen)
    }
}

impl Stamp {
    fn of(path: &Path) -> Result<Self, ManifestError> {
        // Not through links: a part is a file of this directory.
        let status = fs::symlink_metadata(path).map_err(ManifestError::file("look at", path))?;
        Ok(Self {
            device: status.dev(),
            inode: status.ino(),
            bytes: status.len(),
            modified_ns: (status.mtime(), status.mtime_nsec()),
            changed_ns: (status.ctime(), status.ctime_nsec()),
        })
    }
}

/// Everything in the directory but the manifest.
fn files(directory: &Path) -> Result<BTreeSet<String>, ManifestError> {
    let failed = |error| ManifestError::file("list", directory)(error);
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == FILE {
            continue;
        }
        if !entry.file_type().map_err(failed)?.is_file() {
            return Err(ManifestError::corrupt(entry.path(), "it is no file"));
        }
        names.insert(name);
    }
    Ok(names)
}

fn flush(path: &Path) -> Result<(), ManifestError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(ManifestError::file("flush", path))
}

fn hash(path: &Path) -> Result<String, ManifestError> {
    let failed = |error| ManifestError::file("read", path)(error);
    let mut file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let mut buffer = vec![0; BUFFER_BYTES.min(usize::try_from(bytes).unwrap_or(BUFFER_BYTES) + 1)];
    let mut hasher = blake3::Hasher::new();
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read(&mut buffer[filled..]).map_err(failed)? {
                0 => break,
                count => filled += count,
            }
        }
        hasher.update_rayon(&buffer[..filled]);
        if filled < buffer.len() {
            return Ok(hasher.finalize().to_hex().to_string());
        }
    }
}

/// Does something to all parts, some of them at the same time; the first failure is returned.
fn each_part(
    parts: &[Part],
    work: impl Fn(&Part) -> Result<(), ManifestError> + Sync,
) -> Result<(), ManifestError> {
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS.min(parts.len()) {
            scope.spawn(|| {
                while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = work(part) {
                        lock(&failure).get_or_insert(error);
                        return;
                    }
                }
            });
        }
    });
    failure
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .map_or(Ok(()), Err)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
