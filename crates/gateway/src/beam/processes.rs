//! Processes of a sandbox.

use std::time::Duration;

use fermata_engine::StartRequest;
use fermata_engine::agent::ProcessState;

use super::failure::BeamError;
use super::lifecycle::stub_of;
use super::wire::{pod, types};
use super::{Beam, command, lifecycle, output};

/// Where a process starts when the call does not say.
pub(super) const WORKSPACE: &str = "/workspace";
/// How long a call that wants to wait is held.
const LONGEST_WAIT: Duration = Duration::from_millis(750);
/// The client reads after the end of a process, too: more than by default is kept for it.
const OUTPUT_BUFFER_BYTES: u64 = 32 << 20;
const SIGKILL: i32 = 9;
/// Says "not ended"; the client takes 0, also when left out, for success.
const RUNNING: i32 = -1;

pub(super) async fn exec(
    beam: Beam,
    request: pod::PodSandboxExecRequest,
    request_id: String,
) -> Result<pod::PodSandboxExecResponse, BeamError> {
    if !request.secrets.is_empty() {
        return Err(BeamError::unsupported("exec with secrets"));
    }
    let arguments = command::split(&request.command)?;
    let handle = beam.handle(&request.container_id).await?;
    let identity = [
        ("CONTAINER_ID", request.container_id.as_str()),
        ("STUB_ID", stub_of(&request.container_id)),
        ("STUB_TYPE", "sandbox"),
    ];
    let working_directory = if request.cwd.is_empty() {
        WORKSPACE
    } else {
        &request.cwd
    };
    let pid = handle
        .agent
        .start(StartRequest {
            arguments,
            working_directory: working_directory.as_bytes().to_vec(),
            environment: command::environment(&handle.environment, &identity, &request.env)?,
            request_id,
            output_buffer_bytes: OUTPUT_BUFFER_BYTES,
            ..StartRequest::default()
        })
        .await?;
    let mut answer = pod::PodSandboxExecResponse {
        ok: true,
        pid,
        ..Default::default()
    };
    if request.wait {
        let state = handle.agent.wait(pid, LONGEST_WAIT).await?;
        if !state.running
            && let Some((stdout, stderr)) = output::whole(&handle.agent, pid).await?
        {
            answer.done = true;
            answer.exit_code = state.exit_code;
            answer.stdout = stdout;
            answer.stderr = stderr;
        }
    }
    Ok(answer)
}

pub(super) async fn status(
    beam: Beam,
    request: pod::PodSandboxStatusRequest,
) -> Result<pod::PodSandboxStatusResponse, BeamError> {
    let (status, exit_code) = if request.pid == 0 {
        lifecycle::sandbox_status(&beam, &request.container_id).await?
    } else {
        let agent = beam.handle(&request.container_id).await?.agent;
        let state = agent.wait(request.pid, Duration::ZERO).await?;
        (
            if state.running { "running" } else { "exited" },
            exit_code(&state),
        )
    };
    Ok(pod::PodSandboxStatusResponse {
        ok: true,
        status: status.to_owned(),
        exit_code,
        ..Default::default()
    })
}

pub(super) async fn kill(
    beam: Beam,
    request: pod::PodSandboxKillRequest,
) -> Result<pod::PodSandboxKillResponse, BeamError> {
    let agent = beam.handle(&request.container_id).await?.agent;
    // One that has ended already is fine with the agent.
    agent.signal(request.pid, SIGKILL).await?;
    Ok(pod::PodSandboxKillResponse {
        ok: true,
        ..Default::default()
    })
}

pub(super) async fn list(
    beam: Beam,
    request: pod::PodSandboxListProcessesRequest,
) -> Result<pod::PodSandboxListProcessesResponse, BeamError> {
    let agent = beam.handle(&request.container_id).await?.agent;
    Ok(pod::PodSandboxListProcessesResponse {
        ok: true,
        processes: agent.processes().await?.iter().map(describe).collect(),
        ..Default::default()
    })
}

fn describe(state: &ProcessState) -> types::ProcessInfo {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    types::ProcessInfo {
        running: state.running,
        pid: state.pid,
        cmd: command::quote(state.arguments.iter().map(AsRef::as_ref)),
        cwd: text(&state.working_directory),
        env: state
            .environment
            .iter()
            .map(|variable| format!("{}={}", text(&variable.name), text(&variable.value)))
            .collect(),
        exit_code: exit_code(state),
    }
}

fn exit_code(state: &ProcessState) -> i32 {
    if state.running {
        RUNNING
    } else {
        state.exit_code
    }
}

#[cfg(test)]
mod tests {
    use fermata_engine::agent::EnvironmentVariable;

    use super::*;

    #[test]
    fn a_process_is_described_so_that_python_can_split_its_command() {
        let info = describe(&ProcessState {
            pid: 7,
            running: true,
            exit_code: 0,
            arguments: ["sh", "-c", "echo 'a b'"].map(Into::into).to_vec(),
            working_directory: "/workspace".into(),
            environment: vec![EnvironmentVariable {
                name: "A".into(),
                value: "1".into(),
            }],
        });
        assert_eq!(
            command::split(&info.cmd).unwrap(),
            [&b"sh"[..], b"-c", b"echo 'a b'"]
        );
        assert_eq!(info.env, ["A=1"]);
        assert_eq!(info.exit_code, -1);
    }
}
