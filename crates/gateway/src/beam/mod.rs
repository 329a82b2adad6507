//! The interface that the official Beam client speaks: gRPC.
//!
//! ```text
//! request ─► token ─► service ─┬─ reads ─────────────────────────► engine / agent of one sandbox
//!                       │      └─ changes ─► Replays (one task) ─┘
//!                       └─ not offered: by name, never ignored
//! ```
//!
//! The client's words are "container" for a sandbox, "stub" for a configuration and "checkpoint" for a memory snapshot; they
//! end here. Reading output consumes it: the agent keeps a cursor for this interface, so that it survives this server.

mod attach;
mod command;
mod failure;
mod file_mode;
mod files;
mod gateway_service;
mod image_request;
mod image_service;
mod lifecycle;
mod memory;
mod middleware;
mod network;
mod object;
mod output;
mod pod_service;
mod ports;
mod processes;
mod replay;
mod store;
mod stub;
mod volume_service;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;

use fermata_engine::{Engine, EngineError, Handle, RuntimeErrorKind, SandboxId};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::Auth;
use failure::{Answer, BeamError};
use replay::{CallIds, Outcome, Replays};
pub use store::{BeamStore, StoreError};
use wire::gateway::gateway_service_server::GatewayServiceServer;
use wire::image::image_service_server::ImageServiceServer;
use wire::pod::pod_service_server::PodServiceServer;
use wire::volume::volume_service_server::VolumeServiceServer;

/// The client accepts and sends up to 16 MiB; its file chunks are 4 MiB and some bytes.
const MAX_MESSAGE_BYTES: usize = 32 << 20;
/// What an answer may hold so that the client takes it.
const MAX_ANSWER_BYTES: u64 = 15 << 20;
/// There is one workspace.
const WORKSPACE_ID: &str = "default";

/// Where this server is to be found.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// Of this interface.
    pub grpc: SocketAddr,
    /// Of the HTTP interface.
    pub http: SocketAddr,
}

/// Answers the Beam client. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Beam {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    engine: Engine,
    store: BeamStore,
    addresses: Addresses,
    replays: Replays,
    tasks: TaskTracker,
    closing: CancellationToken,
}

impl Beam {
    /// Serves from this engine.
    #[must_use]
    pub fn new(engine: Engine, store: BeamStore, addresses: Addresses) -> Self {
        let tasks = TaskTracker::new();
        Self {
            inner: Arc::new(Inner {
                engine,
                store,
                addresses,
                replays: Replays::new(tasks.clone()),
                tasks,
                closing: CancellationToken::new(),
            }),
        }
    }

    /// Ends long streams, so that a graceful shutdown comes to its end.
    pub(crate) fn close(&self) {
        self.inner.closing.cancel();
        self.inner.tasks.close();
    }

    /// Returns when no work is under way; to be called after [`Self::close`].
    pub(crate) async fn closed(&self) {
        self.inner.tasks.wait().await;
    }

    fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    /// The way into a running sandbox.
    async fn handle(&self, container_id: &str) -> Result<Handle, BeamError> {
        let id = sandbox_id(container_id)?;
        self.engine()
            .handle(&id)
            .await
            .map_err(|error| match error {
                EngineError::Runtime { source, .. }
                    if source.kind() == RuntimeErrorKind::Unavailable =>
                {
                    BeamError::Agent(source)
                }
                other => other.into(),
            })
    }

    /// A call that changes nothing: a repeat of it is simply done again.
    async fn read<Q, A, F>(
        &self,
        request: Request<Q>,
        work: impl FnOnce(Self, Q) -> F,
    ) -> Result<Response<A>, Status>
    where
        A: Answer,
        F: Future<Output = Result<A, BeamError>>,
    {
        let answer = work(self.clone(), request.into_inner()).await;
        Ok(Response::new(
            answer.unwrap_or_else(|error| A::failure(&error)),
        ))
    }

    /// A call that changes something: it runs to its end, and a repeat of it gets the first one's answer.
    async fn change<Q, A, F>(
        &self,
        request: Request<Q>,
        work: impl FnOnce(Self, Q) -> F,
    ) -> Result<Response<A>, Status>
    where
        A: Answer,
        F: Future<Output = Result<A, BeamError>> + Send + 'static,
    {
        let ids = CallIds::of(request.metadata());
        let work = Box::pin(work(self.clone(), request.into_inner()));
        self.run(ids, work, |answer| {
            answer
                .as_ref()
                .err()
                .is_none_or(|error| !error.is_transient())
        })
        .await
    }

    /// As [`Self::change`], for what the agent itself recognizes by the request id: a repeat asks the agent again, which
    /// also works after this server was started anew.
    async fn change_by_agent<Q, A, F>(
        &self,
        request: Request<Q>,
        work: impl FnOnce(Self, Q, String) -> F,
    ) -> Result<Response<A>, Status>
    where
        A: Answer,
        F: Future<Output = Result<A, BeamError>> + Send + 'static,
    {
        let ids = CallIds::of(request.metadata());
        let request_id = ids.request_id().to_owned();
        let work = Box::pin(work(self.clone(), request.into_inner(), request_id));
        self.run(ids, work, |_| false).await
    }

    async fn run<A, F>(
        &self,
        ids: CallIds,
        work: F,
        keep: impl FnOnce(&Result<A, BeamError>) -> bool + Send + 'static,
    ) -> Result<Response<A>, Status>
    where
        A: Answer,
        F: Future<Output = Result<A, BeamError>> + Send + 'static,
    {
        let work = async move {
            let result = work.await;
            Outcome {
                keep: keep(&result),
                answer: result.unwrap_or_else(|error| A::failure(&error)),
            }
        };
        self.inner.replays.run(ids, work).await.map(Response::new)
    }
}

/// An id that cannot be one belongs to no sandbox.
fn sandbox_id(container_id: &str) -> Result<SandboxId, BeamError> {
    container_id
        .parse()
        .map_err(|_invalid| BeamError::ContainerNotFound {
            id: container_id.chars().take(80).collect(),
        })
}

/// All services, behind the token.
#[must_use]
pub fn router(beam: &Beam, auth: Auth) -> Routes {
    macro_rules! service {
        ($server:ident) => {
            $server::new(beam.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES)
        };
    }
    let routes = Routes::new(service!(PodServiceServer))
        .add_service(service!(GatewayServiceServer))
        .add_service(service!(ImageServiceServer))
        .add_service(service!(VolumeServiceServer));
    middleware::wrap(routes, auth)
}
