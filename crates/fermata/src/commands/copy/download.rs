//! Out of a sandbox. Everything that comes from there is hostile: names, modes, links and what changes between two calls.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use fermata_engine::SandboxId;
use fermata_gateway::rest::encoding::decode;
use fermata_gateway::rest::model::{File, FileKind};
use rustix::fs::OFlags;

use super::error::CopyError;
use super::place::{base_name, is_plain_name, join, local_name};
use super::{Tally, shown};
use crate::client::Client;
use crate::failure::Failure;
use crate::printer::Printer;

/// setuid and setgid stay behind: their owner here is whoever copies, perhaps root.
const MODE_KEPT: u32 = 0o777;

/// Copies a file or a directory with all it holds, as `cp -r` does: into `to` if that is a directory, else as `to`.
pub(super) async fn tree(
    client: &Client,
    id: &SandboxId,
    from: Vec<u8>,
    to: &Path,
) -> Result<Tally, Failure> {
    let file = client
        .stat(id, &from)
        .await?
        .ok_or_else(|| CopyError::NotInside { path: shown(&from) })?;
    let to = if to.is_dir() {
        let name = base_name(&from).ok_or_else(|| CopyError::Nameless { path: shown(&from) })?;
        to.join(local_name(name))
    } else {
        to.to_owned()
    };
    let mut tally = Tally::default();
    let mut modes = Vec::new();
    let mut waiting = vec![(from, to, file)];
    while let Some((from, to, file)) = waiting.pop() {
        match file.kind {
            FileKind::Directory => {
                directory(&to)?;
                modes.push((to.clone(), file.mode & MODE_KEPT));
                for child in client.list_directory(id, &from).await? {
                    let name = exact_name(&child)?;
                    waiting.push((join(&from, &name), to.join(local_name(&name)), child));
                }
            }
            FileKind::File => content(client, id, &from, &to, file.mode & MODE_KEPT).await?,
            FileKind::Symlink => link(&file, &to)?,
            FileKind::Fifo
            | FileKind::Socket
            | FileKind::CharacterDevice
            | FileKind::BlockDevice
            | FileKind::Unknown => {
                tally.left_out.push(shown(&from));
                continue;
            }
        }
        tally.entries += 1;
    }
    // Last, and the innermost first: a directory that may not be written to could not be filled.
    for (path, mode) in modes.into_iter().rev() {
        fs::set_permissions(&path, Permissions::from_mode(mode))
            .map_err(failed("set the mode of", &path))?;
    }
    Ok(tally)
}

fn exact_name(file: &File) -> Result<Vec<u8>, CopyError> {
    decode(&file.encoded_name)
        .filter(|name| is_plain_name(name))
        .ok_or_else(|| CopyError::ForeignName {
            name: file.encoded_name.clone(),
        })
}

/// One that is there already is used, unless it is a link that leads elsewhere.
fn directory(path: &Path) -> Result<(), CopyError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let metadata = fs::symlink_metadata(path).map_err(failed("read", path))?;
            if metadata.is_dir() {
                Ok(())
            } else {
                Err(failed("make the directory", path)(error))
            }
        }
        made => made.map_err(failed("make the directory", path)),
    }
}

async fn content(
    client: &Client,
    id: &SandboxId,
    from: &[u8],
    to: &Path,
    mode: u32,
) -> Result<(), Failure> {
    let mut response = client.read_file(id, from).await?;
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(to)
        .map_err(failed("write", to))?;
    while let Some(piece) = piece(&mut response, from).await? {
        file.write_all(&piece).map_err(failed("write", to))?;
    }
    // One that was there already has kept its own until now.
    file.set_permissions(Permissions::from_mode(mode))
        .map_err(failed("set the mode of", to))?;
    Ok(())
}

fn link(file: &File, to: &Path) -> Result<(), CopyError> {
    let target = file
        .encoded_target
        .as_deref()
        .and_then(decode)
        .unwrap_or_default();
    match fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("replace", to)(error));
        }
        Ok(()) | Err(_) => {}
    }
    std::os::unix::fs::symlink(local_name(&target), to).map_err(failed("make the link", to))
}

/// Copies a file to stdout.
pub(super) async fn stdout(
    client: &Client,
    id: &SandboxId,
    from: &[u8],
    printer: Printer,
) -> Result<Tally, Failure> {
    match client.stat(id, from).await? {
        None => return Err(CopyError::NotInside { path: shown(from) }.into()),
        Some(file) if file.kind == FileKind::Directory => {
            return Err(CopyError::Directory { path: shown(from) }.into());
        }
        Some(_) => {}
    }
    let mut response = client.read_file(id, from).await?;
    while let Some(piece) = piece(&mut response, from).await? {
        printer.bytes(&piece)?;
    }
    Ok(Tally {
        entries: 1,
        ..Tally::default()
    })
}

async fn piece(
    response: &mut reqwest::Response,
    path: &[u8],
) -> Result<Option<bytes::Bytes>, CopyError> {
    response.chunk().await.map_err(|source| CopyError::Content {
        path: shown(path),
        source,
    })
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CopyError {
    let path: PathBuf = path.to_owned();
    move |source| CopyError::Local {
        action,
        path,
        source,
    }
}
