//! The two listeners.

use std::future::IntoFuture as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fermata_engine::Engine;
use fermata_gateway::beam::Beam;
use fermata_gateway::{Auth, rest, serve_grpc};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use super::error::ServeError;
use crate::endpoint::Endpoints;

/// How many connections may wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// How long HTTP calls under way may take to end once no new ones are taken.
const HTTP_DRAIN: Duration = Duration::from_secs(5);

/// Bound, so that the addresses are ours, but not listening: a connection is possible only when it will be answered.
#[derive(Debug)]
pub(super) struct Gateways {
    grpc: TcpSocket,
    http: TcpSocket,
}

impl Gateways {
    pub(super) fn bind(grpc: SocketAddr, http: SocketAddr) -> Result<Self, ServeError> {
        Ok(Self {
            grpc: bind("gRPC", grpc)?,
            http: bind("HTTP", http)?,
        })
    }

    /// The real addresses, also where port 0 was asked for.
    pub(super) fn endpoints(&self) -> Result<Endpoints, ServeError> {
        let address = |what, socket: &TcpSocket| {
            socket
                .local_addr()
                .map_err(|source| ServeError::Http { what, source })
        };
        Ok(Endpoints {
            grpc: address("gRPC", &self.grpc)?,
            http: address("HTTP", &self.http)?,
            pid: std::process::id(),
        })
    }

    /// From now on connections are taken.
    pub(super) fn listen(self) -> Result<Listening, ServeError> {
        let listen = |what, socket: TcpSocket| {
            socket
                .listen(BACKLOG)
                .map_err(|source| ServeError::Http { what, source })
        };
        Ok(Listening {
            grpc: listen("gRPC", self.grpc)?,
            http: listen("HTTP", self.http)?,
        })
    }
}

/// Taking connections.
#[derive(Debug)]
pub(super) struct Listening {
    grpc: TcpListener,
    http: TcpListener,
}

impl Listening {
    /// Answers until told to drain, then until the last call has ended or may be waited for no longer.
    pub(super) async fn serve(
        self,
        engine: Engine,
        beam: Beam,
        token: Arc<str>,
        draining: CancellationToken,
    ) -> Result<(), ServeError> {
        let auth = Auth::new(&token);
        let http = serve_http(
            self.http,
            rest::router(engine, auth.clone(), draining.clone()),
            draining.clone(),
        );
        let grpc = async {
            serve_grpc(beam, auth, self.grpc, draining.clone())
                .await
                .map_err(ServeError::Grpc)
        };
        // If one breaks down, the other one must not be left running.
        let stop_both = draining.drop_guard_ref();
        let served = tokio::try_join!(http, grpc).map(|_both| ());
        drop(stop_both);
        served
    }
}

/// Callers that wait for output would be waited for in turn.
async fn serve_http(
    listener: TcpListener,
    router: axum::Router,
    draining: CancellationToken,
) -> Result<(), ServeError> {
    let server = axum::serve(listener, router)
        .with_graceful_shutdown(draining.clone().cancelled_owned())
        .into_future();
    let drained = async {
        draining.cancelled().await;
        tokio::time::sleep(HTTP_DRAIN).await;
    };
    tokio::select! {
        served = server => served.map_err(|source| ServeError::Http { what: "HTTP", source }),
        () = drained => {
            tracing::warn!("HTTP calls are cut off: they did not end in time");
            Ok(())
        }
    }
}

fn bind(what: &'static str, address: SocketAddr) -> Result<TcpSocket, ServeError> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    };
    socket
        .and_then(|socket| {
            // Connections of the server before, still in TIME_WAIT, are no obstacle.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(socket)
        })
        .map_err(|source| ServeError::Bind {
            what,
            address,
            source,
        })
}

/// What became of the task that served.
pub(super) fn outcome(ended: Result<Result<(), ServeError>, JoinError>) -> Result<(), ServeError> {
    ended.map_err(ServeError::Task)?
}
