//! `volume.VolumeService`: volumes are not offered.

use tonic::{Request, Response, Status};

use super::Beam;
use super::failure::BeamError;
use super::wire::volume::volume_service_server::VolumeService;
use super::wire::volume::{GetOrCreateVolumeRequest, GetOrCreateVolumeResponse};

#[tonic::async_trait]
impl VolumeService for Beam {
    /// The client shows nothing of an `err_msg` here, so the refusal is a status.
    async fn get_or_create_volume(
        &self,
        request: Request<GetOrCreateVolumeRequest>,
    ) -> Result<Response<GetOrCreateVolumeResponse>, Status> {
        Err(BeamError::unsupported(format!("volumes (Volume {:?})", request.get_ref().name)).into())
    }
}
