use fermata_engine::SandboxId;
use fermata_gateway::rest::encoding::encode;
use fermata_gateway::rest::model::File;
use reqwest::{Body, Method, Response};

use super::{Client, ClientError, Result};

impl Client {
    /// Its metadata; `None` when it is not there.
    pub(crate) async fn stat(&self, id: &SandboxId, path: &[u8]) -> Result<Option<File>> {
        match self
            .get(&format!(
                "/v1/sandboxes/{id}/files/stat?path={}",
                encode(path)
            ))
            .await
        {
            Ok(file) => Ok(Some(file)),
            Err(ClientError::Refused { detail }) if detail.kind == "not_found" => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn list_directory(&self, id: &SandboxId, path: &[u8]) -> Result<Vec<File>> {
        self.get(&format!(
            "/v1/sandboxes/{id}/files/list?path={}",
            encode(path)
        ))
        .await
    }

    /// Its content is to be read from the response, piece by piece.
    pub(crate) async fn read_file(&self, id: &SandboxId, path: &[u8]) -> Result<Response> {
        let path = format!("/v1/sandboxes/{id}/files?path={}", encode(path));
        self.send(self.request(Method::GET, &path)).await
    }

    pub(crate) async fn write_file(
        &self,
        id: &SandboxId,
        path: &[u8],
        mode: u32,
        content: impl Into<Body>,
    ) -> Result<()> {
        let path = format!(
            "/v1/sandboxes/{id}/files?path={}&mode={mode:o}",
            encode(path)
        );
        self.send(self.request(Method::PUT, &path).body(content))
            .await?;
        Ok(())
    }

    pub(crate) async fn create_directory(
        &self,
        id: &SandboxId,
        path: &[u8],
        mode: u32,
    ) -> Result<()> {
        let path = format!(
            "/v1/sandboxes/{id}/directories?path={}&mode={mode:o}",
            encode(path)
        );
        self.send(self.request(Method::POST, &path)).await?;
        Ok(())
    }
}
