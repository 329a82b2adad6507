//! Forgetting the connections of a slot that is given back: they would be counted against its next user.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;

use super::netlink::{IPV4, Message, Socket, find_attribute};

// linux/netfilter/nfnetlink_conntrack.h
const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_ADDRESSES: u16 = 1;
const ADDRESS_SOURCE: u16 = 1;

/// `struct nfgenmsg`
const BODY: [u8; 4] = [IPV4, 0, 0, 0];

/// Removes the connections that these addresses opened from the table of the calling thread's namespace. One pass over the
/// table takes 17 ms even when it is empty (262,144 buckets), whatever the number of addresses.
pub(super) fn forget(addresses: &BTreeSet<Ipv4Addr>) -> io::Result<()> {
    let mut socket = Socket::netfilter()?;
    let mut connections = Vec::new();
    socket.dump(Message::new(GET, 0, &BODY), |_, body| {
        let tuple = body
            .get(BODY.len()..)
            .and_then(|attributes| find_attribute(attributes, TUPLE_ORIGINAL));
        if let Some(tuple) = tuple
            && source(tuple).is_some_and(|source| addresses.contains(&source))
        {
            connections.push(tuple.to_vec());
        }
    })?;
    for connection in connections {
        let delete = Message::new(DELETE, 0, &BODY).attribute(TUPLE_ORIGINAL, &connection);
        match socket.request(delete) {
            // It ended by itself.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            result => result?,
        }
    }
    Ok(())
}

fn source(tuple: &[u8]) -> Option<Ipv4Addr> {
    let addresses = find_attribute(tuple, TUPLE_ADDRESSES)?;
    let source = find_attribute(addresses, ADDRESS_SOURCE)?;
    source.first_chunk::<4>().copied().map(Ipv4Addr::from)
}
