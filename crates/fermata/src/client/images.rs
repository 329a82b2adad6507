use bytes::BytesMut;
use fermata_engine::{BuildEvent, Image, ImageId};
use fermata_gateway::rest::model::Build;
use futures::{Stream, StreamExt as _};
use reqwest::Method;

use super::{Client, ClientError, Result, resolve};

impl Client {
    pub(crate) async fn images(&self) -> Result<Vec<Image>> {
        self.get("/v1/images").await
    }

    /// The image whose id is, or begins with, `prefix`.
    pub(crate) async fn image(&self, prefix: &str) -> Result<Image> {
        let images = self.images().await?;
        let id = resolve(
            "image",
            prefix,
            images.iter().map(|image| image.id.as_str()),
        )?
        .to_owned();
        let found = images.into_iter().find(|image| image.id.as_str() == id);
        found.ok_or(ClientError::Unknown {
            what: "image",
            prefix: id,
        })
    }

    pub(crate) async fn remove_image(&self, id: &ImageId) -> Result<()> {
        self.send(self.request(Method::DELETE, &format!("/v1/images/{id}")))
            .await?;
        Ok(())
    }

    /// What the build says, as it says it.
    pub(crate) async fn build(
        &self,
        build: &Build,
    ) -> Result<impl Stream<Item = Result<BuildEvent>> + use<>> {
        let response = self
            .send(self.request(Method::POST, "/v1/builds").json(build))
            .await?;
        let lines = futures::stream::try_unfold(
            (response, BytesMut::new()),
            async |(mut response, mut received)| {
                while !received.contains(&b'\n') {
                    match response.chunk().await.map_err(ClientError::BrokenOff)? {
                        Some(piece) => received.extend_from_slice(&piece),
                        None => return Ok(None),
                    }
                }
                let end = received
                    .iter()
                    .position(|byte| *byte == b'\n')
                    .unwrap_or(received.len() - 1);
                let line = received.split_to(end + 1);
                let event = serde_json::from_slice(&line).map_err(ClientError::Answer)?;
                Ok(Some((event, (response, received))))
            },
        );
        Ok(lines.boxed_local())
    }
}
