//! The few words of rtnetlink(7) that a namespace needs. Direct, because a child process for each would cost more than the
//! work itself (3 ms against 0.1 ms), and because its errors are numbers.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

// linux/netlink.h; libc has them with a sign.
const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const DUMP: u16 = 0x300;
/// Makes the thing when it is not there.
pub(super) const CREATE: u16 = 0x400;
/// Fails when the thing is there already.
pub(super) const CREATE_NEW: u16 = 0x600;
/// `AF_INET` as the one byte that messages have for it.
pub(super) const IPV4: u8 = 2;

/// `NFNLGRP_NFTABLES`, as a bit.
const RULE_CHANGES: u32 = 1 << 6;

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// What the kernel puts into one datagram of a dump at most (netlink(7)).
const DATAGRAM: usize = 32 << 10;

/// A request under construction.
#[derive(Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// `body` is the fixed structure that the message type begins with.
    pub(super) fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(body);
        Self { bytes }
    }

    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value);
        self.close(start);
        self
    }

    /// A string as the kernel wants it, ended by a zero byte.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// An attribute that begins with `body` and goes on with what `fill` adds.
    pub(super) fn nest(mut self, kind: u16, body: &[u8], fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.open(kind);
        self.bytes.extend_from_slice(body);
        let mut filled = fill(self);
        filled.close(start);
        filled
    }

    fn flag(mut self, flag: u16) -> Self {
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | flag;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize) {
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// A netlink socket. It belongs to the network namespace of the thread that made it, and stays there when the thread moves on.
#[derive(Debug)]
pub(super) struct Socket {
    descriptor: OwnedFd,
    sequence: u32,
}

impl Socket {
    pub(super) fn route() -> io::Result<Self> {
        Self::of(None)
    }

    pub(super) fn netfilter() -> io::Result<Self> {
        Self::of(Some(netlink::NETFILTER))
    }

    /// A socket that is told of every change of nftables rules.
    pub(super) fn rule_changes() -> io::Result<Self> {
        let socket = Self::netfilter()?;
        bind(&socket.descriptor, &SocketAddrNetlink::new(0, RULE_CHANGES))?;
        Ok(socket)
    }

    /// Waits for messages that nobody asked for; `each` gets the type and the body of every one.
    pub(super) fn receive(&self, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let mut buffer = vec![0; DATAGRAM];
        let (length, _) = recv(&self.descriptor, buffer.as_mut_slice(), RecvFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Some((kind, _, body, next)) = split_message(rest) {
            rest = next;
            each(kind, body);
        }
        Ok(())
    }

    fn of(protocol: Option<rustix::net::Protocol>) -> io::Result<Self> {
        let descriptor = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        Ok(Self {
            descriptor,
            sequence: 0,
        })
    }

    /// Sends a request and waits for the kernel's verdict.
    pub(super) fn request(&mut self, message: Message) -> io::Result<()> {
        self.exchange(message, ACKNOWLEDGE, |_, _| {})
    }

    /// Sends a request that is answered by a message before the verdict.
    pub(super) fn request_answered(
        &mut self,
        message: Message,
        each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.exchange(message, ACKNOWLEDGE, each)
    }

    /// Sends a request whose answer is many messages; `each` gets the type and the body of every one.
    pub(super) fn dump(
        &mut self,
        message: Message,
        each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.exchange(message, DUMP, each)
    }

    /// Sends changes that take effect together or not at all. The kernel takes them from one datagram, and answers each
    /// when the whole is decided (`nfnetlink_rcv_batch` in net/netfilter/nfnetlink.c).
    pub(super) fn transaction(
        &mut self,
        begin: Message,
        changes: Vec<Message>,
        end: Message,
    ) -> io::Result<()> {
        let first = self.sequence + 1;
        let mut waiting = changes.len();
        let mut bytes = begin.finish(first);
        for change in changes {
            self.sequence += 1;
            bytes.extend(change.flag(ACKNOWLEDGE).finish(self.sequence));
        }
        bytes.extend(end.finish(self.sequence));
        send(&self.descriptor, &bytes, SendFlags::empty())?;
        let mut buffer = vec![0; DATAGRAM];
        while waiting > 0 {
            let (length, _) = recv(&self.descriptor, buffer.as_mut_slice(), RecvFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((kind, sequence, body, next)) = split_message(rest) {
                rest = next;
                if i32::from(kind) == libc::NLMSG_ERROR && sequence >= first {
                    verdict(body)?;
                    waiting -= 1;
                }
            }
        }
        Ok(())
    }

    fn exchange(
        &mut self,
        message: Message,
        flag: u16,
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.sequence += 1;
        let message = message.flag(flag);
        send(
            &self.descriptor,
            &message.finish(self.sequence),
            SendFlags::empty(),
        )?;
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let (length, _) = recv(&self.descriptor, buffer.as_mut_slice(), RecvFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((kind, sequence, body, next)) = split_message(rest) {
                rest = next;
                // The remains of an exchange that was broken off.
                if sequence != self.sequence {
                    continue;
                }
                match i32::from(kind) {
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => return verdict(body),
                    _ => each(kind, body),
                }
            }
        }
    }
}

/// `struct nlmsgerr` and the end of a dump begin with a negative error number, or zero.
fn verdict(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)) {
        Some(0) | None => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(-errno)),
    }
}

/// Type, sequence number and body of the first message, and what follows it.
fn split_message(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let header = bytes.first_chunk::<HEADER>()?;
    let length = usize::try_from(u32::from_ne_bytes([
        header[0], header[1], header[2], header[3],
    ]))
    .ok()?;
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
    let body = bytes.get(HEADER..length)?;
    Some((
        kind,
        sequence,
        body,
        bytes.get(length.next_multiple_of(4)..).unwrap_or_default(),
    ))
}

/// The value of the attribute `wanted` in a row of attributes.
pub(super) fn find_attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let Some(header) = bytes.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = bytes.get(4..length)?;
        // The two upper bits are flags.
        if u16::from_ne_bytes([header[2], header[3]]) & 0x3fff == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
    None
}
