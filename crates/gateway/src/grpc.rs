//! The gRPC listener.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::Auth;
use crate::beam::{self, Beam};

/// Two file chunks may be under way on a stream, and several streams on a connection.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// Notices a client whose machine is gone.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// How long calls under way may take to end once no new ones are taken.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// Answers Beam clients until `closing`, then lets calls under way end.
///
/// # Errors
/// When the listener breaks down.
pub async fn serve_grpc(
    beam: Beam,
    auth: Auth,
    listener: TcpListener,
    closing: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .add_routes(beam::router(&beam, auth))
        .serve_with_incoming_shutdown(incoming, closing.clone().cancelled_owned());
    let drained = async {
        closing.cancelled().await;
        beam.close();
        tokio::time::sleep(DRAIN_LIMIT).await;
    };
    tokio::select! {
        served = server => served?,
        () = drained => tracing::warn!("calls are cut off: they did not end in time"),
    }
    beam.close();
    // What a call has begun goes on without it.
    if tokio::time::timeout(DRAIN_LIMIT, beam.closed())
        .await
        .is_err()
    {
        tracing::warn!("work of a call is still under way");
    }
    Ok(())
}
