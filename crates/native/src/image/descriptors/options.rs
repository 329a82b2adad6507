//! Which options of a socket are held.

use super::SocketOption;

/// `SOL_SOCKET`
pub(crate) const SOCKET: i32 = 1;
/// `IPPROTO_IP`
pub(crate) const IP: i32 = 0;
/// `IPPROTO_TCP`
pub(crate) const TCP: i32 = 6;
/// `IPPROTO_UDP`
pub(crate) const UDP: i32 = 17;
/// `IPPROTO_IPV6`
pub(crate) const IPV6: i32 = 41;
/// `SO_SNDBUF`
pub(crate) const SEND_BUFFER: i32 = 7;
/// `SO_RCVBUF`
pub(crate) const RECEIVE_BUFFER: i32 = 8;
/// `SO_PASSCRED`
pub(crate) const PASS_CREDENTIALS: i32 = 16;
/// `SO_PASSPIDFD`
pub(crate) const PASS_PIDFD: i32 = 76;
/// `SO_PEEK_OFF`
pub(crate) const PEEK_OFFSET: i32 = 42;
/// `IPV6_V6ONLY`
pub(crate) const ONLY_V6: i32 = 26;
/// `SO_BUF_LOCK`
const BUFFER_LOCK: i32 = 72;

/// Of every socket, by asm-generic/socket.h: what a program can set and ask for. The lock of the buffer sizes comes after them, since
/// setting a size sets the lock.
pub(crate) const OF_SOCKET: &[i32] = &[
    2,
    5,
    6,
    SEND_BUFFER,
    RECEIVE_BUFFER,
    9,
    10,
    12,
    13,
    15,
    PASS_CREDENTIALS,
    18,
    20,
    21,
    25,
    29,
    34,
    35,
    36,
    37,
    40,
    PEEK_OFFSET,
    43,
    44,
    46,
    47,
    60,
    69,
    BUFFER_LOCK,
    74,
    PASS_PIDFD,
    83,
];
/// linux/tcp.h
pub(crate) const OF_TCP: &[i32] = &[
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 18, 23, 25, 27, 30, 36,
];
/// linux/udp.h
pub(crate) const OF_UDP: &[i32] = &[1, 100, 101, 102, 103, 104];
/// linux/in.h
pub(crate) const OF_IP: &[i32] = &[
    1, 2, 4, 6, 7, 8, 10, 11, 12, 13, 15, 18, 19, 20, 21, 22, 23, 24, 25, 26, 32, 33, 34, 49, 50,
    51,
];
/// linux/in6.h
pub(crate) const OF_IPV6: &[i32] = &[
    16, 17, 18, 19, 23, 25, 26, 29, 31, 33, 49, 51, 53, 55, 57, 58, 60, 62, 66, 67, 70, 72, 73, 74,
    75, 76, 78,
];

/// `TCP_MAXSEG`; `IPV6_V6ONLY`, which an address implies; `IP_MULTICAST_IF`, `_TTL`, `_LOOP`; `IPV6_MULTICAST_IF`, `_HOPS`, `_LOOP`
pub(crate) const NOT_OF_STREAMS: [(i32, i32); 8] = [
    (TCP, 2),
    (IPV6, ONLY_V6),
    (IP, 32),
    (IP, 33),
    (IP, 34),
    (IPV6, 17),
    (IPV6, 18),
    (IPV6, 19),
];

/// Whether a stream socket can be given it. Those of multicast are refused there, although an accepted connection has others than a
/// new socket (`tcp_v4_syn_recv_sock`); `TCP_MAXSEG` tells what was negotiated.
pub(crate) fn is_of_streams(option: &SocketOption) -> bool {
    !matches!(
        (option.level, option.name),
        (TCP, 2) | (IP, 32..=34 | 49) | (IPV6, 17..=19 | 29)
    )
}

/// The value of an option among others.
pub(crate) fn find(options: &[SocketOption], level: i32, name: i32) -> Option<&[u8]> {
    options
        .iter()
        .find(|option| (option.level, option.name) == (level, name))
        .map(|option| option.value.as_slice())
}

/// The same as a number.
pub(crate) fn number(options: &[SocketOption], level: i32, name: i32) -> Option<i32> {
    find(options, level, name)?
        .try_into()
        .ok()
        .map(i32::from_ne_bytes)
}
