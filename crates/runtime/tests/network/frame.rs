//! Frames written byte by byte, as a process with `CAP_NET_RAW` can send them.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Tells of every datagram: from whom, and its first byte.
pub(crate) struct Sink {
    heard: mpsc::Receiver<(IpAddr, u8)>,
}

impl Sink {
    pub(crate) fn recv(&self) -> Result<(IpAddr, u8), mpsc::RecvTimeoutError> {
        self.heard.recv_timeout(Duration::from_secs(10))
    }
}

/// Listens on all addresses of the calling thread's namespace.
pub(crate) fn sink(port: u16) -> Sink {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    let (say, heard) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            assert!(length > 0);
            if say.send((from.ip(), buffer[0])).is_err() {
                break;
            }
        }
    });
    Sink { heard }
}

/// Puts an UDP datagram on the wire of the calling thread's namespace, with any sender.
pub(crate) fn send_udp(from: Ipv4Addr, to: Ipv4Addr, port: u16, content: u8) {
    let mut packet = vec![0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    let checksum = checksum(&packet);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(5353_u16.to_be_bytes());
    packet.extend(port.to_be_bytes());
    // Length, and no checksum, which IPv4 allows.
    packet.extend([0, 9, 0, 0, content]);
    send_frame(&packet);
}

/// Past the packet filter, with the hardware addresses that the host expects. Rust's packet sockets would need unsafe code.
fn send_frame(packet: &[u8]) {
    const SEND: &str = "import socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(('eth0', 0))
own = wire.getsockname()[4]
wire.send(own + own + b'\\x08\\x00' + bytes.fromhex(sys.argv[1]))";
    let packet: String = packet.iter().map(|byte| format!("{byte:02x}")).collect();
    let output = Command::new("python3")
        .args(["-c", SEND, &packet])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
