//! What a memory snapshot says about itself.
//!
//! ```text
//! SNAPSHOT/manifest     fermata-memory-snapshot 1 BLAKE3-OF-THE-REST
//!                       { "id": …, "engine": …, "machine": …, "parts": [ {file, bytes, digest}, … ] }
//! SNAPSHOT/pages-1.img  the engine's files, nothing else
//! ```
//!
//! Written last, and durably: a snapshot without a manifest does not exist. The first line keeps its form in every version, so
//! that an old program can say that a snapshot is too new for it.

mod error;
mod machine;
mod verify;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Engine;

pub use error::ManifestError;
pub use machine::{Incompatible, Machine};
pub use verify::Verifier;

const FILE: &str = "manifest";
const FORMAT: &str = "fermata-memory-snapshot";
const VERSION: u32 = 1;

/// The facts of a capture that only its maker knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// The snapshot's id.
    pub id: String,
    /// The snapshot that its sandbox was restored from.
    pub parent: Option<String>,
    /// When the tree stood still.
    pub created_at: Timestamp,
    /// For how long.
    pub paused_ms: f64,
    /// What captured it.
    pub engine: Engine,
}

/// One file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Its name in the snapshot's directory.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// blake3, in hexadecimal digits.
    pub digest: String,
}

/// A snapshot's description.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Who, when, by what.
    #[serde(flatten)]
    pub facts: Facts,
    /// Where it was made.
    pub machine: Machine,
    /// All files, by name.
    pub parts: Vec<Part>,
}

impl Manifest {
    /// Makes a captured directory a snapshot: reads all of it, brings it to the disk and writes the manifest. For after the thaw.
    ///
    /// # Errors
    /// [`ManifestError::File`]; without a manifest the directory is none.
    pub fn seal(
        directory: &Path,
        facts: Facts,
        verifier: &Verifier,
    ) -> Result<Self, ManifestError> {
        let manifest = Self {
            facts,
            machine: Machine::read()?,
            parts: verifier.seal(directory)?,
        };
        manifest.write(directory)?;
        Ok(manifest)
    }

    /// Reads a snapshot's manifest. Says nothing about its parts: see [`Verifier::verify`].
    ///
    /// # Errors
    /// [`ManifestError::Missing`], [`ManifestError::Version`], [`ManifestError::Corrupt`], [`ManifestError::File`].
    pub fn read(directory: &Path) -> Result<Self, ManifestError> {
        let path = directory.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ManifestError::Missing {
                    directory: directory.to_owned(),
                });
            }
            Err(error) => return Err(ManifestError::file("read", &path)(error)),
        };
        Self::parse(&bytes).map_err(|fault| fault.at(path))
    }

    /// The bytes on this machine's disk that belong to it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    fn write(&self, directory: &Path) -> Result<(), ManifestError> {
        let path = directory.join(FILE);
        let fresh = directory.join(".manifest");
        let write = || {
            let mut file = File::create(&fresh)?;
            file.write_all(&self.encode()?)?;
            file.sync_all()?;
            fs::rename(&fresh, &path)?;
            File::open(directory)?.sync_all()
        };
        write().map_err(ManifestError::file("write", &path))
    }

    fn encode(&self) -> serde_json::Result<Vec<u8>> {
        let mut body = serde_json::to_vec_pretty(self)?;
        body.push(b'\n');
        let digest = blake3::hash(&body).to_hex();
        let mut bytes = format!("{FORMAT} {VERSION} {digest}\n").into_bytes();
        bytes.append(&mut body);
        Ok(bytes)
    }

    fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let end = bytes
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or(Fault::Corrupt("it has no first line"))?;
        let (line, body) = (&bytes[..end], &bytes[end + 1..]);
        let line =
            std::str::from_utf8(line).map_err(|_| Fault::Corrupt("its first line is no text"))?;
        let mut words = line.split(' ');
        if words.next() != Some(FORMAT) {
            return Err(Fault::Corrupt("it does not begin with the format's name"));
        }
        let version = words.next().and_then(|word| word.parse().ok());
        match version {
            Some(VERSION) => {}
            Some(found) => return Err(Fault::Version(found)),
            None => return Err(Fault::Corrupt("it has no version")),
        }
        // Compared as text: a flipped bit must not turn one spelling of the digest into another.
        if words.next() != Some(blake3::hash(body).to_hex().as_str()) || words.next().is_some() {
            return Err(Fault::Corrupt("its digest does not match"));
        }
        serde_json::from_slice(body).map_err(|_| Fault::Corrupt("it cannot be understood"))
    }
}

