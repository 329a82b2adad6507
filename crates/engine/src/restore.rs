//! Playing memory snapshots on, as new sandboxes.
//!
//! ```text
//! checked (complete, this machine can) ─► created as any other (crate::create), its processes those of the snapshot
//!   ─► its own programs are told (hooks) ─► takes commands
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fermata_protocol::RestoreSpec as ShimRestore;
use fermata_protocol::agent::{EnvironmentVariable, FileStatus};
use fermata_runtime::{RuntimeError, RuntimeErrorKind, StartRequest};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::capture::{abandon, capture};
use crate::create::{create, runtime};
use crate::live::{Inner, Live, lock};
use crate::model::{
    Fork, ImageId, RestoreSpec, RestoredFrom, Sandbox, SandboxId, SandboxSpec, SnapshotId,
};
use crate::records::{ImageRecord, MemoryRecord};
use crate::{Engine, EngineError, Result};

/// Programs that are run in a restored sandbox before it takes commands, in the order of their names.
const HOOKS_DIRECTORY: &str = "/etc/fermata/resume.d";
/// How long all of them may take.
const HOOKS_LIMIT: Duration = Duration::from_secs(10);

/// What a sandbox is played on from.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) record: Arc<MemoryRecord>,
    /// The filesystem half.
    pub(crate) image: ImageRecord,
    pub(crate) from: RestoredFrom,
}

impl Engine {
    /// Plays a memory snapshot on as a new sandbox: the held processes go on where they were, and exposed ports have new URLs.
    ///
    /// # Errors
    /// `SnapshotNotFound`, `SandboxExists`; `NotPlayable` when the snapshot is damaged or this machine is not like the one it
    /// was made on; otherwise as [`Engine::create_sandbox`]. Neither the snapshot nor another sandbox is harmed.
    pub async fn restore(&self, id: &SnapshotId, restore: RestoreSpec) -> Result<Sandbox> {
        let record = self.inner.memory_record(id)?;
        let spec = SandboxSpec {
            id: restore.id,
            image: Some(record.image.clone()),
            labels: restore.labels.unwrap_or_else(|| record.spec.labels.clone()),
            ..record.spec.clone()
        };
        let origin = Origin {
            image: self.inner.image_record(&record.image)?,
            from: RestoredFrom::Snapshot(id.clone()),
            record,
        };
        self.inner.check(&origin.record).await?;
        play_on(&self.inner, spec, origin).await
    }

    /// Holds a sandbox for a moment and plays it on as `count` new ones beside it; a result for each. Nothing is kept of what
    /// was captured.
    ///
    /// # Errors
    /// As [`Engine::snapshot_memory`].
    pub async fn fork(&self, id: &SandboxId, count: usize) -> Result<Fork> {
        self.inner.refuse_when_closing()?;
        let live = self.inner.running(id).await?;
        let inner = self.inner.clone();
        // A caller that goes away must not leave a frozen sandbox or what was captured of it.
        let task = inner.tasks.spawn(fork(inner.clone(), live, count));
        task.await.map_err(|_| EngineError::ShuttingDown)?
    }
}

async fn fork(inner: Arc<Inner>, live: Arc<Live>, count: usize) -> Result<Fork> {
    let captured = {
        let _operation = live.operation.lock().await;
        let (mut captured, still) = capture(&inner, &live).await?;
        let thawed = still.thaw(&mut captured).await;
        if let Err(error) = async { captured.complete().await.and(thawed) }.await {
            abandon(&inner, &captured).await;
            return Err(error);
        }
        captured
    };
    let record = Arc::new(captured.record.clone());
    let children = (0..count).map(|_| {
        let spec = SandboxSpec {
            id: None,
            // Not what was captured, which goes.
            image: Some(live.image.clone()),
            ..record.spec.clone()
        };
        let origin = Origin {
            record: record.clone(),
            image: captured.image.clone(),
            from: RestoredFrom::Sandbox(live.id.clone()),
        };
        play_on(&inner, spec, origin)
    });
    let children = futures::future::join_all(children).await;
    abandon(&inner, &captured).await;
    let paused_ms = record.held.paused_ms;
    info!(sandbox = %live.id, count, paused_ms, "fork");
    Ok(Fork {
        paused_ms,
        children,
    })
}

