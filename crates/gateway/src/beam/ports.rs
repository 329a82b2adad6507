//! Exposed ports and their URLs.

use fermata_engine::{EngineError, PortNumber};

use super::failure::BeamError;
use super::wire::pod;
use super::{Beam, sandbox_id};

pub(super) async fn expose(
    beam: Beam,
    request: pod::PodSandboxExposePortRequest,
) -> Result<pod::PodSandboxExposePortResponse, BeamError> {
    let id = sandbox_id(&request.container_id)?;
    let port = port(request.port.into())?;
    let exposed = beam.engine().expose_port(&id, port).await?;
    Ok(pod::PodSandboxExposePortResponse {
        ok: true,
        url: exposed.url,
        ..Default::default()
    })
}

pub(super) async fn list_urls(
    beam: Beam,
    request: pod::PodSandboxListUrlsRequest,
) -> Result<pod::PodSandboxListUrlsResponse, BeamError> {
    let id = sandbox_id(&request.container_id)?;
    let ports = beam.engine().ports(&id).await?;
    Ok(pod::PodSandboxListUrlsResponse {
        ok: true,
        urls: ports
            .into_iter()
            .map(|exposed| (exposed.port.get().into(), exposed.url))
            .collect(),
        ..Default::default()
    })
}

/// A port as the client numbers it.
pub(super) fn port(number: i64) -> Result<PortNumber, BeamError> {
    PortNumber::try_from(number).map_err(|error| EngineError::from(error).into())
}
