//! The engine's words: what a caller asks for and what it gets to know.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Not a valid id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {kind} id")]
pub struct InvalidId {
    kind: &'static str,
    text: String,
}

macro_rules! typed_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                if is_valid_id(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidId { kind: $kind, text: text.chars().take(80).collect() })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }
    };
}

/// Ids become file and host names: at most 63 of `a-z A-Z 0-9 -`, starting with a letter or digit.
fn is_valid_id(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && !text.starts_with('-')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

typed_id!(
    /// A sandbox.
    SandboxId, "sandbox"
);
typed_id!(
    /// An image: something a sandbox can start from. A filesystem snapshot is one.
    ImageId, "image"
);

typed_id!(
    /// A memory snapshot.
    SnapshotId, "snapshot"
);

/// Not a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{number} is not a port: ports are 1 to 65535")]
pub struct InvalidPort {
    number: i64,
}

/// A TCP port inside a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "u16")]
pub struct PortNumber(NonZeroU16);

impl PortNumber {
    /// The port as a number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl TryFrom<i64> for PortNumber {
    type Error = InvalidPort;

    fn try_from(number: i64) -> Result<Self, InvalidPort> {
        let port = u16::try_from(number).ok().and_then(NonZeroU16::new);
        port.map(Self).ok_or(InvalidPort { number })
    }
}

impl From<PortNumber> for u16 {
    fn from(port: PortNumber) -> Self {
        port.get()
    }
}

impl From<NonZeroU16> for PortNumber {
    fn from(port: NonZeroU16) -> Self {
        Self(port)
    }
}

impl From<PortNumber> for NonZeroU16 {
    fn from(port: PortNumber) -> Self {
        port.0
    }
}

impl fmt::Display for PortNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A port of a sandbox that can be reached from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExposedPort {
    /// Inside.
    pub port: PortNumber,
    /// Where it is reached. Whatever runs over TCP may be spoken there, not only HTTP.
    pub url: String,
}

/// What a sandbox may talk to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case", tag = "mode", content = "networks")]
pub enum NetworkPolicy {
    /// Everything outside but cloud metadata, other sandboxes and this host.
    #[default]
    Open,
    /// Nothing.
    Blocked,
    /// These networks only, in CIDR form (at most 64).
    Allow(Vec<String>),
}

/// What a new sandbox is to be.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxSpec {
    /// Wanted id; made up when absent.
    pub id: Option<SandboxId>,
    /// What to start from; the base image when absent.
    pub image: Option<ImageId>,
    /// CPU limit in thousandths of a core; 0 for none.
    pub cpu_millicores: u64,
    /// A reservation, not a limit: the host's hard cap protects the host.
    pub memory_bytes: u64,
    /// Environment of every process started inside; never part of an image.
    pub environment: BTreeMap<String, String>,
    /// What it may talk to.
    pub network: NetworkPolicy,
    /// Ports to expose from the start.
    pub ports: BTreeSet<PortNumber>,
    /// Stop after this long without use; `None` for never.
    pub idle_timeout_seconds: Option<u64>,
    /// The caller's own notes, kept with the sandbox.
    pub labels: BTreeMap<String, String>,
}

/// Where a sandbox is in its life.
///
/// ```text
/// Creating ──► Running ──► Stopping ──► Stopped
///     │           │            │
///     └───────────┴────────────┴──────► Failed
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxStatus {
    /// Being made.
    Creating,
    /// Takes commands.
    Running,
    /// Being ended.
    Stopping,
    /// Ended as asked, or process 1 ended.
    Stopped,
    /// Ended against expectation; `Sandbox::failure` says why.
    Failed,
}

/// A sandbox as callers see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sandbox {
    /// Its id.
    pub id: SandboxId,
    /// What it started from.
    pub image: ImageId,
    /// Where it is in its life.
    pub status: SandboxStatus,
    /// Why it failed.
    pub failure: Option<String>,
    /// Exit code of process 1 once it has ended.
    pub exit_code: Option<i32>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it ended.
    pub stopped_at: Option<Timestamp>,
    /// When it will be stopped if nobody uses it.
    pub expires_at: Option<Timestamp>,
    /// As asked.
    pub spec: SandboxSpec,
    /// Whose processes it has; absent when it started afresh.
    pub restored_from: Option<RestoredFrom>,
}

/// What a sandbox was played on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "id")]
pub enum RestoredFrom {
    /// A memory snapshot.
    Snapshot(SnapshotId),
    /// A sandbox that was forked.
    Sandbox(SandboxId),
}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum ImageOrigin {
    /// The base image that the server made at its first start.
    Base,
    /// A filesystem snapshot of a sandbox.
    Snapshot {
        /// The sandbox that was held.
        sandbox: SandboxId,
    },
    /// Built from steps.
    Build,
}