/// Makes the sandbox, also when the caller goes away meanwhile.
async fn play_on(inner: &Arc<Inner>, spec: SandboxSpec, origin: Origin) -> Result<Sandbox> {
    inner.refuse_when_closing()?;
    let spec = SandboxSpec {
        ports: origin.record.held.ports.iter().copied().collect(),
        ..spec
    };
    let task = inner.tasks.spawn(create(inner.clone(), spec, Some(origin)));
    task.await.map_err(|_| EngineError::ShuttingDown)?
}

/// What the shim is told.
pub(crate) async fn restore_spec(inner: &Inner, held: &MemoryRecord) -> Result<ShimRestore> {
    let checkpointer = inner.maker(held).await?;
    Ok(checkpointer.restore_spec(&inner.memory_directory(&held.id)))
}

/// Runs the sandbox's own hooks. What they do wrong is for the log: they are the sandbox's programs, and their output can be
/// read as that of any other process.
pub(crate) async fn run_hooks(live: &Live) -> Result<()> {
    let failed = |error| runtime("run the resume hooks of", &live.id)(error);
    let hooks = match live.agent.list_directory(HOOKS_DIRECTORY.as_bytes()).await {
        Ok(listing) => listing.entries,
        Err(error) if error.kind() == RuntimeErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    let mut hooks: Vec<Vec<u8>> = hooks
        .into_iter()
        .filter(is_program)
        .map(|hook| [HOOKS_DIRECTORY.as_bytes(), b"/", &hook.name].concat())
        .collect();
    hooks.sort();
    let deadline = Instant::now() + HOOKS_LIMIT;
    for hook in hooks {
        let name = String::from_utf8_lossy(&hook).into_owned();
        match run_hook(live, hook, deadline).await {
            Ok(Some(0)) => {}
            Ok(Some(exit_code)) => {
                warn!(sandbox = %live.id, hook = name, exit_code, "a resume hook failed");
            }
            Ok(None) => warn!(sandbox = %live.id, hook = name, "a resume hook runs on"),
            Err(error) => {
                let error = fermata_runtime::error_chain(&error);
                warn!(sandbox = %live.id, hook = name, error, "cannot run a resume hook");
            }
        }
    }
    Ok(())
}

fn is_program(file: &FileStatus) -> bool {
    const KIND: u32 = 0o170_000;
    const FILE: u32 = 0o100_000;
    const SYMLINK: u32 = 0o120_000;
    match file.mode & KIND {
        FILE => file.mode & 0o111 != 0,
        // The program that it points to is found out about by starting it.
        SYMLINK => true,
        _ => false,
    }
}

/// The exit code; `None` when it has not ended by the deadline.
async fn run_hook(
    live: &Live,
    path: Vec<u8>,
    deadline: Instant,
) -> Result<Option<i32>, RuntimeError> {
    let variable = |(name, value): (&String, &String)| EnvironmentVariable {
        name: name.clone().into_bytes().into(),
        value: value.clone().into_bytes().into(),
    };
    let own = BTreeMap::from([
        ("FERMATA_SANDBOX_ID".to_owned(), live.id.to_string()),
        (
            "FERMATA_GENERATION".to_owned(),
            live.generation().to_string(),
        ),
    ]);
    let pid = live
        .agent
        .start(StartRequest {
            arguments: vec![path],
            environment: live.environment.iter().chain(&own).map(variable).collect(),
            ..StartRequest::default()
        })
        .await?;
    let left = deadline.saturating_duration_since(Instant::now());
    let state = live.agent.wait(pid, left).await?;
    Ok((!state.running).then_some(state.exit_code))
}

impl Inner {
    pub(crate) fn memory_record(&self, id: &SnapshotId) -> Result<Arc<MemoryRecord>> {
        lock(&self.memory_snapshots)
            .get(id)
            .cloned()
            .ok_or_else(|| EngineError::SnapshotNotFound { id: id.clone() })
    }

    pub(crate) fn image_record(&self, id: &ImageId) -> Result<ImageRecord> {
        lock(&self.images)
            .get(id)
            .cloned()
            .ok_or_else(|| EngineError::ImageNotFound { id: id.clone() })
    }
}
