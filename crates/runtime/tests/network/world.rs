//! A small world of network namespaces for one test, which all go with it.
//!
//! ```text
//!  sandbox ═ fermata0-N ═ host (the test's own thread) ═ uplink 198.51.100.2 ══ 198.51.100.1 wan ═ internet
//!                                                                      203.0.113.1, .2, 192.168.7.7, 169.254.169.254
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use std::{io, process};

use fermata_runtime::network::{NetworkConfig, NetworkPool, Policy, Slot};
use fermata_sys::network_namespace::unshare_network;
use rustix::mount::{UnmountFlags, unmount};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
pub(crate) const NEAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub(crate) const OTHER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
pub(crate) const PRIVATE: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 7);
pub(crate) const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// Where the servers of the internet listen, TCP and UDP.
pub(crate) const PORT: u16 = 8080;

/// For what must happen soon.
const LIMIT: Duration = Duration::from_secs(10);
/// For what must not happen.
pub(crate) const SHORT: Duration = Duration::from_millis(300);
/// For a connection on one machine; refusals come at once.
const CONNECT: Duration = Duration::from_secs(1);

pub(crate) struct World {
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) directory: TempDir,
    pub(crate) internet: File,
}

impl World {
    /// Moves the calling thread into the new host.
    pub(crate) fn new() -> Self {
        let internet = new_namespace();
        unshare_network().unwrap();
        let world = Self {
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap(),
            directory: tempfile::tempdir().unwrap(),
            internet,
        };
        add_wire("uplink", "wan", &world.internet);
        for command in [
            "ip link set lo up",
            "ip address add 198.51.100.2/24 dev uplink",
            "ip -6 address add 2001:db8::2/64 dev uplink nodad",
            "ip link set uplink up",
            "ip route add default via 198.51.100.1",
        ] {
            run(command);
        }
        inside(&world.internet, || {
            for command in [
                "ip link set lo up",
                "ip address add 198.51.100.1/24 dev wan",
                "ip link set wan up",
                "ip address add 203.0.113.1/32 dev lo",
                "ip address add 203.0.113.2/32 dev lo",
                "ip address add 192.168.7.7/32 dev lo",
                "ip address add 169.254.169.254/32 dev lo",
            ] {
                run(command);
            }
            // A new wire drops packets until the kernel has noticed that it is whole.
            eventually("the wire carries", || {
                output("ip -o link show wan").contains("state UP")
            });
            // Each its own: an answer must come from the address that was asked.
            for address in [NEAR, FAR, OTHER, PRIVATE, METADATA] {
                serve(address, PORT);
                serve(address, 53);
            }
        });
        eventually("the wire carries", || {
            output("ip -o link show uplink").contains("state UP")
        });
        world
    }

    pub(crate) fn configuration(&self) -> NetworkConfig {
        configuration(self.directory.path())
    }

    pub(crate) fn open(&self) -> NetworkPool {
        self.open_with(BTreeMap::new())
    }

    pub(crate) fn open_with(&self, in_use: BTreeMap<u32, Policy>) -> NetworkPool {
        self.runtime
            .block_on(NetworkPool::open(NetworkConfig {
                in_use,
                ..self.configuration()
            }))
            .unwrap()
    }

    pub(crate) fn acquire(&self, pool: &NetworkPool) -> Sandbox {
        Sandbox::new(self.runtime.block_on(pool.acquire()).unwrap())
    }

    pub(crate) fn set_policy(&self, pool: &NetworkPool, sandbox: &Sandbox, policy: &Policy) {
        self.runtime
            .block_on(pool.set_policy(sandbox.slot.number, policy))
            .unwrap();
    }

    pub(crate) fn shut_down(&self, pool: &NetworkPool, keep: bool) {
        self.runtime.block_on(pool.shut_down(keep)).unwrap();
    }
}

impl Drop for World {
    /// Namespaces go with their last descriptor, but mounts must be undone by hand.
    fn drop(&mut self) {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let under = self.directory.path().to_string_lossy().into_owned();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        for point in points
            .filter(|point| Path::new(point).starts_with(&under))
            .collect::<Vec<_>>()
            .iter()
            .rev()
        {
            _ = unmount(*point, UnmountFlags::DETACH);
        }
    }
}

