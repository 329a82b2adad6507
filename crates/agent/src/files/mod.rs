//! Files, as the sandbox itself sees them: paths are bytes, and are resolved inside the sandbox's root by its own kernel view.

mod directory;
mod find;
mod pattern;
mod remove;
mod replace;
mod status;
mod transfer;
mod walk;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use fermata_protocol::agent::Done;
use fermata_protocol::agent::failure::Kind;
use fermata_protocol::agent::request::Call;
use fermata_protocol::agent::response::Result as Answer;

use crate::connection::Caller;
use crate::failure::Refusal;

/// Where relative paths begin, if it is there.
const WORKSPACE: &str = "/workspace";

/// Does one of the calls on files.
pub(crate) fn perform(caller: &Caller, call: Call) -> Result<Answer, Refusal> {
    Ok(match call {
        Call::StatFile(stat) => Answer::FileStatus(status::stat(&resolve(&stat.path)?)?),
        Call::ListDirectory(list) => Answer::Directory(status::list(&resolve(&list.path)?)?),
        Call::ReadFile(read) => Answer::FileChunk(transfer::read(
            &resolve(&read.path)?,
            read.offset,
            read.length,
        )?),
        Call::WriteFile(write) => {
            let path = resolve(&write.path)?;
            transfer::write(&path, write.offset, write.mode, &write.data)?;
            Answer::Done(Done {})
        }
        Call::CreateDirectory(create) => {
            directory::create(&resolve(&create.path)?, create.mode)?;
            Answer::Done(Done {})
        }
        Call::RemovePath(remove) => {
            with_patience(caller)?;
            remove::remove(caller, &resolve(&remove.path)?)?;
            Answer::Done(Done {})
        }
        Call::FindInFiles(find) => {
            with_patience(caller)?;
            let path = resolve(&find.path)?;
            Answer::Find(find::find(caller, &path, &find.pattern, find.max_matches)?)
        }
        Call::ReplaceInFiles(replace) => {
            with_patience(caller)?;
            let path = resolve(&replace.path)?;
            Answer::Replace(replace::replace(
                caller,
                &path,
                &replace.pattern,
                &replace.replacement,
            )?)
        }
        Call::Hello(_)
        | Call::StartProcess(_)
        | Call::WaitProcess(_)
        | Call::ReadOutput(_)
        | Call::WriteInput(_)
        | Call::ResizeTerminal(_)
        | Call::SignalProcess(_)
        | Call::ListProcesses(_) => {
            return Err(Refusal::new(Kind::Internal, "not a call on files"));
        }
    })
}

/// What walks over whole trees is not done by the main thread, which serves when no thread can be made.
fn with_patience(caller: &Caller) -> Result<(), Refusal> {
    if caller.can_wait() {
        Ok(())
    } else {
        Err(Refusal::new(
            Kind::ResourceExhausted,
            "the sandbox has no room for another thread",
        ))
    }
}

/// Nobody waits for the answer any more.
fn still_wanted(caller: &Caller) -> Result<(), Refusal> {
    if caller.is_gone() {
        Err(Refusal::new(
            Kind::FailedPrecondition,
            "the caller has hung up",
        ))
    } else {
        Ok(())
    }
}

fn resolve(path: &[u8]) -> Result<PathBuf, Refusal> {
    if path.is_empty() {
        return Err(Refusal::invalid("the path is empty"));
    }
    if path.contains(&0) {
        return Err(Refusal::invalid("the path has a zero byte in it"));
    }
    let path = Path::new(OsStr::from_bytes(path));
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    let workspace = Path::new(WORKSPACE);
    let base = if workspace.is_dir() {
        workspace
    } else {
        Path::new("/")
    };
    Ok(base.join(path))
}

/// The path for a message.
fn shown(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_mean_nothing_are_refused() {
        assert_eq!(resolve(b"").unwrap_err().kind, Kind::InvalidArgument);
        assert_eq!(resolve(b"a\0b").unwrap_err().kind, Kind::InvalidArgument);
        assert_eq!(resolve(b"/a\nb").unwrap(), Path::new("/a\nb"));
    }

    #[test]
    fn relative_paths_begin_at_the_workspace_or_the_root() {
        let resolved = resolve(b"a/b").unwrap();
        let base = if Path::new(WORKSPACE).is_dir() {
            WORKSPACE
        } else {
            "/"
        };
        assert_eq!(resolved, Path::new(base).join("a/b"));
    }
}
