//! TCP and UDP.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};

use rustix::net::sockopt;

use super::harness::{Case, Guest, held, own_network, put, refused, take};

pub(crate) const CASES: &[Case] = &[
    ("a_tcp_listener_accepts", listener),
    ("a_tcp_listener_for_ipv6_only", only_v6),
    ("a_tcp_connection_that_leads_outside_is_reset", broken),
    ("a_tcp_connection_within_goes_on", within),
    (
        "what_a_full_connection_has_not_received_arrives",
        unreceived,
    ),
    ("a_tcp_connection_whose_other_end_is_closed_ends", left),
    (
        "a_tcp_connection_that_has_ended_keeps_its_last_words",
        ended,
    ),
    ("udp_sockets", datagrams),
    ("a_member_of_a_multicast_group_is_refused", multicast),
];

fn listener() {
    own_network();
    held(
        || {
            let listener = TcpListener::bind("127.0.0.1:8000").unwrap();
            sockopt::set_tcp_keepidle(&listener, std::time::Duration::from_secs(77)).unwrap();
            rustix::net::listen(&listener, 17).unwrap();
            put(100, listener);
        },
        || {
            let listener = TcpListener::from(take(100));
            assert!(sockopt::socket_reuseaddr(&listener).unwrap());
            assert_eq!(sockopt::tcp_keepidle(&listener).unwrap().as_secs(), 77);
            let information =
                fermata_sys::socket::option(std::os::fd::AsFd::as_fd(&listener), 6, 11).unwrap();
            assert_eq!(information[28], 17, "the backlog");
            let mut client = TcpStream::connect("127.0.0.1:8000").unwrap();
            client.write_all(b"hello").unwrap();
            let mut bytes = [0; 5];
            listener.accept().unwrap().0.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"hello");
        },
    );
}

fn only_v6() {
    own_network();
    held(
        || {
            use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
            let listener = socket(AddressFamily::INET6, SocketType::STREAM, None).unwrap();
            sockopt::set_ipv6_v6only(&listener, true).unwrap();
            let any: std::net::SocketAddr = "[::]:8000".parse().unwrap();
            bind(&listener, &any).unwrap();
            listen(&listener, 5).unwrap();
            put(100, listener);
            put(101, TcpListener::bind("0.0.0.0:8000").unwrap());
        },
        || {
            for (number, address) in [(100, "[::1]:8000"), (101, "127.0.0.1:8000")] {
                let listener = TcpListener::from(take(number));
                let _client = TcpStream::connect(address).unwrap();
                listener.accept().unwrap();
            }
        },
    );
}

fn broken() {
    own_network();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    held(
        || put(100, TcpStream::connect(address).unwrap()),
        || {
            let mut stream = TcpStream::from(take(100));
            let error = stream.read(&mut [0; 4]).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            assert_eq!(stream.read(&mut [0; 4]).unwrap(), 0);
            let error = stream.write(b"x").unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
        },
    );
}

/// Both ends of a connection, as numbers 100 and 101.
fn put_connection(listen_on: &str, connect_to: &str) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(listen_on).unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect((connect_to, port)).unwrap();
    let (server, _) = listener.accept().unwrap();
    put(100, client.try_clone().unwrap());
    put(101, server.try_clone().unwrap());
    put(102, listener);
    (client, server)
}

fn take_connection() -> (TcpStream, TcpStream) {
    (TcpStream::from(take(100)), TcpStream::from(take(101)))
}

fn within() {
    own_network();
    for (listen_on, connect_to) in [
        ("127.0.0.1:0", "127.0.0.1"),
        ("[::1]:0", "::1"),
        ("[::]:0", "127.0.0.1"),
    ] {
        let large: Vec<u8> = (0..=250).cycle().take(4_000_000).collect();
        let guest = Guest::start(|| {
            let (mut client, mut server) = put_connection(listen_on, connect_to);
            client.set_nodelay(true).unwrap();
            client.write_all(b"to the server").unwrap();
            server.write_all(b"to the client").unwrap();
        });
        let captured = guest.capture().unwrap();
        // Both would have the same addresses.
        drop(guest);
        for _ in 0..2 {
            captured.play_on(|| {
                let (mut client, mut server) = take_connection();
                assert!(client.nodelay().unwrap() && !server.nodelay().unwrap());
                assert_eq!(
                    client.peer_addr().unwrap().port(),
                    server.local_addr().unwrap().port()
                );
                assert_eq!(
                    server.peer_addr().unwrap().port(),
                    client.local_addr().unwrap().port()
                );
                let mut bytes = [0; 13];
                server.read_exact(&mut bytes).unwrap();
                assert_eq!(&bytes, b"to the server");
                client.read_exact(&mut bytes).unwrap();
                assert_eq!(&bytes, b"to the client");
                // More than any buffer has room for.
                let writer = std::thread::spawn({
                    let large = large.clone();
                    move || client.write_all(&large).map(|()| client)
                });
                let mut received = vec![0; large.len()];
                server.read_exact(&mut received).unwrap();
                assert!(received == large);
                drop(writer.join().unwrap().unwrap());
                assert_eq!(server.read(&mut received).unwrap(), 0);
                let listener = TcpListener::from(take(102));
                let port = listener.local_addr().unwrap().port();
                let _client = TcpStream::connect((connect_to, port)).unwrap();
                listener.accept().unwrap();
            });
        }
    }
}

