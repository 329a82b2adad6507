//! Memory snapshots, which the client calls checkpoints.

use fermata_engine::{AfterCapture, EngineError, RestoreSpec, SandboxId, SnapshotId};

use super::failure::BeamError;
use super::stub::{STUB_LABEL, container_id};
use super::wire::{gateway, pod};
use super::{Beam, sandbox_id};

pub(super) async fn snapshot(
    beam: Beam,
    request: pod::PodSandboxSnapshotMemoryRequest,
) -> Result<pod::PodSandboxSnapshotMemoryResponse, BeamError> {
    let after = if request.terminate_after_checkpoint {
        AfterCapture::Stop
    } else {
        AfterCapture::RunOn
    };
    let id = sandbox_id(&request.container_id)?;
    let snapshot = beam.engine().snapshot_memory(&id, after).await?;
    Ok(pod::PodSandboxSnapshotMemoryResponse {
        ok: true,
        checkpoint_id: snapshot.id.into(),
        runtime: snapshot.engine,
        ..Default::default()
    })
}

pub(super) async fn checkpoint_container(
    beam: Beam,
    request: gateway::CheckpointContainerRequest,
) -> Result<gateway::CheckpointContainerResponse, BeamError> {
    let id: SandboxId = sandbox_id(&request.container_id)?;
    let snapshot = beam
        .engine()
        .snapshot_memory(&id, AfterCapture::RunOn)
        .await?;
    Ok(gateway::CheckpointContainerResponse {
        ok: true,
        checkpoint_id: snapshot.id.into(),
        ..Default::default()
    })
}

/// A new sandbox of a new stub, which is a copy of the held sandbox's. One that was not made by this interface has none; its
/// settings are the snapshot's all the same.
pub(super) async fn restore(
    beam: Beam,
    checkpoint_id: &str,
) -> Result<pod::CreatePodResponse, BeamError> {
    let id: SnapshotId = checkpoint_id.parse().map_err(EngineError::InvalidId)?;
    let snapshot = beam.engine().memory_snapshot(&id)?;
    let store = &beam.inner.store;
    let held_stub = snapshot.spec.labels.get(STUB_LABEL);
    let configuration = match held_stub {
        Some(stub) => store.stub(stub).await?.unwrap_or_default(),
        None => super::stub::StubConfiguration::default(),
    };
    let stub_id = store.add_stub(&configuration).await?;
    let mut labels = snapshot.spec.labels.clone();
    labels.insert(STUB_LABEL.to_owned(), stub_id.clone());
    let restore = RestoreSpec {
        id: Some(container_id(&stub_id)?),
        labels: Some(labels),
    };
    let sandbox = beam.engine().restore(&id, restore).await?;
    Ok(pod::CreatePodResponse {
        ok: true,
        container_id: sandbox.id.into(),
        stub_id,
        ..Default::default()
    })
}
