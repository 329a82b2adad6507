//! Replacing a regular expression in text files.

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use fermata_protocol::agent::ReplaceResult;
use fermata_protocol::agent::failure::Kind;
use regex::bytes::Regex;

use super::walk::visit_files;
use super::{pattern, shown};
use crate::connection::Caller;
use crate::failure::Refusal;

/// A text file is held in memory as a whole, before and after: an expression may match across lines.
const MAX_FILE_BYTES: usize = 64 << 20;
/// A file with a zero byte among these is not text, however large it is.
const PROBED_BYTES: u64 = 8 << 10;

pub(super) fn replace(
    caller: &Caller,
    path: &Path,
    pattern: &str,
    replacement: &str,
) -> Result<ReplaceResult, Refusal> {
    let regex = pattern::replacement_search(pattern)?;
    let mut result = ReplaceResult::default();
    visit_files(caller, path, |path, file| {
        let refused = |error: io::Error| Refusal::os("replace in", shown(path), &error);
        if let Some(text) = read_text(path, &file)? {
            let (changed, replacements) = replaced(&regex, &text, replacement.as_bytes(), path)?;
            if changed != text {
                rewrite(path, &file, &changed).map_err(refused)?;
                result.files_changed += 1;
                result.replacements += replacements;
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(result)
}

fn too_large(path: &Path) -> Refusal {
    Refusal::new(
        Kind::ResourceExhausted,
        format!(
            "replace in {}: the file has or would have more than {} MiB",
            path.display(),
            MAX_FILE_BYTES >> 20
        ),
    )
}

/// The content of a text file; `None` for others. To pass over a large text file in silence would be to say that it was
/// searched.
fn read_text(path: &Path, file: &File) -> Result<Option<Vec<u8>>, Refusal> {
    let refused = |error: io::Error| Refusal::os("replace in", shown(path), &error);
    let mut text = Vec::new();
    file.take(PROBED_BYTES)
        .read_to_end(&mut text)
        .map_err(refused)?;
    if text.contains(&0) {
        return Ok(None);
    }
    let limit = u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX);
    if file.metadata().map_err(refused)?.len() > limit {
        return Err(too_large(path));
    }
    file.take(limit).read_to_end(&mut text).map_err(refused)?;
    Ok((!text.contains(&0)).then_some(text))
}

fn replaced(
    regex: &Regex,
    text: &[u8],
    replacement: &[u8],
    path: &Path,
) -> Result<(Vec<u8>, u64), Refusal> {
    let mut changed = Vec::new();
    let mut replacements = 0;
    let mut copied = 0;
    for captures in regex.captures_iter(text) {
        let whole = captures.get_match();
        changed.extend_from_slice(&text[copied..whole.start()]);
        // Rust's expansion of $1, ${name} and $$ is Go's.
        captures.expand(replacement, &mut changed);
        copied = whole.end();
        replacements += 1;
        if changed.len() > MAX_FILE_BYTES {
            return Err(too_large(path));
        }
    }
    changed.extend_from_slice(&text[copied..]);
    Ok((changed, replacements))
}

/// Puts new content in a file's place at once: whoever reads it sees the old or the new.
fn rewrite(path: &Path, former: &File, content: &[u8]) -> io::Result<()> {
    let metadata = former.metadata()?;
    // The rename must hit the file and not a link to it.
    let path = fs::canonicalize(path)?;
    let (mut file, temporary) = create_beside(&path)?;
    let outcome = file
        .write_all(content)
        .and_then(|()| fchown(&file, Some(metadata.uid()), Some(metadata.gid())))
        // After fchown, which clears setuid and setgid (chown(2)).
        .and_then(|()| file.set_permissions(Permissions::from_mode(metadata.mode() & 0o7777)))
        .and_then(|()| fs::rename(&temporary, &path));
    if outcome.is_err() {
        // The first failure is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    outcome
}

fn create_beside(path: &Path) -> io::Result<(File, PathBuf)> {
    let mut number = std::process::id();
    loop {
        let temporary = path.with_file_name(format!(".fermata-replace-{number}"));
        match File::create_new(&temporary) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                number = number.wrapping_add(1);
            }
            created => return Ok((created?, temporary)),
        }
    }
}
