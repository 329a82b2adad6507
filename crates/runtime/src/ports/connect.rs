//! The connection inside.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use rustix::net::AddressFamily;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use crate::namespace_socket;
use crate::network::INSIDE_ADDRESS;

/// A server whose queue of connections is full answers nothing at all.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Connects to whoever listens at `port` inside, who may take up to `wait` to do so. Dropping the stream resets it, unless
/// [`super::relay::relay`] has come to a good end.
pub(super) async fn connect(namespace: &Path, port: u16, wait: Duration) -> io::Result<TcpStream> {
    let deadline = Instant::now() + wait;
    let mut pause = FIRST_PAUSE;
    loop {
        match connect_now(namespace, port).await {
            Err(_) if Instant::now() + pause < deadline => sleep(pause).await,
            result => return result,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn connect_now(namespace: &Path, port: u16) -> io::Result<TcpStream> {
    let addresses = [
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
        SocketAddr::from((INSIDE_ADDRESS, port)),
    ];
    let mut first_error = None;
    for address in addresses {
        match connect_to(namespace, address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or_else(|| io::ErrorKind::ConnectionRefused.into()))
}

async fn connect_to(namespace: &Path, address: SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = namespace_socket::open(namespace, family).await?;
    let socket = TcpSocket::from_std_stream(socket.into());
    socket.set_nodelay(true)?;
    socket.set_zero_linger()?;
    timeout(ANSWER_LIMIT, socket.connect(address)).await?
}
