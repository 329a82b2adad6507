//! Names of unix sockets.
//!
//! A name that is a path is a string to the socket and a file to everybody else. The string must be the same again, also where the file
//! is gone or belongs to another socket by now, so what is there is set aside while the socket is bound.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::net::{SocketAddrUnix, bind};

use super::Failure;
use crate::image::{UnixFile, UnixName};

/// A file that had to make room for a socket's.
pub(super) struct Binding {
    directory: Option<PathBuf>,
    bound: Option<PathBuf>,
    aside: Option<PathBuf>,
}

fn step() -> impl FnOnce(Errno) -> Failure {
    Failure::to("bind a unix socket to its name")
}

/// Binds a socket to a name that it keeps: its file is made again with mode and owner, unless it was gone.
pub(super) fn bind_for_good(socket: &OwnedFd, name: &UnixName) -> Result<(), Failure> {
    let file = match name {
        UnixName::Path {
            file: Some(file), ..
        } => file,
        _ => return bind_for_a_moment(socket, name)?.end(),
    };
    let binding = bind_for_a_moment(socket, name)?;
    let path = OsStr::from_bytes(&file.path);
    rustix::fs::chownat(
        CWD,
        path,
        Some(Uid::from_raw(file.user)),
        Some(Gid::from_raw(file.group)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .map_err(step())?;
    rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(file.mode), AtFlags::empty())
        .map_err(step())?;
    // The file that was held with the file system stood for a socket that is no more.
    match &binding.aside {
        Some(aside) => rustix::fs::unlink(aside).map_err(step()),
        None => Ok(()),
    }
}

/// Binds a socket to a name that somebody else may want afterwards.
pub(super) fn bind_for_a_moment(socket: &OwnedFd, name: &UnixName) -> Result<Binding, Failure> {
    match name {
        UnixName::Abstract(name) => {
            let address = SocketAddrUnix::new_abstract_name(name).map_err(step())?;
            bind(socket, &address).map_err(step())?;
            Ok(Binding {
                directory: None,
                bound: None,
                aside: None,
            })
        }
        UnixName::Path { path, file } => bind_path(socket, path, file.as_ref()),
    }
}

fn bind_path(socket: &OwnedFd, name: &[u8], file: Option<&UnixFile>) -> Result<Binding, Failure> {
    let name_path = Path::new(OsStr::from_bytes(name));
    let bound = match file {
        Some(file) => PathBuf::from(OsStr::from_bytes(&file.path)),
        None => name_path.to_owned(),
    };
    let directory = if name_path.is_absolute() {
        None
    } else {
        let depth = name_path.components().count();
        let directory = bound.ancestors().nth(depth);
        Some(
            directory
                .ok_or_else(|| Failure::damaged("the name of a socket"))?
                .to_owned(),
        )
    };
    let mut aside = bound.clone().into_os_string();
    aside.push(".held");
    let aside = PathBuf::from(aside);
    let aside = match rustix::fs::renameat_with(
        CWD,
        &bound,
        CWD,
        &aside,
        rustix::fs::RenameFlags::NOREPLACE,
    ) {
        Ok(()) => Some(aside),
        Err(Errno::NOENT) => None,
        Err(error) => return Err(step()(error)),
    };
    let binding = Binding {
        directory,
        bound: Some(bound),
        aside,
    };
    let address = SocketAddrUnix::new(name_path).map_err(step())?;
    binding.reach(|| bind(socket, &address)).map_err(step())?;
    Ok(binding)
}

impl Binding {
    /// Does something with the name, from where a relative one leads to the file.
    pub(super) fn reach(
        &self,
        act: impl FnOnce() -> rustix::io::Result<()>,
    ) -> rustix::io::Result<()> {
        let Some(directory) = &self.directory else {
            return act();
        };
        let before = rustix::fs::open(
            ".",
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        rustix::process::chdir(directory)?;
        let result = act();
        rustix::process::fchdir(before)?;
        result
    }

    /// Removes the file, and puts back what it stood in for.
    pub(super) fn end(self) -> Result<(), Failure> {
        if let Some(bound) = &self.bound {
            rustix::fs::unlink(bound).map_err(step())?;
            if let Some(aside) = &self.aside {
                rustix::fs::rename(aside, bound).map_err(step())?;
            }
        }
        Ok(())
    }
}
