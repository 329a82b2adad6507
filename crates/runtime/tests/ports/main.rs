//! Exposed ports against the real kernel. Needs root, for a network namespace of its own each.
#![expect(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "all of this is a test"
)]

mod inside;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use fermata_runtime::ports::{HostPorts, Ports};
use inside::Inside;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

const PORT: NonZeroU16 = NonZeroU16::new(8000).unwrap();
/// For what must happen.
const LIMIT: Duration = Duration::from_secs(10);
/// For what must not happen.
const SHORT: Duration = Duration::from_millis(200);
/// Longer than any test takes to start a server.
const WAIT: Duration = Duration::from_secs(10);

/// A sandbox of which nothing is there but its network, with one exposed port.
struct Sandbox {
    inside: Inside,
    ports: Ports,
    uses: Arc<()>,
    host_port: u16,
}

impl Sandbox {
    fn new(wait: Duration) -> Self {
        let inside = Inside::new();
        let uses = Arc::new(());
        let counted = uses.clone();
        let ports = Ports::new(inside.path(), wait, move || counted.clone());
        let listener = HostPorts::new(Ipv4Addr::LOCALHOST.into(), None)
            .listen()
            .unwrap();
        let host_port = listener.port();
        ports.expose(PORT, listener).unwrap();
        Self {
            inside,
            ports,
            uses,
            host_port,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.host_port))
            .await
            .unwrap()
    }

    /// How many connections hold what they are given to hold: all but ours and that of the function that gives.
    fn uses(&self) -> usize {
        Arc::strong_count(&self.uses) - 2
    }
}

async fn say(caller: &mut TcpStream, word: &[u8]) {
    caller.write_all(word).await.unwrap();
}

async fn hear(caller: &mut TcpStream) -> std::io::Result<String> {
    let mut heard = [0; 64];
    let length = timeout(LIMIT, caller.read(&mut heard)).await.unwrap()?;
    Ok(String::from_utf8_lossy(&heard[..length]).into_owned())
}

async fn echoes(caller: &mut TcpStream, word: &str) {
    say(caller, word.as_bytes()).await;
    assert_eq!(hear(caller).await.unwrap(), word);
}

#[tokio::test(flavor = "multi_thread")]
async fn loopback_of_either_kind_is_reached_and_the_end_of_each_side_arrives() {
    for address in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
        let sandbox = Sandbox::new(WAIT);
        sandbox.inside.echo(address, PORT.get());
        let mut caller = sandbox.connect().await;
        echoes(&mut caller, "hello").await;
        assert_eq!(sandbox.uses(), 1);
        caller.shutdown().await.unwrap();
        assert_eq!(hear(&mut caller).await.unwrap(), "");
        sandbox.ports.close_all().await;
        assert_eq!(sandbox.uses(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_leaves_what_is_open_and_holds_back_what_is_new() {
    let sandbox = Sandbox::new(WAIT);
    sandbox.inside.echo(Ipv4Addr::LOCALHOST.into(), PORT.get());
    let mut before = sandbox.connect().await;
    echoes(&mut before, "before").await;
    assert_ne!(sandbox.inside.connections(PORT.get()), Vec::<String>::new());

    let suspension = timeout(LIMIT, sandbox.ports.suspend()).await.unwrap();
    let open = sandbox.inside.connections(PORT.get()).len();
    echoes(&mut before, "during").await;

    let mut meanwhile = sandbox.connect().await;
    say(&mut meanwhile, b"meanwhile").await;
    timeout(SHORT, meanwhile.read_u8()).await.unwrap_err();
    assert_eq!(sandbox.inside.connections(PORT.get()).len(), open);

    drop(suspension);
    assert_eq!(hear(&mut meanwhile).await.unwrap(), "meanwhile");
    let mut after = sandbox.connect().await;
    echoes(&mut after, "after").await;
    let again = timeout(LIMIT, sandbox.ports.suspend()).await.unwrap();
    drop(again);
    sandbox.ports.close_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_server_waits_on_after_a_suspension() {
    let sandbox = Sandbox::new(WAIT);
    let mut early = sandbox.connect().await;
    say(&mut early, b"early").await;
    timeout(SHORT, early.read_u8()).await.unwrap_err();
    drop(timeout(LIMIT, sandbox.ports.suspend()).await.unwrap());
    sandbox.inside.echo(Ipv4Addr::LOCALHOST.into(), PORT.get());
    assert_eq!(hear(&mut early).await.unwrap(), "early");
    sandbox.ports.close_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_ends_everything_even_what_is_held_back() {
    let sandbox = Sandbox::new(WAIT);
    sandbox.inside.echo(Ipv4Addr::LOCALHOST.into(), PORT.get());
    let mut open = sandbox.connect().await;
    echoes(&mut open, "open").await;
    let suspension = sandbox.ports.suspend().await;
    let mut held = sandbox.connect().await;
    timeout(SHORT, held.read_u8()).await.unwrap_err();
    timeout(LIMIT, sandbox.ports.close_all()).await.unwrap();
    assert_eq!(sandbox.uses(), 0);
    drop(suspension);
    assert_ne!(hear(&mut held).await.ok().as_deref(), Some("held"));
    TcpStream::connect((Ipv4Addr::LOCALHOST, sandbox.host_port))
        .await
        .unwrap_err();
    let another = HostPorts::new(Ipv4Addr::LOCALHOST.into(), None)
        .listen()
        .unwrap();
    sandbox.ports.expose(PORT, another).unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_port_is_closed_without_the_others() {
    let sandbox = Sandbox::new(WAIT);
    let other = NonZeroU16::new(9000).unwrap();
    let listener = HostPorts::new(Ipv4Addr::LOCALHOST.into(), None)
        .listen()
        .unwrap();
    sandbox.ports.expose(other, listener).unwrap();
    sandbox.inside.echo(Ipv4Addr::LOCALHOST.into(), PORT.get());
    let mut caller = sandbox.connect().await;
    echoes(&mut caller, "one").await;
    assert!(sandbox.ports.close(other).await);
    assert!(!sandbox.ports.close(other).await);
    assert_eq!(sandbox.ports.list(), [(PORT, sandbox.host_port)]);
    echoes(&mut caller, "two").await;
    sandbox.ports.close_all().await;
    assert_eq!(sandbox.ports.list(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn http_gets_a_502_at_once_when_nothing_is_to_be_waited_for() {
    let sandbox = Sandbox::new(Duration::ZERO);
    let mut caller = sandbox.connect().await;
    say(&mut caller, b"GET / HTTP/1.1\r\n\r\n").await;
    let mut answer = String::new();
    let read = timeout(LIMIT, caller.read_to_string(&mut answer)).await;
    read.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    sandbox.ports.close_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_thread_that_makes_sockets_pins_no_namespace() {
    let sandbox = Sandbox::new(WAIT);
    sandbox.inside.echo(Ipv4Addr::LOCALHOST.into(), PORT.get());
    let mut caller = sandbox.connect().await;
    echoes(&mut caller, "x").await;
    let ours = std::fs::read_link("/proc/self/ns/net").unwrap();
    let mut found = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        // Threads of other tests may end meanwhile.
        let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
        if name.trim_end() == "sandbox-sockets" {
            assert_eq!(std::fs::read_link(task.join("ns/net")).unwrap(), ours);
            found += 1;
        }
    }
    assert_eq!(found, 1, "one thread for all");
    sandbox.ports.close_all().await;
}