/// An image as callers see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Image {
    /// Its id.
    pub id: ImageId,
    /// Where it comes from.
    pub origin: ImageOrigin,
    /// When it was made.
    pub created_at: Timestamp,
    /// Environment that every process of a sandbox from it gets (the sandbox's own wins).
    pub environment: BTreeMap<String, String>,
    /// Bytes in its layers and upper, shared ones counted in full.
    pub size_bytes: u64,
    /// How many sandboxes run from it now.
    pub sandboxes: u64,
}

/// What a filesystem snapshot cost and gave.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FilesystemSnapshot {
    /// The new image.
    pub image: ImageId,
    /// How long the sandbox stood still.
    pub paused_ms: f64,
    /// From request to answer.
    pub total_ms: f64,
    /// Bytes in the sandbox's writable layer at that instant, once measured.
    pub upper_bytes: Option<u64>,
}

/// A held instant of a sandbox: processes, memory, open ports and the filesystem.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MemorySnapshot {
    /// Its id.
    pub id: SnapshotId,
    /// The filesystem half: an image like any other.
    pub image: ImageId,
    /// The sandbox that was held.
    pub sandbox: SandboxId,
    /// When.
    pub created_at: Timestamp,
    /// How long the sandbox stood still.
    pub paused_ms: f64,
    /// From request to answer.
    pub total_ms: f64,
    /// Bytes of the memory half.
    pub memory_bytes: u64,
    /// What captured it and has to play it on.
    pub engine: String,
    /// How often the held processes had been played on before.
    pub generation: u64,
    /// Exposed at that instant; a restored sandbox exposes them again.
    pub ports: Vec<PortNumber>,
    /// The sandbox's settings at that instant; a restored sandbox has them too.
    pub spec: SandboxSpec,
    /// How many sandboxes that were played on from it run now.
    pub sandboxes: u64,
}

/// What becomes of a sandbox once it is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AfterCapture {
    /// It runs on.
    #[default]
    RunOn,
    /// It ends, without having run another instruction.
    Stop,
}

/// What is to be different in a restored sandbox.
#[derive(Debug, Clone, Default)]
pub struct RestoreSpec {
    /// Wanted id; made up when absent.
    pub id: Option<SandboxId>,
    /// The caller's own notes, instead of the held sandbox's.
    pub labels: Option<BTreeMap<String, String>>,
}

/// What came of a fork.
#[derive(Debug)]
pub struct Fork {
    /// How long the source stood still.
    pub paused_ms: f64,
    /// One for each that was asked for.
    pub children: Vec<crate::Result<Sandbox>>,
}

/// A step of an image build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "command")]
pub enum BuildStep {
    /// A command line for `sh -c`.
    Shell(String),
    /// Requirements for one `pip install`.
    Pip(Vec<String>),
}

/// What to build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildSpec {
    /// What to start from; the base image when absent.
    pub from: Option<ImageId>,
    /// In order.
    pub steps: Vec<BuildStep>,
    /// For the steps and for every sandbox from the image.
    pub environment: BTreeMap<String, String>,
}

/// What a build says while it runs; the last one is `Finished` or `Failed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum BuildEvent {
    /// Output of a step, or a line about what is done next.
    Output {
        /// As printed, newline included.
        text: String,
    },
    /// The image is there.
    Finished {
        /// Its id.
        image: ImageId,
        /// Nothing had to be run.
        cached: bool,
    },
    /// Nothing remains of the attempt.
    Failed {
        /// Why.
        message: String,
    },
}

impl SandboxSpec {
    /// The idle timeout as a duration.
    #[must_use]
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.idle_timeout_seconds.map(Duration::from_secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_what_tcp_has() {
        for number in [1, 8000, 65_535] {
            let port = PortNumber::try_from(number).unwrap();
            assert_eq!(i64::from(port.get()), number);
            assert_eq!(serde_json::json!(port), serde_json::json!(number));
        }
        for number in [-1, 0, 65_536, i64::MAX] {
            PortNumber::try_from(number).unwrap_err();
            serde_json::from_value::<PortNumber>(number.into()).unwrap_err();
        }
    }

    #[test]
    fn ids_are_safe_as_file_and_host_names() {
        for good in [
            "a",
            "sandbox-6f1c2d1e-0000-4000-8000-000000000000-AbC12345",
            "0",
        ] {
            assert_eq!(good.parse::<SandboxId>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a/b", "..", "a b", "a\n", &"x".repeat(64), "ä"] {
            bad.parse::<SandboxId>().unwrap_err();
        }
    }
}
