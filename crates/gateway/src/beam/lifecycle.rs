//! Making, finding, changing and ending sandboxes.

use std::time::Duration;

use fermata_engine::{ImageId, Sandbox, SandboxStatus};
use prost_types::Timestamp;

use super::failure::BeamError;
use super::stub::{STUB_LABEL, StubConfiguration};
use super::wire::{gateway, pod, types};
use super::{Beam, WORKSPACE_ID, memory, network, sandbox_id};

pub(super) async fn get_or_create_stub(
    beam: Beam,
    request: gateway::GetOrCreateStubRequest,
) -> Result<gateway::GetOrCreateStubResponse, BeamError> {
    let force_create = request.force_create;
    let configuration = StubConfiguration::try_from(request)?;
    let store = &beam.inner.store;
    let found = if force_create {
        None
    } else {
        store.find_stub(&configuration).await?
    };
    let stub_id = match found {
        Some(id) => id,
        None => store.add_stub(&configuration).await?,
    };
    Ok(gateway::GetOrCreateStubResponse {
        ok: true,
        stub_id,
        ..Default::default()
    })
}

pub(super) async fn create(
    beam: Beam,
    request: pod::CreatePodRequest,
) -> Result<pod::CreatePodResponse, BeamError> {
    if request.machine_id.is_some_and(|id| !id.is_empty()) {
        return Err(BeamError::unsupported("choosing a machine (machine_id)"));
    }
    if let Some(id) = request.checkpoint_id.filter(|id| !id.is_empty()) {
        return memory::restore(beam, &id).await;
    }
    let mut configuration = beam
        .inner
        .store
        .stub(&request.stub_id)
        .await?
        .ok_or_else(|| BeamError::StubNotFound {
            id: request.stub_id.clone(),
        })?;
    if let Some(image) = request.image_id.filter(|id| !id.is_empty()) {
        configuration.image = Some(
            image
                .parse::<ImageId>()
                .map_err(fermata_engine::EngineError::InvalidId)?,
        );
    }
    let sandbox = beam
        .engine()
        .create_sandbox(configuration.sandbox(&request.stub_id)?)
        .await?;
    Ok(pod::CreatePodResponse {
        ok: true,
        container_id: sandbox.id.into(),
        stub_id: request.stub_id,
        ..Default::default()
    })
}

pub(super) async fn connect(
    beam: Beam,
    request: pod::PodSandboxConnectRequest,
) -> Result<pod::PodSandboxConnectResponse, BeamError> {
    beam.handle(&request.container_id).await?;
    Ok(pod::PodSandboxConnectResponse {
        ok: true,
        stub_id: stub_of(&request.container_id).to_owned(),
        ..Default::default()
    })
}

pub(super) async fn stop(
    beam: Beam,
    request: gateway::StopContainerRequest,
) -> Result<gateway::StopContainerResponse, BeamError> {
    beam.engine()
        .stop_sandbox(&sandbox_id(&request.container_id)?)
        .await?;
    Ok(gateway::StopContainerResponse {
        ok: true,
        ..Default::default()
    })
}

pub(super) async fn list(
    beam: Beam,
    _request: gateway::ListContainersRequest,
) -> Result<gateway::ListContainersResponse, BeamError> {
    let sandboxes = beam.engine().sandboxes().await?;
    Ok(gateway::ListContainersResponse {
        ok: true,
        containers: sandboxes.iter().filter_map(describe).collect(),
        ..Default::default()
    })
}

pub(super) async fn update_ttl(
    beam: Beam,
    request: pod::PodSandboxUpdateTtlRequest,
) -> Result<pod::PodSandboxUpdateTtlResponse, BeamError> {
    let timeout = u64::try_from(request.ttl)
        .ok()
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs);
    let id = sandbox_id(&request.container_id)?;
    beam.engine().set_idle_timeout(&id, timeout).await?;
    Ok(pod::PodSandboxUpdateTtlResponse {
        ok: true,
        ..Default::default()
    })
}

