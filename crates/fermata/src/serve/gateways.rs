//! The two listeners.

use std::net::SocketAddr;
use std::sync::Arc;

use fermata_engine::Engine;
use fermata_gateway::rest;
use tokio::net::TcpListener;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use super::error::ServeError;
use crate::endpoint::Endpoints;

/// Bound, not yet answering: callers wait in the backlog until the engine is open.
#[derive(Debug)]
pub(super) struct Gateways {
    grpc: TcpListener,
    http: TcpListener,
}

impl Gateways {
    pub(super) async fn bind(grpc: SocketAddr, http: SocketAddr) -> Result<Self, ServeError> {
        Ok(Self {
            grpc: bind("gRPC", grpc).await?,
            http: bind("HTTP", http).await?,
        })
    }

    /// The real addresses, also where port 0 was asked for.
    pub(super) fn endpoints(&self) -> Result<Endpoints, ServeError> {
        let address = |what, listener: &TcpListener| {
            listener
                .local_addr()
                .map_err(|source| ServeError::Http { what, source })
        };
        Ok(Endpoints {
            grpc: address("gRPC", &self.grpc)?,
            http: address("HTTP", &self.http)?,
            pid: std::process::id(),
        })
    }

    /// Answers until told to drain, then until the last call has ended.
    pub(super) async fn serve(
        self,
        engine: Engine,
        token: Arc<str>,
        draining: CancellationToken,
    ) -> Result<(), ServeError> {
        let http = axum::serve(self.http, rest::router(engine, token))
            .with_graceful_shutdown(draining.clone().cancelled_owned());
        let http = async {
            http.await
                .map_err(|source| ServeError::Http { what: "HTTP", source })
        };
        drop(self.grpc);
        http.await
    }
}

async fn bind(what: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Bind { what, address, source })
}

/// What became of the task that served.
pub(super) fn outcome(ended: Result<Result<(), ServeError>, JoinError>) -> Result<(), ServeError> {
    ended.map_err(ServeError::Task)?
}
