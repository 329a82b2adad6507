//! Capturing a running sandbox: its processes and its upper, of one instant.
//!
//! ```text
//! record "making" ─► new connections held back, the agent's closed ─► flush (it runs on)
//!   ─► freeze ─► processes captured ─► [instant: upper snapshotted] ─► still frozen: the caller thaws, or ends it
//! ```
//!
//! What is captured is "making" until somebody keeps it: a daemon that dies before leaves nothing.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fermata_checkpoint::{CheckpointError, Checkpointer, Remainder, Tree};
use fermata_runtime::Frozen;
use jiff::Timestamp;
use tracing::{info, warn};

use crate::checkpoint::blocking;
use crate::create::{make_directory, new_id, runtime};
use crate::live::{Inner, Live, lock};
use crate::model::{ImageId, SandboxId};
use crate::records::{Held, ImageRecord, MemoryRecord, SnapshotStatus};
use crate::storage::Storage;
use crate::{EngineError, Result};

/// How often a sandbox is tried in which something cannot be interrupted at that moment, and how long it gets to come through.
const BUSY_ATTEMPTS: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(2);

/// A captured sandbox: both halves, neither of them durable or to be found yet.
#[derive(Debug)]
pub(crate) struct Captured {
    pub(crate) record: MemoryRecord,
    pub(crate) image: ImageRecord,
    remainder: Option<Box<dyn Remainder>>,
}

/// The sandbox stands still where it was captured; dropping this lets it go on.
#[derive(Debug)]
pub(crate) struct Still {
    frozen: Frozen,
    since: Instant,
}

/// Captures a running sandbox. The caller holds its operation lock.
///
/// Nothing of a failed attempt is left, and the sandbox runs on.
pub(crate) async fn capture(inner: &Inner, live: &Live) -> Result<(Captured, Still)> {
    live.require_running()?;
    let image = ImageRecord::of_snapshot(inner, live, new_id("im")?)?;
    let record = MemoryRecord {
        id: new_id("ms")?,
        status: SnapshotStatus::Making,
        image: image.id.clone(),
        sandbox: live.id.clone(),
        spec: lock(&live.spec).clone(),
        held: Held {
            layers: live.layers.clone(),
            ports: exposed(live),
            generation: live.generation(),
            restored_from: live.restored.as_ref().map(|restored| restored.from.clone()),
            ..Held::default()
        },
        created_at: Timestamp::now(),
    };
    inner.records.insert_memory_snapshot(&record).await?;
    inner.records.insert_image(&image).await?;
    let mut captured = Captured {
        record,
        image,
        remainder: None,
    };
    match hold(inner, live, &mut captured).await {
        Ok(still) => Ok((captured, still)),
        Err(error) => {
            abandon(inner, &captured).await;
            Err(error)
        }
    }
}

fn exposed(live: &Live) -> Vec<crate::model::PortNumber> {
    let ports = live.ports.list().into_iter();
    ports.map(|(port, _)| port.into()).collect()
}

/// By the first engine that can.
async fn hold(inner: &Inner, live: &Live, captured: &mut Captured) -> Result<Still> {
    // Its end of the agent's connections is here, so it would be missing in a restored sandbox.
    let _ports = live.ports.suspend().await;
    let _agent = live.agent.suspend().await;
    let mut checkpointer = inner.checkpointer().await?;
    let mut attempts = 0;
    loop {
        let error = match hold_with(inner, live, checkpointer.clone(), captured).await {
            Ok(still) => return Ok(still),
            Err(error) => error,
        };
        attempts += 1;
        if is_busy(&error) && attempts < BUSY_ATTEMPTS {
            tokio::time::sleep(BUSY_PAUSE).await;
        } else if let Some(other) = inner.other_checkpointer(&error).await
            && other.engine() != checkpointer.engine()
        {
            info!(sandbox = %live.id, error = error.chain(), engine = other.engine().name, "held by another engine");
            checkpointer = other;
        } else {
            return Err(error);
        }
    }
}

async fn hold_with(
    inner: &Inner,
    live: &Live,
    checkpointer: Arc<dyn Checkpointer>,
    captured: &mut Captured,
) -> Result<Still> {
    let engine = checkpointer.engine();
    captured.record.held.engine = format!("{} {}", engine.name, engine.version);
    let directory = inner.memory_directory(&captured.record.id);
    clear_directory(&directory)?;
    make_directory(&directory)?;
    inner.storage.flush_upper(&live.id).await?;
    let status = live.shim.status().await;
    let status = status.map_err(runtime("look at", &live.id))?;

    let cgroup = inner.cgroups.spec(live.id.as_str()).unified;
    let (frozen, since) = freeze(inner, live, &cgroup).await?;
    let lease = frozen.as_fd().try_clone_to_owned();
    let work = Work {
        checkpointer,
        sandbox: live.id.clone(),
        image: captured.image.id.clone(),
        init_pid: status.init_pid,
        shim: inner.run_directory(&live.id),
        cgroup,
        lease: lease.map_err(|source| EngineError::File {
            action: "duplicate the freeze for",
            path: directory.clone(),
            source,
        })?,
        directory,
    };
    let storage = inner.storage.clone();
    captured.remainder = blocking(move || work.run(&storage)).await?;
    Ok(Still { frozen, since })
}

