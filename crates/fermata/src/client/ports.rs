use fermata_engine::{ExposedPort, PortNumber, SandboxId};
use fermata_gateway::rest::model::ExposePort;
use reqwest::Method;

use super::{Client, Result};

impl Client {
    pub(crate) async fn ports(&self, id: &SandboxId) -> Result<Vec<ExposedPort>> {
        self.get(&format!("/v1/sandboxes/{id}/ports")).await
    }

    pub(crate) async fn expose_port(
        &self,
        id: &SandboxId,
        port: PortNumber,
    ) -> Result<ExposedPort> {
        self.post(&format!("/v1/sandboxes/{id}/ports"), &ExposePort { port })
            .await
    }

    pub(crate) async fn close_port(&self, id: &SandboxId, port: PortNumber) -> Result<()> {
        let path = format!("/v1/sandboxes/{id}/ports/{port}");
        self.send(self.request(Method::DELETE, &path)).await?;
        Ok(())
    }
}
