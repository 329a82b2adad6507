//! Following a sandbox until it ends.
//!
//! A sandbox has no main process, so there is no output to follow; what is said is where it is in its life.

use std::pin::Pin;
use std::time::Duration;

use fermata_engine::{EngineError, Sandbox, SandboxId, SandboxStatus};
use futures::{Stream, StreamExt as _};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tonic::{Status, Streaming};

use super::failure::BeamError;
use super::wire::gateway::container_stream_message::Payload;
use super::wire::gateway::{AttachToContainerResponse, ContainerStreamMessage};
use super::{Beam, lifecycle, sandbox_id};

/// The engine has no event for the end of a sandbox; a person watches this.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

pub(super) type Answers =
    Pin<Box<dyn Stream<Item = Result<AttachToContainerResponse, Status>> + Send>>;

pub(super) async fn attach(
    beam: &Beam,
    mut messages: Streaming<ContainerStreamMessage>,
) -> Result<Answers, Status> {
    let container_id = first_request(&mut messages).await?;
    let id = sandbox_id(&container_id)?;
    let mut sandbox = beam.engine().sandbox(&id).await.map_err(BeamError::from)?;
    let beam = beam.clone();
    Ok(Box::pin(async_stream::try_stream! {
        if ending(&sandbox).is_none() {
            yield said(format!(
                "{id} is {}. It has no main process; start one with: beam container exec {id} -- COMMAND\n",
                lifecycle::status_word(sandbox.status)
            ));
        }
        let mut clock = interval(LOOK_INTERVAL);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if let Some(ending) = ending(&sandbox) {
                yield ending;
                break;
            }
            sandbox = look(&beam, &id, &mut clock, &mut messages).await?;
        }
    }))
}

/// The sandbox as it is at the next tick.
async fn look(
    beam: &Beam,
    id: &SandboxId,
    clock: &mut Interval,
    messages: &mut Streaming<ContainerStreamMessage>,
) -> Result<Sandbox, Status> {
    loop {
        tokio::select! {
            () = beam.inner.closing.cancelled() => {
                return Err(BeamError::from(EngineError::ShuttingDown).into());
            }
            _ = clock.tick() => {
                let sandbox = beam.engine().sandbox(id).await.map_err(BeamError::from)?;
                return Ok(sandbox);
            }
            // A client that has said all may still listen.
            Some(message) = messages.next() => check(&message?)?,
        }
    }
}

async fn first_request(messages: &mut Streaming<ContainerStreamMessage>) -> Result<String, Status> {
    while let Some(message) = messages.next().await {
        let message = message?;
        check(&message)?;
        if let Some(Payload::AttachRequest(request)) = message.payload {
            return Ok(request.container_id);
        }
    }
    Err(BeamError::invalid("no container was named to attach to").into())
}

fn check(message: &ContainerStreamMessage) -> Result<(), Status> {
    match message.payload {
        Some(Payload::SyncContainerWorkspace(_)) => Err(BeamError::unsupported(
            "syncing a directory into a container (sync_container_workspace)",
        )
        .into()),
        Some(Payload::AttachRequest(_)) | None => Ok(()),
    }
}

/// The last answer, once there is one to give.
fn ending(sandbox: &Sandbox) -> Option<AttachToContainerResponse> {
    let exit_code = match sandbox.status {
        SandboxStatus::Creating | SandboxStatus::Running | SandboxStatus::Stopping => return None,
        SandboxStatus::Stopped => sandbox.exit_code.unwrap_or(0),
        SandboxStatus::Failed => sandbox.exit_code.filter(|code| *code != 0).unwrap_or(1),
    };
    let why = sandbox
        .failure
        .as_ref()
        .map_or_else(String::new, |why| format!(": {why}"));
    Some(AttachToContainerResponse {
        output: format!(
            "{} has {}{why}\n",
            sandbox.id,
            lifecycle::status_word(sandbox.status)
        ),
        done: true,
        exit_code,
    })
}

fn said(output: String) -> AttachToContainerResponse {
    AttachToContainerResponse {
        output,
        ..AttachToContainerResponse::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::gateway::{AttachToContainerRequest, SyncContainerWorkspaceRequest};
    use super::*;

    fn sandbox(status: SandboxStatus, exit_code: Option<i32>) -> Sandbox {
        Sandbox {
            id: "a".parse().unwrap(),
            image: "b".parse().unwrap(),
            status,
            failure: (status == SandboxStatus::Failed).then(|| "out of luck".to_owned()),
            exit_code,
            created_at: jiff::Timestamp::UNIX_EPOCH,
            stopped_at: None,
            expires_at: None,
            restored_from: None,
            spec: fermata_engine::SandboxSpec::default(),
        }
    }

    #[test]
    fn only_an_ended_sandbox_ends_the_stream() {
        for status in [
            SandboxStatus::Creating,
            SandboxStatus::Running,
            SandboxStatus::Stopping,
        ] {
            assert_eq!(ending(&sandbox(status, None)), None);
        }
        let stopped = ending(&sandbox(SandboxStatus::Stopped, Some(137))).unwrap();
        assert!(stopped.done && stopped.exit_code == 137);
    }

    #[test]
    fn a_failed_sandbox_never_looks_like_success() {
        for exit_code in [None, Some(0)] {
            let failed = ending(&sandbox(SandboxStatus::Failed, exit_code)).unwrap();
            assert_eq!(failed.exit_code, 1);
            assert!(failed.output.contains("out of luck"), "{}", failed.output);
        }
    }

    #[test]
    fn syncing_is_refused_by_name() {
        let message = |payload| ContainerStreamMessage { payload };
        let sync = message(Some(Payload::SyncContainerWorkspace(
            SyncContainerWorkspaceRequest::default(),
        )));
        let refusal = check(&sync).unwrap_err();
        assert_eq!(refusal.code(), tonic::Code::Unimplemented);
        assert!(
            refusal.message().contains("sync_container_workspace"),
            "{refusal}"
        );
        check(&message(None)).unwrap();
        check(&message(Some(Payload::AttachRequest(
            AttachToContainerRequest::default(),
        ))))
        .unwrap();
    }
}
