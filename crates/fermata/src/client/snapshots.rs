use fermata_engine::{FilesystemSnapshot, MemorySnapshot, SandboxId, SnapshotId};
use fermata_gateway::rest::model::{Child, Forked, PlayOn, SnapshotKind, TakeSnapshot};
use reqwest::Method;

use super::{Client, ClientError, Result, resolve};

impl Client {
    pub(crate) async fn snapshot_filesystem(&self, id: &SandboxId) -> Result<FilesystemSnapshot> {
        self.post(
            &format!("/v1/sandboxes/{id}/snapshots"),
            &TakeSnapshot::default(),
        )
        .await
    }

    pub(crate) async fn snapshot_memory(
        &self,
        id: &SandboxId,
        stop: bool,
    ) -> Result<MemorySnapshot> {
        let take = TakeSnapshot {
            kind: SnapshotKind::Memory,
            stop,
        };
        self.post(&format!("/v1/sandboxes/{id}/snapshots"), &take)
            .await
    }

    pub(crate) async fn memory_snapshots(&self) -> Result<Vec<MemorySnapshot>> {
        self.get("/v1/snapshots").await
    }

    /// The memory snapshot whose id is, or begins with, `prefix`.
    pub(crate) async fn memory_snapshot(&self, prefix: &str) -> Result<MemorySnapshot> {
        let snapshots = self.memory_snapshots().await?;
        let ids = snapshots.iter().map(|snapshot| snapshot.id.as_str());
        let id = resolve("snapshot", prefix, ids)?.to_owned();
        let found = snapshots
            .into_iter()
            .find(|snapshot| snapshot.id.as_str() == id);
        found.ok_or(ClientError::Unknown {
            what: "snapshot",
            prefix: id,
        })
    }

    pub(crate) async fn remove_memory_snapshot(
        &self,
        id: &SnapshotId,
        keep_image: bool,
    ) -> Result<()> {
        let path = format!("/v1/snapshots/{id}?keep_image={keep_image}");
        self.send(self.request(Method::DELETE, &path)).await?;
        Ok(())
    }

    pub(crate) async fn restore(&self, id: &SnapshotId, count: usize) -> Result<Vec<Child>> {
        self.post(&format!("/v1/snapshots/{id}/restore"), &PlayOn { count })
            .await
    }

    pub(crate) async fn fork(&self, id: &SandboxId, count: usize) -> Result<Forked> {
        self.post(&format!("/v1/sandboxes/{id}/fork"), &PlayOn { count })
            .await
    }
}
