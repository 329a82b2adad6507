//! Unix sockets.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair, sockopt,
};

use super::harness::{Case, held, own_network, put, refused, take};

pub(crate) const CASES: &[Case] = &[
    ("a_stream_pair_keeps_what_is_on_its_way", stream),
    ("packets_and_datagrams_keep_their_bounds", messages),
    ("a_stream_keeps_its_ends_shut", shut),
    ("a_stream_whose_peer_is_closed_ends", orphan),
    ("a_stream_that_was_reset_says_so", reset),
    ("an_abstract_listener_accepts", abstract_listener),
    ("a_listener_on_a_path_accepts", path_listener),
    ("a_listener_on_a_relative_path_accepts", relative_listener),
    ("an_accepted_connection_keeps_its_name", accepted),
    (
        "an_accepted_connection_outlives_its_listener",
        accepted_alone,
    ),
    ("socket_options_are_kept", options),
    ("a_peer_outside_is_refused", outside),
    ("descriptors_on_their_way_arrive", rights),
    ("a_connection_not_yet_accepted_is_refused", backlog),
];

fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, kind, SocketFlags::empty(), None).unwrap()
}

fn put_pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
    let (one, other) = pair(kind);
    put(100, one.try_clone().unwrap());
    put(101, other.try_clone().unwrap());
    (one, other)
}

fn stream() {
    let large: Vec<u8> = (0..=255).cycle().take(150_000).collect();
    held(
        || {
            let (one, other) = UnixStream::pair().unwrap();
            (&one).write_all(b"to other").unwrap();
            other.set_nonblocking(true).unwrap();
            (&other).write_all(&large).unwrap();
            put(100, one);
            put(101, other);
        },
        || {
            let (mut one, mut other) = (UnixStream::from(take(100)), UnixStream::from(take(101)));
            let mut bytes = [0; 8];
            other.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"to other");
            assert_eq!(
                other.read(&mut bytes).unwrap_err().kind(),
                std::io::ErrorKind::WouldBlock
            );
            let mut received = vec![0; large.len()];
            one.read_exact(&mut received).unwrap();
            assert!(received == large);
            one.write_all(b"more").unwrap();
            drop(one);
            let mut text = String::new();
            other.read_to_string(&mut text).unwrap();
            assert_eq!(text, "more");
        },
    );
}

fn messages() {
    for kind in [SocketType::SEQPACKET, SocketType::DGRAM] {
        held(
            || {
                let (one, _other) = put_pair(kind);
                for message in ["first", "", "third"] {
                    if kind == SocketType::DGRAM || !message.is_empty() {
                        rustix::net::send(&one, message.as_bytes(), SendFlags::empty()).unwrap();
                    }
                }
            },
            || {
                let other = take(101);
                let mut buffer = [0; 16];
                for message in ["first", "", "third"] {
                    if kind == SocketType::DGRAM || !message.is_empty() {
                        let (length, _) =
                            rustix::net::recv(&other, &mut buffer, RecvFlags::DONTWAIT).unwrap();
                        assert_eq!(&buffer[..length], message.as_bytes());
                    }
                }
                let one = take(100);
                rustix::net::send(&one, b"more", SendFlags::empty()).unwrap();
                let (length, _) =
                    rustix::net::recv(&other, &mut buffer, RecvFlags::DONTWAIT).unwrap();
                assert_eq!(&buffer[..length], b"more");
            },
        );
    }
}

fn shut() {
    held(
        || {
            let (one, other) = UnixStream::pair().unwrap();
            (&one).write_all(b"last").unwrap();
            one.shutdown(std::net::Shutdown::Write).unwrap();
            put(100, one);
            put(101, other);
        },
        || {
            let (mut one, mut other) = (UnixStream::from(take(100)), UnixStream::from(take(101)));
            let mut text = String::new();
            other.read_to_string(&mut text).unwrap();
            assert_eq!(text, "last");
            assert_eq!(
                one.write(b"x").unwrap_err().kind(),
                std::io::ErrorKind::BrokenPipe
            );
            other.write_all(b"back").unwrap();
            let mut bytes = [0; 4];
            one.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"back");
        },
    );
}

