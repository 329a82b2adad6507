//! Putting the rules back when somebody flushed them: without them a sandbox would reach this host.

use std::io;

use rustix::event::{PollFd, PollFlags, poll};
use tracing::{error, warn};

use super::namespace::{system, within};
use super::netlink::{Message, Socket, find_attribute};
use super::pool::{Shared, lock};
use crate::{RuntimeError, error_chain};

// linux/netfilter/nf_tables.h
const SUBSYSTEM: u16 = 10 << 8;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const TABLE_NAME: u16 = 1;
/// `struct nfgenmsg` for the family `inet`.
const BODY: [u8; 4] = [1, 0, 0, 0];

impl Shared {
    /// The third thread: waits until our table is deleted, and makes it again.
    pub(super) fn keep_rules(&self) {
        if let Err(error) = within(&self.host, || self.guard()) {
            error!(
                error = error_chain(&error),
                "the rules of the network are no longer guarded"
            );
        }
    }

    fn guard(&self) -> Result<(), RuntimeError> {
        let changes = Socket::rule_changes().map_err(system("watch the packet filter"))?;
        loop {
            // Also before the first change: it may have come before the socket was there.
            self.restore_rules()?;
            loop {
                let mut waiting = [
                    PollFd::new(&changes, PollFlags::IN),
                    PollFd::new(&self.closed, PollFlags::IN),
                ];
                match poll(&mut waiting, None) {
                    Ok(_) => {}
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(errno) => {
                        return Err(system("wait for changes of the packet filter")(
                            errno.into(),
                        ));
                    }
                }
                if !waiting[1].revents().is_empty() {
                    return Ok(());
                }
                if self.is_deleted(&changes)? {
                    break;
                }
            }
        }
    }

    /// Whether the next changes may be the end of our table.
    fn is_deleted(&self, changes: &Socket) -> Result<bool, RuntimeError> {
        let table = self.instance.table();
        let mut deleted = false;
        let received = changes.receive(|kind, body| {
            let name = body
                .get(BODY.len()..)
                .and_then(|attributes| find_attribute(attributes, TABLE_NAME));
            deleted |= kind == DELETE_TABLE
                && name.is_some_and(|name| name.strip_suffix(&[0]) == Some(table.as_bytes()));
        });
        match received {
            Ok(()) => Ok(deleted),
            // More changes than the socket could hold.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(true),
            Err(error) => Err(system("read changes of the packet filter")(error)),
        }
    }

    fn restore_rules(&self) -> Result<(), RuntimeError> {
        let _one_at_a_time = lock(&self.table);
        let policies = {
            let stock = self.stock();
            if stock.is_closing() {
                return Ok(());
            }
            stock.policies()
        };
        if self
            .has_table()
            .map_err(system("look at the packet filter"))?
        {
            return Ok(());
        }
        warn!(
            table = self.instance.table(),
            "the rules of the network were deleted by somebody else; putting them back"
        );
        self.apply(|rules| rules.table(&policies))
    }

    fn has_table(&self) -> io::Result<bool> {
        let question = Message::new(GET_TABLE, 0, &BODY).text(TABLE_NAME, &self.instance.table());
        match Socket::netfilter()?.request(question) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
