//! The wires: what rtnetlink is asked for, one function a change.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::netlink::{CREATE_NEW, IPV4, Message, Socket, find_attribute};

/// Both ends of every pair have this address. Neither answers or asks ARP: with `IFF_NOARP` the kernel addresses frames to
/// the sender's own hardware address (`arp_constructor`), which thus is the receiver's too. The first packet need not wait,
/// and a sandbox cannot answer for another. Constant, because programs derive identities from it and must find it again.
const HARDWARE_ADDRESS: [u8; 6] = [0x02, 0xfe, 0x0a, 0xfe, 0xfe, 0x02];
/// The loopback interface is the first of every namespace.
pub(super) const LOOPBACK: u32 = 1;
/// The sandbox's end always has the same index: sockets bound to an interface remember nothing else.
pub(super) const INSIDE: u32 = 2;
/// The sandbox's end.
pub(super) const INSIDE_NAME: &str = "eth0";
/// `VETH_INFO_PEER` of linux/veth.h.
const VETH_PEER: u16 = 1;

const UP: u32 = libc::IFF_UP.cast_unsigned();
const NO_ARP: u32 = libc::IFF_NOARP.cast_unsigned();

/// An interface by number and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
}

/// `struct ifinfomsg`
fn link_body(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut body = [0; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&flags.to_ne_bytes());
    body[12..16].copy_from_slice(&change.to_ne_bytes());
    body
}

fn new_link(flags: u16, body: &[u8]) -> Message {
    Message::new(libc::RTM_NEWLINK, flags, body)
}

/// Makes a pair, left down (veth cannot start an end before the other is tied to it): `name` here, [`INSIDE_NAME`] in
/// `namespace`.
pub(super) fn add_pair(here: &mut Socket, name: &str, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let message = new_link(CREATE_NEW, &link_body(0, NO_ARP, NO_ARP))
        .text(libc::IFLA_IFNAME, name)
        .attribute(libc::IFLA_ADDRESS, &HARDWARE_ADDRESS)
        .nest(libc::IFLA_LINKINFO, &[], |info| {
            info.text(libc::IFLA_INFO_KIND, "veth")
                .nest(libc::IFLA_INFO_DATA, &[], |data| {
                    data.nest(VETH_PEER, &link_body(INSIDE, NO_ARP, NO_ARP), |peer| {
                        peer.text(libc::IFLA_IFNAME, INSIDE_NAME)
                            .attribute(libc::IFLA_ADDRESS, &HARDWARE_ADDRESS)
                            .attribute(libc::IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes())
                    })
                })
        });
    here.request(message)
}

pub(super) fn set_up(here: &mut Socket, index: u32) -> io::Result<()> {
    here.request(new_link(0, &link_body(index, UP, UP)))
}

/// Interfaces whose name begins with `prefix`.
pub(super) fn links(here: &mut Socket, prefix: &str) -> io::Result<Vec<Link>> {
    let mut found = Vec::new();
    here.dump(
        Message::new(libc::RTM_GETLINK, 0, &link_body(0, 0, 0)),
        |kind, body| {
            found.extend(
                (kind == libc::RTM_NEWLINK)
                    .then(|| parse_link(body))
                    .flatten(),
            );
        },
    )?;
    found.retain(|link| link.name.starts_with(prefix));
    Ok(found)
}

/// The number of the interface `name`.
pub(super) fn index_of(here: &mut Socket, name: &str) -> io::Result<u32> {
    let message =
        Message::new(libc::RTM_GETLINK, 0, &link_body(0, 0, 0)).text(libc::IFLA_IFNAME, name);
    let mut index = None;
    here.request_answered(message, |kind, body| {
        if kind == libc::RTM_NEWLINK {
            index = parse_link(body).map(|link| link.index);
        }
    })?;
    index.ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let index = u32::from_ne_bytes(*body.get(4..8)?.first_chunk()?);
    let name = find_attribute(body.get(16..)?, libc::IFLA_IFNAME)?;
    let name = String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned();
    Some(Link { index, name })
}

/// Whether the interface can send: an end that was started before the other drops everything until the kernel has noticed, in
/// the background, that the other has been started too (`linkwatch`), and a lost first packet costs a second.
pub(super) fn is_running(here: &mut Socket, index: u32) -> io::Result<bool> {
    /// `IF_OPER_UP` of linux/if.h.
    const RUNNING: [u8; 1] = [6];
    let message = Message::new(libc::RTM_GETLINK, 0, &link_body(index, 0, 0));
    let mut running = false;
    here.request_answered(message, |kind, body| {
        let attributes = body.get(16..).unwrap_or_default();
        running |= kind == libc::RTM_NEWLINK
            && find_attribute(attributes, libc::IFLA_OPERSTATE) == Some(&RUNNING);
    })?;
    Ok(running)
}

/// Marks an interface for [`delete_group`].
pub(super) fn set_group(here: &mut Socket, index: u32, group: u32) -> io::Result<()> {
    here.request(
        new_link(0, &link_body(index, 0, 0)).attribute(libc::IFLA_GROUP, &group.to_ne_bytes()),
    )
}

/// Deletes all interfaces of a group, and with them their other ends, wherever those are. Waiting for the kernel to let go of
/// an interface takes 25 ms, but no longer for many at once.
pub(super) fn delete_group(here: &mut Socket, group: u32) -> io::Result<()> {
    here.request(
        Message::new(libc::RTM_DELLINK, 0, &link_body(0, 0, 0))
            .attribute(libc::IFLA_GROUP, &group.to_ne_bytes()),
    )
}

/// Gives the sandbox's end its address and the way out.
pub(super) fn add_inside_address(
    inside: &mut Socket,
    address: Ipv4Addr,
    prefix: u8,
    gateway: Ipv4Addr,
) -> io::Result<()> {
    // struct ifaddrmsg
    let mut body = [0; 8];
    body[0] = IPV4;
    body[1] = prefix;
    body[4..8].copy_from_slice(&INSIDE.to_ne_bytes());
    inside.request(
        Message::new(libc::RTM_NEWADDR, CREATE_NEW, &body)
            .attribute(libc::IFA_LOCAL, &address.octets())
            .attribute(libc::IFA_ADDRESS, &address.octets()),
    )?;
    inside.request(
        new_route(0, libc::RT_SCOPE_UNIVERSE)
            .attribute(libc::RTA_GATEWAY, &gateway.octets())
            .attribute(libc::RTA_OIF, &INSIDE.to_ne_bytes()),
    )
}

/// Sends what is for `address` through the interface `index`.
pub(super) fn add_host_route(here: &mut Socket, address: Ipv4Addr, index: u32) -> io::Result<()> {
    here.request(
        new_route(32, libc::RT_SCOPE_LINK)
            .attribute(libc::RTA_DST, &address.octets())
            .attribute(libc::RTA_OIF, &index.to_ne_bytes()),
    )
}

fn new_route(destination_bits: u8, scope: u8) -> Message {
    // struct rtmsg
    let mut body = [0; 12];
    body[0] = IPV4;
    body[1] = destination_bits;
    body[4] = libc::RT_TABLE_MAIN;
    body[5] = libc::RTPROT_STATIC;
    body[6] = scope;
    body[7] = libc::RTN_UNICAST;
    Message::new(libc::RTM_NEWROUTE, CREATE_NEW, &body)
}
