//! Holding a running sandbox with its processes and memory; looking at and removing what is held.
//!
//! ```text
//! record "making" ─► ports paused, agent's connections closed ─► flush (it runs on)
//!   ─► freeze ─► processes captured ─► [instant: upper snapshotted] ─► thaw ─► sealed ─► record "ready"
//!      └──────────────────── paused_ms ───────────────────────────────┘
//! ```

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use fermata_checkpoint::{Checkpointer, Tree};
use jiff::Timestamp;
use tracing::{info, warn};

use crate::checkpoint::blocking;
use crate::create::{make_directory, new_id, runtime};
use crate::live::{Inner, Live, lock};
use crate::machine::Event;
use crate::model::{AfterCapture, ImageId, MemorySnapshot, SandboxId, SnapshotId};
use crate::records::{Held, ImageRecord, ImageStatus, MemoryRecord, SnapshotStatus};
use crate::storage::Storage;
use crate::{Engine, EngineError, Result};

impl Engine {
    /// Holds a running sandbox: processes, memory, open ports and the filesystem, all of one instant.
    ///
    /// # Errors
    /// `SandboxNotFound`, `NotRunning`; `Capture` when something in the sandbox cannot be held, or the server has no engine for
    /// it; `Pool` (also when it is full), `Runtime`. Nothing of a failed attempt is left and the sandbox runs on.
    pub async fn snapshot_memory(
        &self,
        id: &SandboxId,
        after: AfterCapture,
    ) -> Result<MemorySnapshot> {
        self.inner.refuse_when_closing()?;
        let live = self.inner.running(id).await?;
        let inner = self.inner.clone();
        // A caller that goes away must not leave a frozen sandbox or half a snapshot.
        let task = inner.tasks.spawn(snapshot(inner.clone(), live, after));
        task.await.map_err(|_| EngineError::ShuttingDown)?
    }

    /// A memory snapshot.
    ///
    /// # Errors
    /// `SnapshotNotFound`
    pub fn memory_snapshot(&self, id: &SnapshotId) -> Result<MemorySnapshot> {
        let record = self.inner.memory_record(id)?;
        Ok(describe(&self.inner, &record))
    }

    /// All memory snapshots, oldest first.
    #[must_use]
    pub fn memory_snapshots(&self) -> Vec<MemorySnapshot> {
        let mut records = lock(&self.inner.memory_snapshots)
            .values()
            .cloned()
            .collect::<Vec<_>>();
        records.sort_by_key(|record| record.created_at);
        records
            .iter()
            .map(|record| describe(&self.inner, record))
            .collect()
    }

    /// Removes a memory snapshot, and with it its filesystem half unless that is to stay as an image.
    ///
    /// # Errors
    /// `SnapshotNotFound`; `SnapshotInUse` while a sandbox runs that was played on from it, or from the filesystem half if that is
    /// to go; `Pool`.
    pub async fn remove_memory_snapshot(&self, id: &SnapshotId, keep_image: bool) -> Result<()> {
        let inner = &self.inner;
        let record = {
            // All locks in this order, and nothing awaited: no sandbox can begin from it in between.
            let live = lock(&inner.live);
            let mut snapshots = lock(&inner.memory_snapshots);
            let record = snapshots
                .get(id)
                .ok_or_else(|| EngineError::SnapshotNotFound { id: id.clone() })?;
            let users = live
                .values()
                .filter(|live| {
                    live.is_played_on_from(id) || (!keep_image && live.image == record.image)
                })
                .map(|live| live.id.to_string())
                .collect::<Vec<_>>();
            if !users.is_empty() {
                return Err(EngineError::SnapshotInUse {
                    id: id.clone(),
                    users: users.join(", "),
                });
            }
            let record = record.clone();
            snapshots.remove(id);
            record
        };
        let status = if keep_image {
            SnapshotStatus::Detaching
        } else {
            SnapshotStatus::Removing
        };
        inner.records.set_memory_snapshot_status(id, status).await?;
        destroy(
            inner,
            &MemoryRecord {
                status,
                ..(*record).clone()
            },
        )
        .await
    }
}

/// Takes a memory snapshot away as far as its status says. Each step may find its work done already.
pub(crate) async fn destroy(inner: &Inner, record: &MemoryRecord) -> Result<()> {
    let directory = inner.memory_directory(&record.id);
    inner.forget_checks(&directory);
    match tokio::fs::remove_dir_all(&directory).await {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            return Err(EngineError::File {
                action: "remove",
                path: directory,
                source,
            });
        }
        _ => {}
    }
    if record.status != SnapshotStatus::Detaching {
        let image = lock(&inner.images).remove(&record.image);
        if let Some(image) = image {
            crate::images::destroy(inner, &image).await?;
        }
    }
    inner.records.delete_memory_snapshot(&record.id).await
}