fn orphan() {
    held(
        || {
            let (one, other) = UnixStream::pair().unwrap();
            (&one).write_all(b"last").unwrap();
            put(101, other);
        },
        || {
            let mut other = UnixStream::from(take(101));
            let mut text = String::new();
            other.read_to_string(&mut text).unwrap();
            assert_eq!(text, "last");
            assert_eq!(
                other.write(b"x").unwrap_err().kind(),
                std::io::ErrorKind::BrokenPipe
            );
        },
    );
}

fn reset() {
    held(
        || {
            let (one, other) = UnixStream::pair().unwrap();
            (&other).write_all(b"never read").unwrap();
            drop(one);
            put(101, other);
        },
        || {
            let mut other = UnixStream::from(take(101));
            let error = other.read(&mut [0; 4]).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        },
    );
}

fn abstract_listener() {
    own_network();
    let address = SocketAddr::from_abstract_name("fermata\0test").unwrap();
    held(
        || put(100, UnixListener::bind_addr(&address).unwrap()),
        || {
            let listener = UnixListener::from(take(100));
            let mut client = UnixStream::connect_addr(&address).unwrap();
            client.write_all(b"hello").unwrap();
            let mut bytes = [0; 5];
            listener.accept().unwrap().0.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"hello");
        },
    );
}

fn accepts(number: i32, path: &std::path::Path) {
    let listener = UnixListener::from(take(number));
    let _client = UnixStream::connect(path).unwrap();
    listener.accept().unwrap();
}

fn path_listener() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    held(
        || {
            put(100, UnixListener::bind(&path).unwrap());
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o751)).unwrap();
            std::os::unix::fs::chown(&path, Some(12), Some(13)).unwrap();
        },
        || {
            use std::os::unix::fs::MetadataExt as _;
            let metadata = std::fs::metadata(&path).unwrap();
            assert_eq!(metadata.mode() & 0o7777, 0o751);
            assert_eq!((metadata.uid(), metadata.gid()), (12, 13));
            accepts(100, &path);
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        },
    );
}

fn relative_listener() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("inner")).unwrap();
    held(
        || {
            std::env::set_current_dir(directory.path()).unwrap();
            put(100, UnixListener::bind("inner/socket").unwrap());
        },
        || {
            let listener = UnixListener::from(take(100));
            let name = listener.local_addr().unwrap();
            assert_eq!(
                name.as_pathname().unwrap(),
                std::path::Path::new("inner/socket")
            );
            put(101, listener);
            accepts(101, &directory.path().join("inner/socket"));
        },
    );
}

fn accepted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    held(
        || {
            let listener = UnixListener::bind(&path).unwrap();
            put(101, UnixStream::connect(&path).unwrap());
            let server = listener.accept().unwrap().0;
            (&server).write_all(b"on its way").unwrap();
            put(102, server);
            put(100, listener);
        },
        || {
            let (mut client, server) = (UnixStream::from(take(101)), UnixStream::from(take(102)));
            let own = server.local_addr().unwrap();
            assert_eq!(own.as_pathname(), Some(path.as_path()));
            let peer = client.peer_addr().unwrap();
            assert_eq!(peer.as_pathname(), Some(path.as_path()));
            drop(server);
            let mut text = String::new();
            client.read_to_string(&mut text).unwrap();
            assert_eq!(text, "on its way");
            accepts(100, &path);
        },
    );
}

fn accepted_alone() {
    own_network();
    let address = SocketAddr::from_abstract_name("gone").unwrap();
    held(
        || {
            let listener = UnixListener::bind_addr(&address).unwrap();
            put(101, UnixStream::connect_addr(&address).unwrap());
            put(102, listener.accept().unwrap().0);
        },
        || {
            let client = UnixStream::from(take(101));
            let peer = client.peer_addr().unwrap();
            assert_eq!(peer.as_abstract_name(), Some(&b"gone"[..]));
            assert!(UnixStream::connect_addr(&address).is_err());
        },
    );
}

