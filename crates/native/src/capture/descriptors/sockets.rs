//! Sockets of all families.

use std::io;
use std::os::fd::AsFd as _;

use fermata_sys::socket::{filter_length, option};
use rustix::net::{AddressFamily, SocketType, ipproto, sockopt};

use super::opened::Opened;
use super::{DescriptorCollector, Kind};
use crate::NativeError;
use crate::image::{SocketOption, options};

/// `ENOPROTOOPT`, `EOPNOTSUPP`, `EINVAL`, `ENOTCONN`: what a socket says to an option that it does not have.
const HAS_NOT: [i32; 4] = [92, 95, 22, 107];

impl DescriptorCollector<'_> {
    pub(super) fn socket(&mut self, opened: &Opened<'_>) -> Result<Kind, NativeError> {
        let domain = sockopt::socket_domain(opened.file)
            .map_err(opened.failed("ask for the family of a socket"))?;
        let kind = sockopt::socket_type(opened.file)
            .map_err(opened.failed("ask for the type of a socket"))?;
        let protocol = sockopt::socket_protocol(opened.file)
            .map_err(opened.failed("ask for the protocol of a socket"))?;
        match (domain, kind, protocol) {
            (AddressFamily::UNIX, _, _) => self.unix(opened, kind),
            (
                AddressFamily::INET | AddressFamily::INET6,
                SocketType::STREAM,
                Some(ipproto::TCP),
            )
            | (AddressFamily::INET | AddressFamily::INET6, SocketType::DGRAM, Some(ipproto::UDP)) => {
                opened.internet(domain, kind)
            }
            _ => Err(opened.unheld(&format!(
                "is a socket of a kind that cannot be held (family {}, type {}, protocol {})",
                domain.as_raw(),
                kind.as_raw(),
                protocol.map_or(0, |protocol| protocol.as_raw().get()),
            ))),
        }
    }
}

impl Opened<'_> {
    pub(super) fn options(
        &self,
        levels: &[(i32, &[i32])],
    ) -> Result<Vec<SocketOption>, NativeError> {
        match filter_length(self.file.as_fd()) {
            Ok(0) => {}
            Ok(_) => return Err(self.unheld("is a socket with a filter")),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(self.unheld("is a socket with a filter"));
            }
            Err(error) => return Err(self.failed("ask for the filter of a socket")(error)),
        }
        let mut held = Vec::new();
        for (level, names) in levels {
            for name in *names {
                match option(self.file.as_fd(), *level, *name) {
                    Ok(value) => held.push(SocketOption {
                        level: *level,
                        name: *name,
                        value,
                    }),
                    Err(error)
                        if error
                            .raw_os_error()
                            .is_some_and(|errno| HAS_NOT.contains(&errno)) => {}
                    Err(error) => return Err(self.failed("ask for an option of a socket")(error)),
                }
            }
        }
        Ok(held)
    }

    pub(super) fn common_options(&self) -> Result<Vec<SocketOption>, NativeError> {
        self.options(&[(options::SOCKET, options::OF_SOCKET)])
    }
}
