//! TCP and UDP.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};

use rustix::net::sockopt;

use super::harness::{Case, held, own_network, put, refused, take};

pub(crate) const CASES: &[Case] = &[
    ("a_tcp_listener_accepts", listener),
    ("a_tcp_listener_for_ipv6_only", only_v6),
    ("a_tcp_connection_that_leads_outside_is_reset", broken),
    ("a_tcp_connection_within_is_refused", within),
    ("udp_sockets", datagrams),
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

fn within() {
    own_network();
    let reason = refused(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        put(
            100,
            TcpStream::connect(listener.local_addr().unwrap()).unwrap(),
        );
        put(101, listener.accept().unwrap().0);
    });
    assert!(reason.contains("within the sandbox"), "{reason}");
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