impl Captured {
    /// Writes what the capture left to be written while the sandbox runs.
    pub(crate) async fn complete(&mut self) -> Result<()> {
        let Some(remainder) = self.remainder.take() else {
            return Ok(());
        };
        let id = self.record.sandbox.clone();
        blocking(move || {
            remainder.write().map_err(|source| EngineError::Checkpoint {
                action: "hold",
                id,
                source,
            })
        })
        .await
    }
}

fn is_busy(error: &EngineError) -> bool {
    matches!(
        error,
        EngineError::Checkpoint {
            source: CheckpointError::Busy { .. },
            ..
        }
    )
}

/// What an attempt in vain has left.
fn clear_directory(directory: &Path) -> Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(EngineError::File {
            action: "remove",
            path: directory.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Freezes at a moment at which nothing waits in vfork(2), if there is one: such a parent cannot be stopped by a tracer before
/// its child goes on, and the engine would wait for it in vain, with all of the tree frozen.
async fn freeze(inner: &Inner, live: &Live, cgroup: &Path) -> Result<(Frozen, Instant)> {
    const TRIES: u32 = 50;
    /// A child that executes a program is through by then.
    const PAUSE: Duration = Duration::from_millis(1);
    let mut left = TRIES;
    loop {
        let since = Instant::now();
        let frozen = live.shim.freeze(inner.config.freeze_limit).await;
        let frozen = frozen.map_err(runtime("freeze", &live.id))?;
        left -= 1;
        if left == 0 || !waits_for_a_child(cgroup) {
            return Ok((frozen, since));
        }
        let thawed = frozen.thaw().await;
        thawed.map_err(runtime("thaw", &live.id))?;
        tokio::time::sleep(PAUSE).await;
    }
}

/// All others sleep interruptibly when frozen (`do_freezer_trap`); a parent in vfork(2) counts as frozen as it is.
fn waits_for_a_child(cgroup: &Path) -> bool {
    let threads = std::fs::read_to_string(cgroup.join("cgroup.threads")).unwrap_or_default();
    threads.lines().any(|thread| {
        std::fs::read_to_string(format!("/proc/{thread}/stat")).is_ok_and(|text| {
            text.rsplit(") ")
                .next()
                .is_some_and(|rest| rest.starts_with('D'))
        })
    })
}

impl Still {
    /// Lets the sandbox go on, and notes for how long it stood still.
    pub(crate) async fn thaw(self, captured: &mut Captured) -> Result<()> {
        let thawed = self.frozen.thaw().await;
        captured.record.held.paused_ms = self.since.elapsed().as_secs_f64() * 1e3;
        thawed.map_err(runtime("thaw", &captured.record.sandbox))
    }

    /// Notes for how long it has stood still so far.
    pub(crate) fn note(&self, captured: &mut Captured) {
        captured.record.held.paused_ms = self.since.elapsed().as_secs_f64() * 1e3;
    }
}

/// Takes away what was captured and is not kept.
pub(crate) async fn abandon(inner: &Inner, captured: &Captured) {
    let removed = async {
        crate::images::destroy(inner, &captured.image).await?;
        crate::memory::destroy(inner, &captured.record.id).await
    };
    if let Err(error) = removed.await {
        // The next start finds it.
        warn!(snapshot = %captured.record.id, error = error.chain(), "cannot clear away what was captured");
    }
}

/// What a capture needs in a thread that blocks.
#[derive(Debug)]
struct Work {
    checkpointer: Arc<dyn Checkpointer>,
    sandbox: SandboxId,
    image: ImageId,
    init_pid: i32,
    shim: PathBuf,
    cgroup: PathBuf,
    lease: OwnedFd,
    directory: PathBuf,
}

impl Work {
    fn run(self, storage: &Storage) -> Result<Option<Box<dyn Remainder>>> {
        let tree = Tree {
            init_pid: self.init_pid,
            shim: &self.shim,
            cgroup: &self.cgroup,
            lease: self.lease.as_fd(),
        };
        // Kept apart: on its way through the checkpointer it would lose what it is.
        let mut failure = None;
        let mut at_instant = || {
            let held = storage.snapshot_upper_now(&self.sandbox, &self.image);
            held.map_err(|source| {
                failure = Some(source);
                std::io::Error::other("the filesystem cannot be held")
            })
        };
        let captured = self
            .checkpointer
            .capture(&tree, &self.directory, &mut at_instant);
        match (failure, captured) {
            (Some(source), _) => Err(EngineError::Pool {
                subject: format!("a snapshot of sandbox {}", self.sandbox),
                source,
            }),
            (None, Err(source)) => Err(EngineError::Checkpoint {
                action: "hold",
                id: self.sandbox,
                source,
            }),
            (None, Ok(remainder)) => Ok(remainder),
        }
    }
}
