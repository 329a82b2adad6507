//! Memory snapshots: made of what was captured, looked at, and removed.
//!
//! ```text
//! captured ("making") ─► sealed: written out, its digests taken ─► record "ready" ─► "removing" | "detaching" ─► gone
//! ```

use std::sync::Arc;
use std::time::Instant;

use tracing::info;

use crate::capture::{Captured, abandon, capture};
use crate::live::{Inner, Live, lock};
use crate::machine::Event;
use crate::model::{AfterCapture, MemorySnapshot, SandboxId, SnapshotId};
use crate::records::{ImageStatus, MemoryRecord, SnapshotStatus};
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
        finish_removal(inner, &record, status).await
    }
}

/// Takes a memory snapshot away as far as this status says. Each step may find its work done already.
pub(crate) async fn finish_removal(
    inner: &Inner,
    record: &MemoryRecord,
    status: SnapshotStatus,
) -> Result<()> {
    if status != SnapshotStatus::Detaching {
        let image = lock(&inner.images).remove(&record.image);
        if let Some(image) = image {
            crate::images::destroy(inner, &image).await?;
        }
    }
    destroy(inner, &record.id).await
}

/// Deletes the memory half, then its record.
pub(crate) async fn destroy(inner: &Inner, id: &SnapshotId) -> Result<()> {
    let directory = inner.memory_directory(id);
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
    inner.records.delete_memory_snapshot(id).await
}

async fn snapshot(
    inner: Arc<Inner>,
    live: Arc<Live>,
    after: AfterCapture,
) -> Result<MemorySnapshot> {
    let started = Instant::now();
    let operation = live.operation.lock().await;
    let (mut captured, still) = capture(&inner, &live).await?;
    let still = match after {
        AfterCapture::RunOn => {
            let thawed = still.thaw(&mut captured).await;
            if let Err(error) = thawed {
                abandon(&inner, &captured).await;
                return Err(error);
            }
            None
        }
        // It ends only when it is kept: until then it would run on if anything failed.
        AfterCapture::Stop => {
            still.note(&mut captured);
            Some((operation, still))
        }
    };
    let record = keep(&inner, captured, started).await?;
    crate::snapshot::measure_later(&inner, record.image.clone());
    if let Some((operation, still)) = still {
        inner.apply(&live, Event::StopAsked).await?;
        // A shim that cannot be reached is dying or dead; its watcher ends the sandbox then.
        let _ = live.shim.kill().await;
        drop((operation, still));
        live.ended().await;
    }
    let snapshot = describe(&inner, &record);
    info!(
        sandbox = %live.id, snapshot = %snapshot.id, paused_ms = snapshot.paused_ms, total_ms = snapshot.total_ms,
        memory_bytes = snapshot.memory_bytes, "memory snapshot"
    );
    Ok(snapshot)
}

/// Makes what was captured a snapshot: durable, and to be found.
async fn keep(
    inner: &Inner,
    mut captured: Captured,
    started: Instant,
) -> Result<Arc<MemoryRecord>> {
    let kept = async {
        captured.complete().await?;
        let Captured { record, image, .. } = &mut captured;
        inner.seal(record).await?;
        image.status = ImageStatus::Ready;
        inner.records.insert_image(image).await?;
        record.status = SnapshotStatus::Ready;
        record.held.total_ms = started.elapsed().as_secs_f64() * 1e3;
        inner.records.insert_memory_snapshot(record).await
    };
    if let Err(error) = kept.await {
        abandon(inner, &captured).await;
        return Err(error);
    }
    let Captured { record, image, .. } = captured;
    let record = Arc::new(record);
    lock(&inner.images).insert(image.id.clone(), image);
    lock(&inner.memory_snapshots).insert(record.id.clone(), record.clone());
    Ok(record)
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
