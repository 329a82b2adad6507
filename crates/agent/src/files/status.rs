//! What files are.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use fermata_protocol::agent::failure::Kind;
use fermata_protocol::agent::{DirectoryListing, FileStatus};
use prost::Message as _;
use prost::bytes::Bytes;

use super::shown;
use crate::failure::Refusal;

/// A listing must fit one frame, with room to spare.
const MAX_LISTING_BYTES: usize = 20 << 20;

/// The status of what a path leads to; of the link itself when it leads nowhere.
pub(super) fn stat(path: &Path) -> Result<FileStatus, Refusal> {
    let refused = |error: io::Error| Refusal::os("stat", shown(path), &error);
    let link = fs::symlink_metadata(path).map_err(refused)?;
    let metadata = if link.is_symlink() {
        fs::metadata(path).unwrap_or_else(|_| link.clone())
    } else {
        link.clone()
    };
    let name = path.file_name().unwrap_or(path.as_os_str());
    Ok(status(name.as_bytes(), &metadata, link_target(path, &link)))
}

/// The entries of a directory, sorted by their bytes.
pub(super) fn list(path: &Path) -> Result<DirectoryListing, Refusal> {
    let refused = |error: io::Error| Refusal::os("list", shown(path), &error);
    let mut entries = Vec::new();
    let mut bytes = 0;
    for entry in fs::read_dir(path).map_err(refused)? {
        let entry = entry.map_err(refused)?;
        // It may have vanished since it was read; then it is not there.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        let target = link_target(&entry.path(), &metadata);
        let status = status(entry.file_name().as_bytes(), &metadata, target);
        bytes += status.encoded_len();
        if bytes > MAX_LISTING_BYTES {
            return Err(Refusal::new(
                Kind::ResourceExhausted,
                format!(
                    "list {}: more than {} entries",
                    path.display(),
                    entries.len()
                ),
            ));
        }
        entries.push(status);
    }
    entries.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    Ok(DirectoryListing { entries })
}

fn link_target(path: &Path, metadata: &Metadata) -> Bytes {
    if !metadata.is_symlink() {
        return Bytes::new();
    }
    fs::read_link(path).map_or_else(
        |_| Bytes::new(),
        |target| target.into_os_string().into_vec().into(),
    )
}

fn status(name: &[u8], metadata: &Metadata, link_target: Bytes) -> FileStatus {
    FileStatus {
        name: Bytes::copy_from_slice(name),
        mode: metadata.mode(),
        size_bytes: metadata.size(),
        modified_at_unix_seconds: metadata.mtime(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        link_target,
    }
}