/// A namespace of the pool, from the point of view of a program in it.
pub(crate) struct Sandbox {
    pub(crate) slot: Slot,
    namespace: File,
}

impl Sandbox {
    pub(crate) fn new(slot: Slot) -> Self {
        let namespace = File::open(&slot.namespace).unwrap();
        Self { slot, namespace }
    }

    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.namespace, work)
    }

    /// By whom the server at `address` believes to be called.
    pub(crate) fn caller_at(&self, address: impl Into<IpAddr>, port: u16) -> io::Result<IpAddr> {
        let address = SocketAddr::new(address.into(), port);
        self.inside(|| Connection::open(address).map(|connection| connection.caller))
    }

    pub(crate) fn reaches(&self, address: Ipv4Addr) -> bool {
        self.caller_at(address, PORT).is_ok()
    }

    pub(crate) fn reaches_by_udp(&self, address: Ipv4Addr, port: u16) -> bool {
        self.inside(|| answers_by_udp(address, port))
    }

    pub(crate) fn connect(&self, address: Ipv4Addr) -> Connection {
        self.inside(|| Connection::open(SocketAddr::new(address.into(), PORT)).unwrap())
    }
}

pub(crate) fn configuration(directory: &Path) -> NetworkConfig {
    NetworkConfig {
        run_directory: directory.join("run"),
        claims_directory: directory.join("claims"),
        ready: 2,
        name_servers: vec![OTHER.to_string()],
        ..NetworkConfig::default()
    }
}

/// A namespace that lives as long as the file is open.
pub(crate) fn new_namespace() -> File {
    thread::spawn(|| {
        unshare_network().unwrap();
        File::open("/proc/thread-self/ns/net").unwrap()
    })
    .join()
    .unwrap()
}

/// A pair of interfaces, one end here.
pub(crate) fn add_wire(here: &str, there: &str, namespace: &File) {
    let namespace = format!("/proc/{}/fd/{}", process::id(), namespace.as_raw_fd());
    run(&format!(
        "ip link add {here} type veth peer name {there} netns {namespace}"
    ));
}

/// Runs `work` in a thread in a namespace; sockets made there stay there.
pub(crate) fn inside<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        scope
            .spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .unwrap();
                work()
            })
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

pub(crate) fn run(command: &str) {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

pub(crate) fn output(command: &str) -> String {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// A TCP connection to one of our servers, which says first whom it sees, and then repeats lines.
pub(crate) struct Connection {
    pub(crate) caller: IpAddr,
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, CONNECT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let caller = line.trim().parse().map_err(io::Error::other)?;
        Ok(Self { caller, stream })
    }

    pub(crate) fn echo(&mut self) -> io::Result<()> {
        self.stream.get_mut().write_all(b"line\n")?;
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Whether something comes within a short while.
    pub(crate) fn hears(&mut self) -> bool {
        self.stream.get_ref().set_read_timeout(Some(SHORT)).unwrap();
        matches!(self.stream.read(&mut [0]), Ok(1..))
    }
}

fn answers_by_udp(address: Ipv4Addr, port: u16) -> bool {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    if socket.connect((address, port)).is_err() {
        return false;
    }
    socket.set_read_timeout(Some(SHORT)).unwrap();
    socket.send(b"ping").is_ok() && socket.recv(&mut [0; 64]).is_ok()
}

/// A TCP and an UDP server on all addresses of the calling thread's namespace, for the life of the test's process.
pub(crate) fn serve_everywhere(port: u16) {
    serve(Ipv4Addr::UNSPECIFIED, port);
}

pub(crate) fn serve(address: Ipv4Addr, port: u16) {
    let listener = TcpListener::bind((address, port)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || repeat(&stream));
        }
    });
    let socket = UdpSocket::bind((address, port)).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            _ = socket.send_to(&buffer[..length], from);
        }
    });
}

fn repeat(stream: &TcpStream) -> io::Result<()> {
    let mut writer = stream;
    writeln!(writer, "{}", stream.peer_addr()?.ip())?;
    for line in BufReader::new(stream).lines() {
        writeln!(writer, "{}", line?)?;
    }
    Ok(())
}

/// Waits for what has no event to wait for.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
