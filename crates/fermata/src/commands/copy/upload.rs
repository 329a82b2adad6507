//! Into a sandbox.

use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use fermata_engine::SandboxId;
use fermata_gateway::rest::model::{FileKind, StartProcess};
use reqwest::Body;
use tokio_util::io::ReaderStream;

use super::error::CopyError;
use super::place::{base_name, join};
use super::{Tally, shown};
use crate::client::Client;
use crate::failure::Failure;

const PIECE_BYTES: usize = 1 << 20;

/// Longest wait for the program that makes a link.
const LINK_WAIT_MS: u64 = 30_000;

/// Copies a file or a directory with all it holds, as `cp -r` does: into `to` if that is a directory, else as `to`.
pub(super) async fn tree(
    client: &Client,
    id: &SandboxId,
    from: &Path,
    to: Vec<u8>,
) -> Result<Tally, Failure> {
    let existing = client.stat(id, &to).await?;
    let into = to.ends_with(b"/") || existing.is_some_and(|file| file.kind == FileKind::Directory);
    let to = if into {
        let resolved = fs::canonicalize(from).map_err(failed("find", from))?;
        let name = base_name(from.as_os_str().as_bytes())
            .or_else(|| base_name(resolved.as_os_str().as_bytes()));
        let name = name.ok_or_else(|| CopyError::Nameless {
            path: from.display().to_string(),
        })?;
        join(&to, name)
    } else {
        to
    };
    let mut tally = Tally::default();
    // The one that was named is followed if it is a link, as `cp -r` does with a slash behind it; those inside are not.
    let metadata = fs::metadata(from).map_err(failed("read", from))?;
    let mut waiting = vec![(from.to_owned(), to, metadata)];
    while let Some((from, to, metadata)) = waiting.pop() {
        let mode = metadata.permissions().mode() & 0o7777;
        if metadata.is_dir() {
            client.create_directory(id, &to, mode).await?;
            waiting.extend(children(&from, &to)?);
        } else if metadata.is_file() {
            file(client, id, &from, &to, mode).await?;
        } else if metadata.is_symlink() {
            link(client, id, &from, &to).await?;
        } else {
            tally.left_out.push(from.display().to_string());
            continue;
        }
        tally.entries += 1;
    }
    Ok(tally)
}

fn children(from: &Path, to: &[u8]) -> Result<Vec<(PathBuf, Vec<u8>, Metadata)>, CopyError> {
    let mut children = Vec::new();
    for entry in fs::read_dir(from).map_err(failed("list", from))? {
        let entry = entry.map_err(failed("list", from))?;
        let metadata = entry.metadata().map_err(failed("read", &entry.path()))?;
        children.push((
            entry.path(),
            join(to, entry.file_name().as_bytes()),
            metadata,
        ));
    }
    Ok(children)
}

async fn file(
    client: &Client,
    id: &SandboxId,
    from: &Path,
    to: &[u8],
    mode: u32,
) -> Result<(), Failure> {
    let content = tokio::fs::File::open(from)
        .await
        .map_err(failed("open", from))?;
    let content = ReaderStream::with_capacity(content, PIECE_BYTES);
    client
        .write_file(id, to, mode, Body::wrap_stream(content))
        .await?;
    Ok(())
}

/// The server has no call that makes links, so the sandbox's own `ln` does it.
async fn link(client: &Client, id: &SandboxId, from: &Path, to: &[u8]) -> Result<(), Failure> {
    let target = fs::read_link(from).map_err(failed("read", from))?;
    let text = |bytes: &[u8]| {
        String::from_utf8(bytes.to_vec())
            .map_err(|_not_utf8| CopyError::Nameless { path: shown(bytes) })
    };
    let argv = vec![
        "ln".to_owned(),
        "-sfn".to_owned(),
        "--".to_owned(),
        text(target.as_os_str().as_bytes())?,
        text(to)?,
    ];
    let process = StartProcess {
        argv,
        ..StartProcess::default()
    };
    let pid = client.start(id, &process).await?;
    match client.wait(id, pid, LINK_WAIT_MS).await?.exit_code {
        Some(0) => Ok(()),
        code => Err(CopyError::Link {
            path: shown(to),
            code: code.unwrap_or(-1),
        }
        .into()),
    }
}

/// Copies stdin into a file.
pub(super) async fn stdin(client: &Client, id: &SandboxId, to: &[u8]) -> Result<Tally, Failure> {
    let content = ReaderStream::with_capacity(tokio::io::stdin(), PIECE_BYTES);
    client
        .write_file(id, to, 0o644, Body::wrap_stream(content))
        .await?;
    Ok(Tally {
        entries: 1,
        ..Tally::default()
    })
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CopyError {
    let path = path.to_owned();
    move |source| CopyError::Local {
        action,
        path,
        source,
    }
}
