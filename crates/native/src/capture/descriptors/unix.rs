//! Unix sockets.

use std::os::fd::{AsFd as _, AsRawFd as _};

use rustix::event::PollFlags;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::net::{SocketAddrUnix, SocketType, getsockname};

use super::diagnosis::{UnixDiagnosis, unix_sockets};
use super::opened::Opened;
use super::{DescriptorCollector, Found, Kind, place_in_list};
use crate::NativeError;
use crate::image::{OpenFile, UnixFile, UnixName, UnixSocket, UnixState};

/// A unix socket whose queue was not read yet, and whose peer is known by inode only, until all are found.
pub(super) struct UnixEnd {
    pub(super) socket: UnixSocket,
    peer: Option<u32>,
}

const BOTH_WAYS: u8 = 3;

impl DescriptorCollector<'_> {
    pub(super) fn unix(
        &mut self,
        opened: &Opened<'_>,
        kind: SocketType,
    ) -> Result<Kind, NativeError> {
        if self.unix_sockets.is_none() {
            let sockets =
                unix_sockets(opened.process).map_err(opened.failed("list the unix sockets"))?;
            self.unix_sockets = Some(sockets);
        }
        let diagnosis = self
            .unix_sockets
            .as_ref()
            .and_then(|sockets| sockets.get(&opened.stat.st_ino))
            .ok_or_else(|| opened.unheld("is a unix socket of another network namespace"))?;
        opened.unix(kind, diagnosis)
    }

    /// The same with the peer's description.
    pub(super) fn connected(&self, own: &Found, end: &UnixEnd) -> Result<OpenFile, NativeError> {
        let Some(peer) = end.peer else {
            return Ok(OpenFile::Unix(end.socket.clone()));
        };
        let peer = self
            .found
            .iter()
            .position(|other| {
                other.identity.1 == u64::from(peer) && matches!(other.kind, Kind::Unix(_))
            })
            .ok_or_else(|| {
                own.unheld("is a unix socket whose other end is held outside the sandbox")
            })?;
        let is_mutual = matches!(
            &self.found[peer].kind,
            Kind::Unix(back) if back.peer.map(u64::from) == Some(own.identity.1)
        );
        if !is_mutual {
            return Err(own.unheld("is a datagram socket connected to one that is not to it"));
        }
        let both_named = |other: &UnixSocket| end.socket.name.is_some() && other.name.is_some();
        if matches!(&self.found[peer].kind, Kind::Unix(other) if both_named(&other.socket)) {
            return Err(own.unheld("is a unix socket with a name at both ends"));
        }
        let mut socket = end.socket.clone();
        socket.state = UnixState::Connected {
            peer: place_in_list(peer),
        };
        Ok(OpenFile::Unix(socket))
    }
}

impl Opened<'_> {
    fn unix(&self, kind: SocketType, diagnosis: &UnixDiagnosis) -> Result<Kind, NativeError> {
        let options = self.common_options()?;
        let events = self.events(PollFlags::IN | PollFlags::PRI)?;
        if events.contains(PollFlags::PRI) {
            return Err(self.unheld("is a unix socket with urgent data"));
        }
        let state = match diagnosis.peer {
            _ if diagnosis.is_listening => {
                if diagnosis.waiting > 0 {
                    return Err(self.unheld("is a unix socket with connections not yet accepted"));
                }
                UnixState::Listening {
                    backlog: diagnosis.backlog,
                }
            }
            None => UnixState::Unconnected,
            Some(0) if diagnosis.shutdown == BOTH_WAYS => UnixState::Orphaned {
                reset: events.contains(PollFlags::ERR),
            },
            Some(0) => return Err(self.unheld("is a unix socket not yet accepted by its peer")),
            Some(peer) => UnixState::Connected { peer },
        };
        let socket = UnixSocket {
            kind: kind.as_raw(),
            name: self.name(diagnosis)?,
            state: state.clone(),
            queue: Vec::new(),
            shutdown: diagnosis.shutdown,
            options,
        };
        let peer = match state {
            UnixState::Connected { peer } => Some(peer),
            _ => None,
        };
        Ok(Kind::Unix(UnixEnd { socket, peer }))
    }

    fn name(&self, diagnosis: &UnixDiagnosis) -> Result<Option<UnixName>, NativeError> {
        let address =
            getsockname(self.file).map_err(self.failed("ask for the name of a socket"))?;
        // Only the family. (Converted, it would look like an abstract name without a letter.)
        if address.addr_len() as usize <= size_of::<u16>() {
            return Ok(None);
        }
        let address = SocketAddrUnix::try_from(address).map_err(|_| self.not_understood())?;
        if let Some(name) = address.abstract_name() {
            return Ok(Some(UnixName::Abstract(name.to_vec())));
        }
        let Some(path) = address.path_bytes() else {
            return Ok(None);
        };
        let path = path.to_vec();
        let file = self.socket_file(&path, diagnosis)?;
        Ok(Some(UnixName::Path { path, file }))
    }

    /// The file that a socket is bound to, if it has that name still.
    fn socket_file(
        &self,
        path: &[u8],
        diagnosis: &UnixDiagnosis,
    ) -> Result<Option<UnixFile>, NativeError> {
        let failed = || self.failed::<Errno>("look for the file of a socket");
        let directory;
        let base = if path.starts_with(b"/") {
            self.root
        } else {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            directory =
                rustix::fs::openat(self.process, "cwd", flags, Mode::empty()).map_err(failed())?;
            directory.as_fd()
        };
        let resolve = if path.starts_with(b"/") {
            ResolveFlags::IN_ROOT
        } else {
            ResolveFlags::NO_MAGICLINKS
        };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat2(base, path, flags, Mode::empty(), resolve) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::NOTDIR) => {
                return if path.starts_with(b"/") {
                    Ok(None)
                } else {
                    Err(self.unheld("is a unix socket bound to a relative path that is gone"))
                };
            }
            Err(error) => return Err(failed()(error)),
        };
        let stat = rustix::fs::statat(&file, "", AtFlags::EMPTY_PATH).map_err(failed())?;
        let is_it = FileType::from_raw_mode(stat.st_mode) == FileType::Socket
            && diagnosis.file.map(u64::from) == Some(stat.st_ino & u64::from(u32::MAX));
        if !is_it {
            return Err(self.unheld("is a unix socket whose path belongs to another file now"));
        }
        let own = format!("/proc/self/fd/{}", file.as_raw_fd());
        let path = rustix::fs::readlink(own, Vec::new()).map_err(failed())?;
        Ok(Some(UnixFile {
            path: path.into_bytes(),
            mode: stat.st_mode & 0o7777,
            user: stat.st_uid,
            group: stat.st_gid,
        }))
    }
}
