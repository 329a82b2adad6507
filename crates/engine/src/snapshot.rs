//! Holding the filesystem of a running sandbox.
//!
//! ```text
//! record "making" ─► flush (it runs on) ─► freeze ─► snapshot ─► thaw ─► record "ready"
//!                                          └── paused_ms ──────┘
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::{info, warn};

use crate::create::{new_id, runtime};
use crate::live::{Inner, Live, lock};
use crate::model::{FilesystemSnapshot, ImageId, ImageOrigin, SandboxId};
use crate::records::{ImageRecord, ImageStatus};
use crate::{Engine, EngineError, Result};

impl Engine {
    /// Holds the filesystem of a running sandbox as a new image; the sandbox runs on. Snapshots of the same sandbox follow one
    /// another.
    ///
    /// # Errors
    /// `SandboxNotFound`, `NotRunning`, `Pool` (also when it is full), `Runtime`. Nothing of a failed attempt is left and the sandbox
    /// runs on.
    pub async fn snapshot_filesystem(&self, id: &SandboxId) -> Result<FilesystemSnapshot> {
        self.inner.refuse_when_closing()?;
        let live = self.inner.running(id).await?;
        let inner = self.inner.clone();
        // A caller that goes away must not leave a frozen sandbox or half a snapshot.
        let task = inner.tasks.spawn(snapshot(inner.clone(), live));
        task.await.map_err(|_| EngineError::ShuttingDown)?
    }

    /// Adds how large a snapshot is. Apart, because its files have to be walked for that: half a second for 50,000 of them,
    /// which nobody should wait for who does not ask.
    ///
    /// # Errors
    /// `ImageNotFound`, `Pool`, `Database`
    pub async fn measure(&self, snapshot: FilesystemSnapshot) -> Result<FilesystemSnapshot> {
        let bytes = measure(&self.inner, &snapshot.image).await?;
        Ok(FilesystemSnapshot {
            upper_bytes: Some(bytes),
            ..snapshot
        })
    }

    /// As [`Engine::measure`], for a caller that goes on: the image's size appears a little later.
    pub fn measure_in_background(&self, snapshot: FilesystemSnapshot) {
        measure_later(&self.inner, snapshot.image);
    }
}

/// Finds out an image's size in the background.
pub(crate) fn measure_later(inner: &Arc<Inner>, image: ImageId) {
    let task_inner = inner.clone();
    inner.tasks.spawn(async move {
        if let Err(error) = measure(&task_inner, &image).await {
            warn!(%image, error = error.chain(), "cannot measure a snapshot");
        }
    });
}

async fn snapshot(inner: Arc<Inner>, live: Arc<Live>) -> Result<FilesystemSnapshot> {
    let started = Instant::now();
    let id: ImageId = new_id("im")?;
    let mut record = ImageRecord::of_snapshot(&inner, &live, id.clone())?;
    inner.records.insert_image(&record).await?;
    let paused = match hold(&inner, &live, &id).await {
        Ok(paused) => paused,
        Err(error) => {
            discard(&inner, &id).await;
            return Err(error);
        }
    };
    record.status = ImageStatus::Ready;
    if let Err(error) = inner.records.insert_image(&record).await {
        discard(&inner, &id).await;
        return Err(error);
    }
    lock(&inner.images).insert(id.clone(), record);
    let result = FilesystemSnapshot {
        image: id,
        paused_ms: paused.as_secs_f64() * 1e3,
        total_ms: started.elapsed().as_secs_f64() * 1e3,
        upper_bytes: None,
    };
    info!(sandbox = %live.id, image = %result.image, paused_ms = result.paused_ms, total_ms = result.total_ms, "filesystem snapshot");
    Ok(result)
}

impl ImageRecord {
    /// The record of a new snapshot of a sandbox's filesystem, which is still to be taken.
    pub(crate) fn of_snapshot(inner: &Inner, live: &Live, id: ImageId) -> Result<Self> {
        let source = lock(&inner.images)
            .get(&live.image)
            .cloned()
            .ok_or_else(|| EngineError::ImageNotFound {
                id: live.image.clone(),
            })?;
        Ok(Self {
            status: ImageStatus::Making,
            origin: ImageOrigin::Snapshot {
                sandbox: live.id.clone(),
            },
            layers: source.layers,
            snapshot: Some(id.to_string()),
            // The image's own: what the sandbox was given may be secret.
            environment: source.environment,
            size_bytes: source.size_bytes,
            created_at: Timestamp::now(),
            id,
        })
    }
}

async fn measure(inner: &Inner, image: &ImageId) -> Result<u64> {
    let bytes = inner.storage.snapshot_bytes(image).await?;
    lock(&inner.images)
        .get_mut(image)
        .ok_or_else(|| EngineError::ImageNotFound { id: image.clone() })?
        .size_bytes = bytes;
    inner.records.set_image_size(image, bytes).await?;
    info!(%image, upper_bytes = bytes, "filesystem snapshot measured");
    Ok(bytes)
}

/// Captures a sandbox's upper under a freeze, as the pool's snapshot `id`, and says how long it stood still. Captures of the same
/// sandbox follow one another.
pub(crate) async fn hold(inner: &Inner, live: &Live, id: &ImageId) -> Result<Duration> {
    let _operation = live.operation.lock().await;
    live.require_running()?;
    inner.storage.flush_upper(&live.id).await?;
    let frozen_at = Instant::now();
    let frozen = live
        .shim
        .freeze(inner.config.freeze_limit)
        .await
        .map_err(runtime("freeze", &live.id))?;
    let captured = inner.storage.snapshot_upper(&live.id, id).await;
    let thawed = frozen.thaw().await;
    let paused = frozen_at.elapsed();
    captured?;
    thawed.map_err(runtime("thaw", &live.id))?;
    Ok(paused)
}

/// Removes what a failed attempt may have left; what cannot be removed now is found by the next start.
pub(crate) async fn discard(inner: &Inner, id: &ImageId) {
    if let Err(error) = inner.storage.delete_snapshot(id).await {
        warn!(image = %id, error = error.chain(), "cannot delete the remains of a snapshot");
        return;
    }
    if let Err(error) = inner.records.delete_image(id).await {
        warn!(image = %id, error = error.chain(), "cannot forget a failed snapshot");
    }
}