fn unreceived() {
    own_network();
    let sent = std::cell::Cell::new(0);
    let pattern = |length: usize| (0..=250).cycle().take(length).collect::<Vec<u8>>();
    let (sent_reader, sent_writer) = rustix::pipe::pipe().unwrap();
    let guest = Guest::start(|| {
        let (mut client, _server) = put_connection("127.0.0.1:0", "127.0.0.1");
        client.set_nonblocking(true).unwrap();
        let bytes = pattern(8 << 20);
        let mut written = 0_usize;
        while let Ok(length) = client.write(&bytes[written..]) {
            written += length;
        }
        client.shutdown(std::net::Shutdown::Write).unwrap();
        rustix::io::write(&sent_writer, &written.to_ne_bytes()).unwrap();
    });
    let mut bytes = [0; 8];
    rustix::io::read(&sent_reader, &mut bytes).unwrap();
    sent.set(usize::from_ne_bytes(bytes));
    assert!(sent.get() > 100_000);
    // Nothing is taken from the original.
    let captured = [guest.capture().unwrap(), guest.capture().unwrap()];
    drop(guest);
    for captured in captured {
        captured.play_on(|| {
            let (client, mut server) = take_connection();
            let mut received = Vec::new();
            server.read_to_end(&mut received).unwrap();
            assert_eq!(received.len(), sent.get());
            assert!(received == pattern(sent.get()));
            server.write_all(b"back").unwrap();
            let mut bytes = [0; 4];
            client.set_nonblocking(false).unwrap();
            (&client).read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"back");
        });
    }
}

fn left() {
    own_network();
    held(
        || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            server.write_all(b"last words").unwrap();
            put(100, client);
        },
        || {
            let mut client = TcpStream::from(take(100));
            assert!(client.peer_addr().is_ok());
            let mut text = String::new();
            client.read_to_string(&mut text).unwrap();
            assert_eq!(text, "last words");
        },
    );
}

fn ended() {
    own_network();
    held(
        || {
            let (client, mut server) = put_connection("127.0.0.1:0", "127.0.0.1");
            server.write_all(b"last words").unwrap();
            server.shutdown(std::net::Shutdown::Write).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
        },
        || {
            let (mut client, mut server) = take_connection();
            let mut text = String::new();
            client.read_to_string(&mut text).unwrap();
            assert_eq!(text, "last words");
            assert_eq!(server.read(&mut [0; 4]).unwrap(), 0);
            let error = client.write(b"x").unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
        },
    );
}

fn datagrams() {
    own_network();
    held(
        || {
            let server = UdpSocket::bind("127.0.0.1:9000").unwrap();
            let client = UdpSocket::bind("127.0.0.1:9001").unwrap();
            client.connect("127.0.0.1:9000").unwrap();
            put(100, server);
            put(101, client);
        },
        || {
            UdpSocket::from(take(101)).send(b"hello").unwrap();
            let mut bytes = [0; 8];
            let (length, sender) = UdpSocket::from(take(100)).recv_from(&mut bytes).unwrap();
            assert_eq!(&bytes[..length], b"hello");
            assert_eq!(sender.port(), 9001);
        },
    );
}

fn multicast() {
    own_network();
    let reason = refused(|| {
        let socket = UdpSocket::bind("0.0.0.0:9000").unwrap();
        let group = std::net::Ipv4Addr::new(239, 1, 2, 3);
        socket
            .join_multicast_v4(&group, &std::net::Ipv4Addr::LOCALHOST)
            .unwrap();
        put(100, socket);
    });
    assert!(reason.contains("multicast"), "{reason}");
}
