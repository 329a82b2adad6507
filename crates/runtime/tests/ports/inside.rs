//! A network namespace with nothing but loopback, and servers in it.

use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, TcpListener};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use fermata_sys::network_namespace::unshare_network;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Lives as long as the file is open.
pub(crate) struct Inside {
    namespace: File,
}

impl Inside {
    pub(crate) fn new() -> Self {
        let make = || {
            unshare_network().unwrap();
            let up = Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .status();
            assert!(up.unwrap().success());
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        let namespace = thread::spawn(make).join().unwrap();
        Self { namespace }
    }

    pub(crate) fn path(&self) -> PathBuf {
        let (pid, descriptor) = (std::process::id(), self.namespace.as_raw_fd());
        format!("/proc/{pid}/fd/{descriptor}").into()
    }

    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(self.namespace.as_fd(), kind).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    /// A server that says back what it hears, for as long as the test's process lives. It listens when this returns.
    pub(crate) fn echo(&self, address: IpAddr, port: u16) {
        let listener = self.run(|| TcpListener::bind((address, port)).unwrap());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || {
                    // Ends with the connection, however that ends.
                    let _ = std::io::copy(&mut &stream, &mut &stream);
                    let _ = (&stream).flush();
                });
            }
        });
    }

    /// TCP sockets inside that belong to a connection from or to this port (`proc_net_tcp(5)`).
    pub(crate) fn connections(&self, port: u16) -> Vec<String> {
        const LISTENING: &str = "0A";
        let port = format!(":{port:04X}");
        let tables = self.run(|| {
            ["tcp", "tcp6"].map(|name| {
                std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap()
            })
        });
        let rows = tables.iter().flat_map(|table| table.lines().skip(1));
        rows.filter(|row| {
            let fields: Vec<_> = row.split_whitespace().collect();
            let ours = fields[1].ends_with(&port) || fields[2].ends_with(&port);
            ours && fields[3] != LISTENING
        })
        .map(str::to_owned)
        .collect()
    }
}
