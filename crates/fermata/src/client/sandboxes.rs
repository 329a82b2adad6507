use fermata_engine::{Sandbox, SandboxId, SandboxSpec};
use reqwest::Method;

use super::{Client, Result, resolve};

impl Client {
    pub(crate) async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<Sandbox> {
        self.post("/v1/sandboxes", spec).await
    }

    pub(crate) async fn sandboxes(&self) -> Result<Vec<Sandbox>> {
        self.get("/v1/sandboxes").await
    }

    /// The sandbox whose id is, or begins with, `prefix`.
    pub(crate) async fn sandbox(&self, prefix: &str) -> Result<Sandbox> {
        let sandboxes = self.sandboxes().await?;
        let id = resolve(
            "sandbox",
            prefix,
            sandboxes.iter().map(|sandbox| sandbox.id.as_str()),
        )?
        .to_owned();
        let found = sandboxes
            .into_iter()
            .find(|sandbox| sandbox.id.as_str() == id);
        found.ok_or(super::ClientError::Unknown {
            what: "sandbox",
            prefix: id,
        })
    }

    pub(crate) async fn stop_sandbox(&self, id: &SandboxId) -> Result<Sandbox> {
        self.answer(self.request(Method::DELETE, &format!("/v1/sandboxes/{id}")))
            .await
    }

    /// Stops it too, if it runs.
    pub(crate) async fn remove_sandbox(&self, id: &SandboxId) -> Result<Sandbox> {
        self.answer(self.request(Method::DELETE, &format!("/v1/sandboxes/{id}?forget=true")))
            .await
    }
}
