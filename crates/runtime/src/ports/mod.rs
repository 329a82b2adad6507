//! Exposed ports: a listener on the host for each, whose connections are made inside the sandbox.
//!
//! ```text
//! caller ─► listener ─► gate (open | suspended) ─► connection inside: 127.0.0.1, ::1, eth0 ─► bytes, both ways
//!                                                        │ nothing listens within the wait
//!                                                        └─► 502 for who speaks HTTP, else closed
//! ```
//!
//! Bytes are passed as they are, so that whatever runs over TCP works. A port is exposed whether or not anything listens
//! inside. Suspending lets new connections wait.

mod connect;
mod host;
mod refusal;
mod relay;

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::RuntimeError;
use crate::gate::Gate;
pub use host::{HostPorts, Listener};

/// Connections of one sandbox at a time; more wait to be accepted. Each needs up to six descriptors of the daemon.
const CONNECTION_LIMIT: usize = 512;

/// After a failed accept, which mostly means that descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// After two minutes of silence in spite of questions, a caller is gone (tcp(7)).
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_COUNT: u32 = 4;

/// What each connection holds for as long as it lasts.
type Hold = dyn Fn() -> Box<dyn Any + Send> + Send + Sync;

/// The exposed ports of one sandbox.
#[derive(Debug)]
pub struct Ports {
    route: Arc<Route>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    exposed: BTreeMap<NonZeroU16, Exposed>,
    closed: bool,
}

/// One port. Dropping it would leave its tasks running: they are ended by [`Exposed::close`].
#[derive(Debug)]
struct Exposed {
    host_port: u16,
    closing: CancellationToken,
    tasks: TaskTracker,
}

/// The way into the sandbox.
struct Route {
    network_namespace: PathBuf,
    wait: Duration,
    gate: Gate,
    slots: Arc<Semaphore>,
    hold: Box<Hold>,
}

/// As long as it is held, nothing new is connected into the sandbox through its ports.
#[derive(Debug)]
pub struct Suspension<'a>(&'a Ports);

impl Ports {
    /// Nothing is exposed yet. A connection waits this long for a server that has yet to listen, and keeps what `hold` gives
    /// for as long as it lasts.
    #[must_use]
    pub fn new<H: Send + 'static>(
        network_namespace: PathBuf,
        wait: Duration,
        hold: impl Fn() -> H + Send + Sync + 'static,
    ) -> Self {
        Self {
            route: Arc::new(Route {
                network_namespace,
                wait,
                gate: Gate::default(),
                slots: Arc::new(Semaphore::new(CONNECTION_LIMIT)),
                hold: Box::new(move || Box::new(hold())),
            }),
            table: Mutex::default(),
        }
    }

    /// The port of the host by which a port is reached.
    #[must_use]
    pub fn host_port(&self, port: NonZeroU16) -> Option<u16> {
        self.table().exposed.get(&port).map(|found| found.host_port)
    }

    /// Every exposed port, in order, with the port of the host.
    #[must_use]
    pub fn list(&self) -> Vec<(NonZeroU16, u16)> {
        let table = self.table();
        let exposed = table.exposed.iter();
        exposed
            .map(|(port, found)| (*port, found.host_port))
            .collect()
    }

    /// Takes connections from `listener` to `port` of the sandbox. The port must not be exposed already.
    ///
    /// # Errors
    /// [`RuntimeError::PortsClosed`] after [`Self::close_all`].
    pub fn expose(&self, port: NonZeroU16, listener: Listener) -> Result<(), RuntimeError> {
        let mut table = self.table();
        if table.closed {
            return Err(RuntimeError::PortsClosed);
        }
        let exposed = Exposed {
            host_port: listener.port,
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        exposed.tasks.spawn(accept(
            listener.listener,
            port.get(),
            self.route.clone(),
            exposed.closing.clone(),
            exposed.tasks.clone(),
        ));
        let before = table.exposed.insert(port, exposed);
        debug_assert!(before.is_none(), "port {port} was exposed twice");
        Ok(())
    }

    /// Closes a port and its connections; `false` when it is not exposed. When it returns, nothing of it is left.
    pub async fn close(&self, port: NonZeroU16) -> bool {
        let found = self.table().exposed.remove(&port);
        match found {
            Some(exposed) => {
                exposed.close().await;
                true
            }
            None => false,
        }
    }

    /// Closes all ports, for ever. When it returns, nobody uses the sandbox's network namespace through them.
    pub async fn close_all(&self) {
        let exposed = {
            let mut table = self.table();
            table.closed = true;
            std::mem::take(&mut table.exposed)
        };
        futures::future::join_all(exposed.into_values().map(Exposed::close)).await;
    }

    /// Holds new connections back as long as the answer is kept, so that a memory capture finds none half made. Those that are
    /// open go on: a capture holds its end of them, and a restore resets it. One suspension at a time.
    pub async fn suspend(&self) -> Suspension<'_> {
        self.route.gate.close().await;
        Suspension(self)
    }

    /// Each change is made in one go, so a panic elsewhere does not spoil the table.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Suspension<'_> {
    fn drop(&mut self) {
        self.0.route.gate.open();
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        for exposed in self.table().exposed.values() {
            exposed.closing.cancel();
        }
    }
}

impl Exposed {
    async fn close(self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Route")
            .field("network_namespace", &self.network_namespace)
            .field("wait", &self.wait)
            .finish_non_exhaustive()
    }
}

async fn accept(
    listener: TcpListener,
    port: u16,
    route: Arc<Route>,
    closing: CancellationToken,
    tasks: TaskTracker,
) {
    let serve = async {
        loop {
            // The semaphore is never closed.
            let Ok(slot) = route.slots.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((caller, _)) => {
                    let (route, closing) = (route.clone(), closing.clone());
                    tasks.spawn(async move {
                        closing.run_until_cancelled(route.serve(caller, port)).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, port, "cannot accept a connection to an exposed port");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    closing.run_until_cancelled(serve).await;
}

/// Small pieces are passed on at once, and a caller on another machine that vanished without a word is noticed: as long as
/// it seems to be there, the sandbox is in use.
fn prepare(caller: &TcpStream) -> io::Result<()> {
    caller.set_nodelay(true)?;
    sockopt::set_tcp_keepidle(caller, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(caller, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(caller, KEEPALIVE_COUNT)?;
    Ok(sockopt::set_socket_keepalive(caller, true)?)
}

impl Route {
    /// One connection, from its first byte to its last.
    async fn serve(&self, caller: TcpStream, port: u16) {
        let _hold = (self.hold)();
        if prepare(&caller).is_err() {
            // It is broken already.
            return;
        }
        let (pass, connected) = loop {
            let mut pass = self.gate.pass().await;
            tokio::select! {
                // Nothing is connected yet, so nothing is lost by beginning anew after the suspension.
                () = pass.interrupted() => {}
                connected = connect::connect(&self.network_namespace, port, self.wait) => break (pass, connected),
            }
        };
        drop(pass);
        match connected {
            Ok(server) => {
                if let Err(error) = relay::relay(caller, server).await {
                    tracing::debug!(port, %error, "a connection to an exposed port was cut");
                }
            }
            Err(error) => {
                tracing::debug!(port, %error, "nothing listens at an exposed port");
                refusal::refuse(caller, port, &error).await;
            }
        }
    }
}