enum Fault {
    Corrupt(&'static str),
    Version(u32),
}

impl Fault {
    fn at(self, path: std::path::PathBuf) -> ManifestError {
        match self {
            Self::Corrupt(reason) => ManifestError::Corrupt {
                path,
                reason: reason.to_owned(),
            },
            Self::Version(found) => ManifestError::Version { path, found },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A snapshot of a few parts.
    fn snapshot() -> (tempfile::TempDir, Manifest, Verifier) {
        let directory = tempfile::tempdir().unwrap();
        for (name, size) in [
            ("pages-1.img", 100_000),
            ("core-1.img", 700),
            ("empty.img", 0),
        ] {
            let content = (0..size)
                .map(|at: u32| at.to_le_bytes()[0])
                .collect::<Vec<_>>();
            fs::write(directory.path().join(name), content).unwrap();
        }
        let facts = Facts {
            id: "ms-1".to_owned(),
            parent: None,
            created_at: "2026-01-02T03:04:05Z".parse().unwrap(),
            paused_ms: 12.5,
            engine: Engine {
                name: "criu".to_owned(),
                version: "4.2".to_owned(),
            },
        };
        let verifier = Verifier::default();
        let manifest = Manifest::seal(directory.path(), facts, &verifier).unwrap();
        (directory, manifest, verifier)
    }

    #[test]
    fn what_was_sealed_is_read_and_verified() {
        let (directory, manifest, verifier) = snapshot();
        assert_eq!(Manifest::read(directory.path()).unwrap(), manifest);
        let names = manifest
            .parts
            .iter()
            .map(|part| part.file.as_str())
            .collect::<Vec<_>>();
        assert_eq!(names, ["core-1.img", "empty.img", "pages-1.img"]);
        assert_eq!(manifest.bytes(), 100_700);
        verifier.verify(directory.path(), &manifest).unwrap();
        Verifier::default()
            .verify(directory.path(), &manifest)
            .unwrap();
        let text = fs::read_to_string(directory.path().join(FILE)).unwrap();
        assert!(text.starts_with("fermata-memory-snapshot 1 "), "{text}");
    }

    #[test]
    fn a_directory_without_a_manifest_is_no_snapshot() {
        let (directory, ..) = snapshot();
        fs::remove_file(directory.path().join(FILE)).unwrap();
        assert!(matches!(
            Manifest::read(directory.path()),
            Err(ManifestError::Missing { .. })
        ));
    }

    #[test]
    fn a_later_format_is_told_from_a_broken_one() {
        let (directory, ..) = snapshot();
        let text = fs::read_to_string(directory.path().join(FILE)).unwrap();
        fs::write(directory.path().join(FILE), text.replacen(" 1 ", " 2 ", 1)).unwrap();
        assert!(matches!(
            Manifest::read(directory.path()),
            Err(ManifestError::Version { found: 2, .. })
        ));
    }

    #[test]
    fn missing_and_foreign_files_are_refused() {
        let (directory, manifest, verifier) = snapshot();
        let extra = directory.path().join("inventory.img");
        fs::write(&extra, "x").unwrap();
        let error = verifier.verify(directory.path(), &manifest).unwrap_err();
        assert!(error.to_string().contains("inventory.img"), "{error}");
        fs::remove_file(extra).unwrap();
        fs::remove_file(directory.path().join("empty.img")).unwrap();
        let error = verifier.verify(directory.path(), &manifest).unwrap_err();
        assert!(error.to_string().contains("empty.img"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn any_flipped_bit_or_lost_end_is_detected(
            which in 0..3_usize,
            at in any::<prop::sample::Index>(),
            bit in 0..8_u32,
            cut in any::<bool>(),
        ) {
            let (directory, _, verifier) = snapshot();
            let path = directory.path().join(["pages-1.img", "core-1.img", FILE][which]);
            let mut bytes = fs::read(&path).unwrap();
            let at = at.index(bytes.len());
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] ^= 1 << bit;
            }
            fs::write(&path, bytes).unwrap();
            let found = Manifest::read(directory.path())
                .and_then(|read| verifier.verify(directory.path(), &read));
            prop_assert!(found.is_err());
        }
    }
}
