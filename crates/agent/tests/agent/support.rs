//! An agent under test.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fermata_protocol::agent::failure::Kind;
use fermata_protocol::agent::{EnvironmentVariable, ProcessState, Stream};
use fermata_runtime::{AgentClient, OutputFrom, RuntimeError, StartRequest};

/// Longer than anything takes that works.
pub(crate) const LONG: Duration = Duration::from_secs(20);

static AGENTS: AtomicU32 = AtomicU32::new(0);

/// The agent and a client of it. Both it and everything that it started end with the test.
pub(crate) struct Agent {
    process: Child,
    pub(crate) socket_name: Vec<u8>,
    pub(crate) client: AgentClient,
}

impl Agent {
    pub(crate) fn spawn() -> Self {
        Self::spawn_with(&["--allow-local-peers"])
    }

    pub(crate) fn spawn_with(arguments: &[&str]) -> Self {
        Self::spawn_under(&[], arguments)
    }

    /// An agent started by another program, which executes the rest of its arguments.
    pub(crate) fn spawn_under(starter: &[&str], arguments: &[&str]) -> Self {
        let number = AGENTS.fetch_add(1, Ordering::Relaxed);
        let name = format!("fermata-agent-test-{}-{number}", std::process::id());
        // The shell turns its standard output into descriptor 3, on which the agent tells that it listens.
        let (ready, agent_end) = std::io::pipe().unwrap();
        let process = Command::new("sh")
            .args(["-c", "exec \"$@\" 3>&1 >/dev/null", "sh"])
            .args(starter)
            .arg(env!("CARGO_BIN_EXE_fermata-agent"))
            .args(["--socket-name", &name, "--ready-fd", "3"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(agent_end)
            .spawn()
            .unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(&mut { ready }, &mut byte).unwrap();
        let socket_name = name.into_bytes();
        let client = AgentClient::with_socket_name(own_network_namespace(), socket_name.clone());
        Self {
            process,
            socket_name,
            client,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Another client, with connections of its own.
    pub(crate) fn another_client(&self) -> AgentClient {
        AgentClient::with_socket_name(own_network_namespace(), self.socket_name.clone())
    }

    pub(crate) async fn start(&self, arguments: &[&str]) -> i32 {
        self.client.start(request(arguments)).await.unwrap()
    }

    pub(crate) async fn sh(&self, script: &str) -> i32 {
        self.start(&["sh", "-c", script]).await
    }

    pub(crate) async fn wait(&self, pid: i32) -> ProcessState {
        let state = self.client.wait(pid, LONG).await.unwrap();
        assert!(!state.running, "process {pid} did not end");
        state
    }

    /// Everything on a stream until its end.
    pub(crate) async fn output(&self, pid: i32, stream: Stream) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let from = OutputFrom::Offset(all.len().try_into().unwrap());
            let chunk = self
                .client
                .read_output(pid, stream, from, 0, LONG)
                .await
                .unwrap();
            assert_eq!(chunk.dropped_bytes, 0);
            all.extend_from_slice(&chunk.data);
            if chunk.end {
                return all;
            }
            assert!(
                !chunk.data.is_empty(),
                "the stream of process {pid} did not end"
            );
        }
    }

    pub(crate) async fn stdout(&self, pid: i32) -> String {
        String::from_utf8(self.output(pid, Stream::Stdout).await).unwrap()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// The processor time that the agent has used, in hundredths of a second (proc(5)).
    pub(crate) fn busy_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // The name before may have blanks in it; user and system time are the 14th and 15th field.
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let times = fields.split(' ').skip(11).take(2);
        times.map(|time| time.parse::<u64>().unwrap()).sum()
    }

    /// A line of the agent's `/proc/PID/status`, in KiB.
    pub(crate) fn memory_kib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Sessions and groups of their own: found as descendants, before their parent is gone.
        for pid in descendants(self.pid()) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn descendants(pid: u32) -> Vec<u32> {
    let Ok(children) = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) else {
        return Vec::new();
    };
    let children = children
        .split_whitespace()
        .filter_map(|child| child.parse().ok());
    children
        .flat_map(|child| [vec![child], descendants(child)].concat())
        .collect()
}

pub(crate) fn own_network_namespace() -> PathBuf {
    PathBuf::from("/proc/self/ns/net")
}

pub(crate) fn variable(name: &str, value: &str) -> EnvironmentVariable {
    EnvironmentVariable {
        name: name.to_owned().into(),
        value: value.to_owned().into(),
    }
}

pub(crate) fn request(arguments: &[&str]) -> StartRequest {
    StartRequest {
        arguments: arguments
            .iter()
            .map(|argument| argument.as_bytes().to_vec())
            .collect(),
        environment: vec![variable("PATH", "/usr/bin:/bin")],
        ..StartRequest::default()
    }
}

/// The kind and the message of a refused call.
pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T, RuntimeError>) -> (Kind, String) {
    match result {
        Err(RuntimeError::Refused { kind, message, .. }) => (kind, message),
        other => panic!("not refused: {other:?}"),
    }
}
