//! Forgetting the connections of a slot that is given back: they would be counted against its next user.

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
/// With `NLA_F_NESTED`, without which this one is not taken.
const FILTER: u16 = 25 | 1 << 15;
const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;
/// Compare the source address and nothing else.
const SOURCE_ONLY: u32 = 1;

/// `struct nfgenmsg`
const BODY: [u8; 4] = [IPV4, 0, 0, 0];

/// Removes the connections that these addresses opened from the table of the calling thread's namespace.
pub(super) fn forget(addresses: impl IntoIterator<Item = Ipv4Addr>) -> io::Result<()> {
    let mut socket = Socket::netfilter()?;
    for address in addresses {
        for connection in opened_by(&mut socket, address)? {
            let delete = Message::new(DELETE, 0, &BODY).attribute(TUPLE_ORIGINAL, &connection);
            match socket.request(delete) {
                // It ended by itself.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                result => result?,
            }
        }
    }
    Ok(())
}

/// The tuples of all connections from an address. Deleting by such a filter directly needs kernel 6.8, listing 5.8.
fn opened_by(socket: &mut Socket, address: Ipv4Addr) -> io::Result<Vec<Vec<u8>>> {
    let list = Message::new(GET, 0, &BODY)
        .nest(TUPLE_ORIGINAL, &[], |tuple| {
            tuple.nest(TUPLE_ADDRESSES, &[], |addresses| {
                addresses.attribute(ADDRESS_SOURCE, &address.octets())
            })
        })
        .nest(FILTER, &[], |filter| {
            filter
                .attribute(FILTER_ORIGINAL, &SOURCE_ONLY.to_ne_bytes())
                .attribute(FILTER_REPLY, &0_u32.to_ne_bytes())
        });
    let mut tuples = Vec::new();
    socket.dump(list, |_, body| {
        let tuple = body
            .get(BODY.len()..)
            .and_then(|attributes| find_attribute(attributes, TUPLE_ORIGINAL));
        tuples.extend(tuple.map(<[u8]>::to_vec));
    })?;
    Ok(tuples)
}