async fn snapshot(
    inner: Arc<Inner>,
    live: Arc<Live>,
    after: AfterCapture,
) -> Result<MemorySnapshot> {
    let started = Instant::now();
    let checkpointer = inner.checkpointer().await?;
    let mut image = ImageRecord::of_snapshot(&inner, &live, new_id("im")?)?;
    let mut record = MemoryRecord {
        id: new_id("ms")?,
        status: SnapshotStatus::Making,
        image: image.id.clone(),
        sandbox: live.id.clone(),
        spec: lock(&live.spec).clone(),
        held: Held {
            layers: live.layers.clone(),
            generation: live.generation(),
            restored_from: live.restored.as_ref().map(|restored| restored.from.clone()),
            engine: {
                let engine = checkpointer.engine();
                format!("{} {}", engine.name, engine.version)
            },
            ..Held::default()
        },
        created_at: Timestamp::now(),
    };
    inner.records.insert_memory_snapshot(&record).await?;
    inner.records.insert_image(&image).await?;
    let captured = async {
        hold(&inner, &live, checkpointer, &mut record, after).await?;
        image.status = ImageStatus::Ready;
        inner.records.insert_image(&image).await?;
        record.status = SnapshotStatus::Ready;
        record.held.total_ms = started.elapsed().as_secs_f64() * 1e3;
        inner.records.insert_memory_snapshot(&record).await
    };
    if let Err(error) = captured.await {
        record.status = SnapshotStatus::Removing;
        lock(&inner.images).insert(image.id.clone(), image);
        if let Err(error) = destroy(&inner, &record).await {
            // The next start finds it.
            warn!(snapshot = %record.id, error = error.chain(), "cannot clear away a failed snapshot");
        }
        return Err(error);
    }
    let record = Arc::new(record);
    lock(&inner.images).insert(image.id.clone(), image);
    lock(&inner.memory_snapshots).insert(record.id.clone(), record.clone());
    if after == AfterCapture::Stop {
        live.ended().await;
    }
    let snapshot = describe(&inner, &record);
    info!(
        sandbox = %live.id, snapshot = %snapshot.id, paused_ms = snapshot.paused_ms, total_ms = snapshot.total_ms,
        memory_bytes = snapshot.memory_bytes, "memory snapshot"
    );
    Ok(snapshot)
}

/// Captures processes and upper under one freeze. Captures of the same sandbox follow one another.
async fn hold(
    inner: &Arc<Inner>,
    live: &Arc<Live>,
    checkpointer: Arc<dyn Checkpointer>,
    record: &mut MemoryRecord,
    after: AfterCapture,
) -> Result<()> {
    let _operation = live.operation.lock().await;
    live.require_running()?;
    let directory = inner.memory_directory(&record.id);
    make_directory(&directory)?;
    // Nothing that the daemon has in the sandbox may be captured: its ends are here and would be missing there.
    let _ports = live.ports.suspend().await;
    let _agent = live.agent.suspend().await;
    record.held.ports = live
        .ports
        .list()
        .into_iter()
        .map(|(port, _)| port.into())
        .collect();
    inner.storage.flush_upper(&live.id).await?;
    let status = live
        .shim
        .status()
        .await
        .map_err(runtime("look at", &live.id))?;

    let frozen_at = Instant::now();
    let frozen = live
        .shim
        .freeze(inner.config.freeze_limit)
        .await
        .map_err(runtime("freeze", &live.id))?;
    let capture = Capture {
        checkpointer,
        sandbox: live.id.clone(),
        image: record.image.clone(),
        init_pid: status.init_pid,
        cgroup: inner.cgroups.spec(live.id.as_str()).unified,
        lease: frozen
            .as_fd()
            .try_clone_to_owned()
            .map_err(|source| EngineError::File {
                action: "duplicate the freeze of",
                path: directory.clone(),
                source,
            })?,
        directory: directory.clone(),
    };
    let storage = inner.storage.clone();
    let captured = blocking(move || capture.run(&storage)).await;
    if after == AfterCapture::Stop && captured.is_ok() {
        record.held.paused_ms = frozen_at.elapsed().as_secs_f64() * 1e3;
        inner.seal(record).await?;
        inner.apply(live, Event::StopAsked).await?;
        live.shim.kill().await.map_err(runtime("stop", &live.id))?;
        return Ok(());
    }
    let thawed = frozen.thaw().await;
    record.held.paused_ms = frozen_at.elapsed().as_secs_f64() * 1e3;
    captured?;
    thawed.map_err(runtime("thaw", &live.id))?;
    inner.seal(record).await
}

/// What a capture needs in a thread that blocks.
#[derive(Debug)]
struct Capture {
    checkpointer: Arc<dyn Checkpointer>,
    sandbox: SandboxId,
    image: ImageId,
    init_pid: i32,
    cgroup: PathBuf,
    lease: OwnedFd,
    directory: PathBuf,
}

impl Capture {
    fn run(self, storage: &Storage) -> Result<()> {
        let tree = Tree {
            init_pid: self.init_pid,
            cgroup: &self.cgroup,
            lease: self.lease.as_fd(),
        };
        // Kept apart: on its way through the engine of the capture it would lose what it is.
        let mut failure = None;
        let captured = self.checkpointer.capture(&tree, &self.directory, &mut || {
            storage
                .snapshot_upper_now(&self.sandbox, &self.image)
                .map_err(|source| {
                    failure = Some(source);
                    std::io::Error::other("the filesystem cannot be held")
                })
        });
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
            (None, Ok(())) => Ok(()),
        }
    }
}

fn describe(inner: &Inner, record: &MemoryRecord) -> MemorySnapshot {
    let sandboxes = lock(&inner.live)
        .values()
        .filter(|live| live.is_played_on_from(&record.id))
        .count();
    MemorySnapshot {
        id: record.id.clone(),
        image: record.image.clone(),
        sandbox: record.sandbox.clone(),
        created_at: record.created_at,
        paused_ms: record.held.paused_ms,
        total_ms: record.held.total_ms,
        memory_bytes: record.held.memory_bytes,
        engine: record.held.engine.clone(),
        generation: record.held.generation,
        ports: record.held.ports.clone(),
        spec: record.spec.clone(),
        sandboxes: u64::try_from(sandboxes).unwrap_or(u64::MAX),
    }
}
