//! Fermata's own HTTP interface, under `/v1`.
//!
//! ```text
//! request ─► span ─► token ─► handler ─► engine / agent of one sandbox
//!                      │         │
//!                      └─ 401    └─ ApiError: {"error": {"kind", "message"}} with a status from one table
//! ```
//!
//! Output is read by offset, so any number of readers see all of it; nothing here is consumed by reading.

mod access;
mod attach;
pub mod attach_frame;
pub mod encoding;
mod error;
mod extract;
mod files;
mod images;
pub mod model;
mod ports;
mod processes;
mod sandboxes;
mod snapshots;

use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::routing::{delete, get, post, put};
use axum::{Extension, Json, Router, middleware};
use fermata_engine::Engine;
use tokio_util::sync::CancellationToken;

use crate::Auth;
pub use error::{ApiError, status_of};

/// What `/version` answers, and what the `fermata` program calls itself.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// All routes. Everything but `/healthz` and `/version` wants `Authorization: Bearer <token>`. Calls that wait for something
/// to happen stop waiting at `closing`.
pub fn router(engine: Engine, auth: Auth, closing: CancellationToken) -> Router {
    Router::new()
        .nest("/v1", protected())
        .layer(middleware::from_fn_with_state(auth, access::require_token))
        .route("/healthz", get(health))
        .route("/version", get(version))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(Extension(closing))
        .layer(middleware::from_fn(access::trace))
        .with_state(engine)
}

fn protected() -> Router<Engine> {
    Router::new()
        .route("/sandboxes", get(sandboxes::list).post(sandboxes::create))
        .route(
            "/sandboxes/{sandbox}",
            get(sandboxes::inspect).delete(sandboxes::stop),
        )
        .route("/sandboxes/{sandbox}/ttl", put(sandboxes::set_ttl))
        .route("/sandboxes/{sandbox}/network", put(sandboxes::set_network))
        .route("/sandboxes/{sandbox}/snapshots", post(snapshots::take))
        .route("/sandboxes/{sandbox}/fork", post(snapshots::fork))
        .route(
            "/sandboxes/{sandbox}/ports",
            get(ports::list).post(ports::expose),
        )
        .route("/sandboxes/{sandbox}/ports/{port}", delete(ports::close))
        .route(
            "/sandboxes/{sandbox}/processes",
            get(processes::list).post(processes::start),
        )
        .route(
            "/sandboxes/{sandbox}/processes/{pid}",
            get(processes::inspect),
        )
        .route(
            "/sandboxes/{sandbox}/processes/{pid}/output",
            get(processes::output),
        )
        .route(
            "/sandboxes/{sandbox}/processes/{pid}/stdin",
            // The body is passed on as it arrives, so its size costs no memory.
            post(processes::write_stdin).layer(DefaultBodyLimit::disable()),
        )
        .route(
            "/sandboxes/{sandbox}/processes/{pid}/resize",
            post(processes::resize),
        )
        .route(
            "/sandboxes/{sandbox}/processes/{pid}/signal",
            post(processes::signal),
        )
        .route(
            "/sandboxes/{sandbox}/processes/{pid}/attach",
            get(attach::attach),
        )
        .route(
            "/sandboxes/{sandbox}/files",
            get(files::read)
                .put(files::write)
                .delete(files::remove)
                .layer(DefaultBodyLimit::disable()),
        )
        .route("/sandboxes/{sandbox}/files/stat", get(files::stat))
        .route("/sandboxes/{sandbox}/files/list", get(files::list))
        .route(
            "/sandboxes/{sandbox}/directories",
            post(files::create_directory),
        )
        .route("/snapshots", get(snapshots::list))
        .route(
            "/snapshots/{snapshot}",
            get(snapshots::inspect).delete(snapshots::remove),
        )
        .route("/snapshots/{snapshot}/restore", post(snapshots::restore))
        .route("/images", get(images::list))
        .route(
            "/images/{image}",
            get(images::inspect).delete(images::remove),
        )
        .route("/builds", post(images::build))
}

async fn health() -> &'static str {
    "ok\n"
}

async fn version() -> Json<model::Version> {
    Json(model::Version {
        version: VERSION.to_owned(),
    })
}

async fn unknown_route() -> ApiError {
    ApiError::route(StatusCode::NOT_FOUND, "there is nothing at this path")
}

async fn wrong_method() -> ApiError {
    ApiError::route(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path does not take this method",
    )
}