fn options() {
    held(
        || {
            let (one, _other) = put_pair(SocketType::STREAM);
            sockopt::set_socket_send_buffer_size(&one, 30_000).unwrap();
            sockopt::set_socket_passcred(&one, true).unwrap();
            let second = Some(std::time::Duration::from_secs(1));
            sockopt::set_socket_timeout(&one, sockopt::Timeout::Recv, second).unwrap();
        },
        || {
            let one = take(100);
            assert_eq!(sockopt::socket_send_buffer_size(&one).unwrap(), 60_000);
            assert!(sockopt::socket_passcred(&one).unwrap());
            let timeout = sockopt::socket_timeout(&one, sockopt::Timeout::Recv).unwrap();
            assert_eq!(timeout, Some(std::time::Duration::from_secs(1)));
        },
    );
}

fn outside() {
    let (one, other) = pair(SocketType::STREAM);
    let reason = refused(|| put(100, one.try_clone().unwrap()));
    assert!(reason.contains("outside the sandbox"), "{reason}");
    drop(other);
}

fn rights() {
    held(
        || {
            let (reader, writer) = rustix::pipe::pipe().unwrap();
            rustix::io::write(&writer, b"in the pipe").unwrap();
            for kind in [SocketType::STREAM, SocketType::DGRAM] {
                let (one, other) = pair(kind);
                rustix::net::send(&one, b"before", SendFlags::empty()).unwrap();
                super::counters::send_away(&one, &reader);
                rustix::net::send(&one, b"after", SendFlags::empty()).unwrap();
                // On its way to itself by way of the other.
                super::counters::send_away(&one, &one);
                let first = if kind == SocketType::STREAM { 100 } else { 102 };
                put(first, one);
                put(first + 1, other);
            }
        },
        || {
            let mut readers = Vec::new();
            for first in [100, 102] {
                let (one, other) = (take(first), take(first + 1));
                // A read of a stream does not end before the message that something comes with.
                assert_eq!(receive_plain(&other, 6), b"before");
                let (bytes, mut passed) = receive(&other, 64);
                assert_eq!((bytes.as_slice(), passed.len()), (&b"x"[..], 1));
                readers.extend(passed.pop());
                assert_eq!(receive_plain(&other, 5), b"after");
                let (bytes, passed) = receive(&other, 64);
                assert_eq!((bytes.as_slice(), passed.len()), (&b"x"[..], 1));
                assert!(is_same(&passed[0], &one));
            }
            assert!(is_same(&readers[0], &readers[1]));
            let mut bytes = [0; 64];
            let length = rustix::io::read(&readers[0], &mut bytes).unwrap();
            assert_eq!(&bytes[..length], b"in the pipe");
        },
    );
}

fn is_same(one: &OwnedFd, other: &OwnedFd) -> bool {
    use std::os::fd::AsFd as _;
    fermata_sys::open_file::compare(one.as_fd(), other.as_fd())
        .unwrap()
        .is_eq()
}

fn receive_plain(socket: &OwnedFd, most: usize) -> Vec<u8> {
    let (bytes, passed) = receive(socket, most);
    assert!(passed.is_empty(), "{:?}", String::from_utf8_lossy(&bytes));
    bytes
}

fn receive(socket: &OwnedFd, most: usize) -> (Vec<u8>, Vec<OwnedFd>) {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; most];
    let pieces = &mut [std::io::IoSliceMut::new(&mut bytes)];
    let received = recvmsg(socket, pieces, &mut control, RecvFlags::DONTWAIT).unwrap();
    bytes.truncate(received.bytes);
    let passed = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        })
        .flatten()
        .collect();
    (bytes, passed)
}

fn backlog() {
    own_network();
    let address = SocketAddr::from_abstract_name("waiting").unwrap();
    let reason = refused(|| {
        put(100, UnixListener::bind_addr(&address).unwrap());
        put(101, UnixStream::connect_addr(&address).unwrap());
    });
    assert!(reason.contains("not yet accepted"), "{reason}");
}