pub(super) async fn update_network(
    beam: Beam,
    request: pod::PodSandboxUpdateNetworkPermissionsRequest,
) -> Result<pod::PodSandboxUpdateNetworkPermissionsResponse, BeamError> {
    let policy = network::policy(request.block_network, &request.allow_list)?;
    let id = sandbox_id(&request.container_id)?;
    beam.engine().set_network(&id, policy).await?;
    Ok(pod::PodSandboxUpdateNetworkPermissionsResponse {
        ok: true,
        ..Default::default()
    })
}

pub(super) async fn create_image(
    beam: Beam,
    request: pod::PodSandboxCreateImageFromFilesystemRequest,
) -> Result<pod::PodSandboxCreateImageFromFilesystemResponse, BeamError> {
    let id = sandbox_id(&request.container_id)?;
    let snapshot = beam.engine().snapshot_filesystem(&id).await?;
    let image_id = snapshot.image.to_string();
    beam.engine().measure_in_background(snapshot);
    Ok(pod::PodSandboxCreateImageFromFilesystemResponse {
        ok: true,
        image_id,
        ..Default::default()
    })
}

/// The sandbox's own status and exit code; -1 for none.
pub(super) async fn sandbox_status(
    beam: &Beam,
    container_id: &str,
) -> Result<(&'static str, i32), BeamError> {
    let sandbox = beam.engine().sandbox(&sandbox_id(container_id)?).await?;
    let is_over = matches!(
        sandbox.status,
        SandboxStatus::Stopped | SandboxStatus::Failed
    );
    let exit_code = sandbox.exit_code.filter(|_| is_over).unwrap_or(-1);
    Ok((status_word(sandbox.status), exit_code))
}

pub(super) fn status_word(status: SandboxStatus) -> &'static str {
    match status {
        SandboxStatus::Creating => "pending",
        SandboxStatus::Running => "running",
        SandboxStatus::Stopping => "stopping",
        SandboxStatus::Stopped => "exited",
        SandboxStatus::Failed => "failed",
    }
}

/// The stub's part of an id of the form `sandbox-{stub, 36}-{8}`; empty for ids of other interfaces.
pub(super) fn stub_of(container_id: &str) -> &str {
    container_id
        .strip_prefix("sandbox-")
        .and_then(|rest| rest.split_at_checked(36))
        .filter(|(_, unique)| unique.len() == 9 && unique.starts_with('-'))
        .map_or("", |(stub, _)| stub)
}

/// Ended sandboxes are not listed.
fn describe(sandbox: &Sandbox) -> Option<types::Container> {
    let status = match sandbox.status {
        SandboxStatus::Creating => "PENDING",
        SandboxStatus::Running => "RUNNING",
        SandboxStatus::Stopping => "STOPPING",
        SandboxStatus::Stopped | SandboxStatus::Failed => return None,
    };
    let created_at = Timestamp {
        seconds: sandbox.created_at.as_second(),
        nanos: sandbox.created_at.subsec_nanosecond(),
    };
    Some(types::Container {
        container_id: sandbox.id.to_string(),
        stub_id: sandbox
            .spec
            .labels
            .get(STUB_LABEL)
            .cloned()
            .unwrap_or_default(),
        status: status.to_owned(),
        scheduled_at: Some(created_at),
        started_at: Some(created_at),
        workspace_id: WORKSPACE_ID.to_owned(),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stub_is_found_in_the_ids_made_from_it() {
        let stub = "6f1c2d1e-0000-4000-8000-000000000000";
        let spec = StubConfiguration::default().sandbox(stub).unwrap();
        assert_eq!(stub_of(spec.id.unwrap().as_str()), stub);
        for other in [
            "",
            "sandbox-",
            "sandbox-1",
            "0190-abc",
            &format!("sandbox-{stub}-123456789"),
        ] {
            assert_eq!(stub_of(other), "", "{other}");
        }
    }
}
