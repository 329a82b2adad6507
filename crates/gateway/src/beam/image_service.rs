//! `image.ImageService`: finding and building images.
//!
//! The answer of `VerifyImageBuild` has no room for a reason, and the client raises a bare gRPC error as it is. So an
//! image that cannot be built "does not exist", and `BuildImage`, which the client asks next, says why: then the client
//! raises its own `ImageBuildError` with that reason.

use std::pin::Pin;

use fermata_engine::{BuildEvent, EngineError, ErrorKind, ImageId};
use futures::Stream;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use super::Beam;
use super::failure::BeamError;
use super::image_request::ImageDefinition;
use super::wire::image::image_service_server::ImageService;
use super::wire::image::{
    BuildImageRequest, BuildImageResponse, VerifyImageBuildRequest, VerifyImageBuildResponse,
};

type BuildStream = Pin<Box<dyn Stream<Item = Result<BuildImageResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ImageService for Beam {
    type BuildImageStream = BuildStream;

    async fn verify_image_build(
        &self,
        request: Request<VerifyImageBuildRequest>,
    ) -> Result<Response<VerifyImageBuildResponse>, Status> {
        Ok(Response::new(self.verify(request.into_inner()).await?))
    }

    async fn build_image(
        &self,
        request: Request<BuildImageRequest>,
    ) -> Result<Response<BuildStream>, Status> {
        let definition = ImageDefinition::from(request.into_inner());
        let python_version = definition.python_version.clone();
        let stream: BuildStream = match definition.build_spec() {
            Ok(Some(spec)) => Box::pin(follow(
                self.clone(),
                self.engine().build_image(spec),
                python_version,
            )),
            Ok(None) => only(finished(&self.engine().base_image(), python_version)),
            Err(error) => only(failed(error.chain())),
        };
        Ok(Response::new(stream))
    }
}

impl Beam {
    async fn verify(
        &self,
        request: VerifyImageBuildRequest,
    ) -> Result<VerifyImageBuildResponse, BeamError> {
        if request.force_rebuild {
            return Err(BeamError::unsupported("force_rebuild"));
        }
        let wanted = request.image_id.clone().filter(|id| !id.is_empty());
        let definition = ImageDefinition::from(request);
        if let Some(id) = wanted {
            if definition.asks_for_changes() {
                return Err(BeamError::unsupported(
                    "changing an image that is given by its id",
                ));
            }
            return self.verify_id(&id).await;
        }
        let (image, exists) = match definition.build_spec() {
            Ok(None) => (self.engine().base_image(), true),
            Ok(Some(spec)) => self.engine().find_build(&spec).await?,
            Err(error) => {
                tracing::debug!(error = %error.chain(), "image cannot be built");
                return Ok(VerifyImageBuildResponse::default());
            }
        };
        Ok(found(&image, exists))
    }

    async fn verify_id(&self, id: &str) -> Result<VerifyImageBuildResponse, BeamError> {
        let Ok(id) = id.parse::<ImageId>() else {
            return Ok(VerifyImageBuildResponse::default());
        };
        match self.engine().image(&id).await {
            Ok(_) => Ok(found(&id, true)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(found(&id, false)),
            Err(error) => Err(error.into()),
        }
    }
}

/// Passes on what a build says.
fn follow(
    beam: Beam,
    mut events: mpsc::Receiver<BuildEvent>,
    python_version: String,
) -> impl Stream<Item = Result<BuildImageResponse, Status>> {
    async_stream::try_stream! {
        loop {
            let event = tokio::select! {
                event = events.recv() => Ok(event),
                () = beam.inner.closing.cancelled() => Err(BeamError::from(EngineError::ShuttingDown)),
            };
            match event? {
                Some(BuildEvent::Output { text }) => yield BuildImageResponse {
                    msg: text,
                    ..BuildImageResponse::default()
                },
                Some(BuildEvent::Finished { image, .. }) => {
                    yield finished(&image, python_version);
                    break;
                }
                Some(BuildEvent::Failed { message }) => {
                    yield failed(message);
                    break;
                }
                None => Err(Status::internal("the build broke off"))?,
            }
        }
    }
}

fn only(response: BuildImageResponse) -> BuildStream {
    Box::pin(futures::stream::iter([Ok(response)]))
}

fn found(image: &ImageId, exists: bool) -> VerifyImageBuildResponse {
    VerifyImageBuildResponse {
        image_id: image.to_string(),
        valid: true,
        exists,
    }
}

/// The client puts the Python version into the stub.
fn finished(image: &ImageId, python_version: String) -> BuildImageResponse {
    BuildImageResponse {
        image_id: image.to_string(),
        done: true,
        success: true,
        python_version,
        ..BuildImageResponse::default()
    }
}

/// The client's error ends with `msg`.
fn failed(message: String) -> BuildImageResponse {
    BuildImageResponse {
        msg: message,
        done: true,
        ..BuildImageResponse::default()
    }
}
