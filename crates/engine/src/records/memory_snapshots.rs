//! One row a memory snapshot.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Records, decode, failed, json, parse};
use crate::Result;
use crate::model::{ImageId, PortNumber, RestoredFrom, SandboxId, SandboxSpec, SnapshotId};

/// How far a memory snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SnapshotStatus {
    Making,
    Ready,
    /// Goes with its filesystem half.
    Removing,
    /// Goes, and leaves the filesystem half as an image.
    Detaching,
}

/// A memory snapshot's row.
#[derive(Debug, Clone)]
pub(crate) struct MemoryRecord {
    pub(crate) id: SnapshotId,
    pub(crate) status: SnapshotStatus,
    pub(crate) image: ImageId,
    pub(crate) sandbox: SandboxId,
    pub(crate) spec: SandboxSpec,
    pub(crate) held: Held,
    pub(crate) created_at: Timestamp,
}

/// What a restore needs besides image and settings, and what the capture cost.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Held {
    /// Digests of all layers that the root stood on, uppermost first, the agent's and the skeleton's included: the processes
    /// have their files open.
    pub(crate) layers: Vec<String>,
    /// Exposed then.
    pub(crate) ports: Vec<PortNumber>,
    /// The source's.
    pub(crate) generation: u64,
    /// The source's.
    pub(crate) restored_from: Option<RestoredFrom>,
    pub(crate) engine: String,
    pub(crate) paused_ms: f64,
    pub(crate) total_ms: f64,
    pub(crate) memory_bytes: u64,
}

impl Records {
    pub(crate) async fn insert_memory_snapshot(&self, record: &MemoryRecord) -> Result<()> {
        // As for images: a ready one is an answer to somebody.
        let pool = if record.status == SnapshotStatus::Ready {
            &self.durable
        } else {
            &self.fast
        };
        sqlx::query(
            "INSERT OR REPLACE INTO memory_snapshots (id, status, image, sandbox, spec, held, created_at) \
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(record.id.as_str())
        .bind(status_name(record.status))
        .bind(record.image.as_str())
        .bind(record.sandbox.as_str())
        .bind(json(&record.spec))
        .bind(json(&record.held))
        .bind(record.created_at.to_string())
        .execute(pool)
        .await
        .map_err(failed("record a memory snapshot"))?;
        Ok(())
    }

    pub(crate) async fn set_memory_snapshot_status(
        &self,
        id: &SnapshotId,
        status: SnapshotStatus,
    ) -> Result<()> {
        sqlx::query("UPDATE memory_snapshots SET status = ? WHERE id = ?")
            .bind(status_name(status))
            .bind(id.as_str())
            .execute(&self.durable)
            .await
            .map_err(failed("record a memory snapshot's state"))?;
        Ok(())
    }

    pub(crate) async fn delete_memory_snapshot(&self, id: &SnapshotId) -> Result<()> {
        sqlx::query("DELETE FROM memory_snapshots WHERE id = ?")
            .bind(id.as_str())
            .execute(&self.durable)
            .await
            .map_err(failed("forget a memory snapshot"))?;
        Ok(())
    }

    pub(crate) async fn memory_snapshots(&self) -> Result<Vec<MemoryRecord>> {
        sqlx::query("SELECT * FROM memory_snapshots ORDER BY created_at")
            .try_map(|row| memory_record(&row))
            .fetch_all(&self.fast)
            .await
            .map_err(failed("list memory snapshots"))
    }
}

fn memory_record(row: &SqliteRow) -> sqlx::Result<MemoryRecord> {
    Ok(MemoryRecord {
        id: parse(row, "id")?,
        status: match row.try_get::<&str, _>("status")? {
            "ready" => SnapshotStatus::Ready,
            "making" => SnapshotStatus::Making,
            "detaching" => SnapshotStatus::Detaching,
            _ => SnapshotStatus::Removing,
        },
        image: parse(row, "image")?,
        sandbox: parse(row, "sandbox")?,
        spec: decode(row, "spec")?,
        held: decode(row, "held")?,
        created_at: parse(row, "created_at")?,
    })
}

fn status_name(status: SnapshotStatus) -> &'static str {
    match status {
        SnapshotStatus::Making => "making",
        SnapshotStatus::Ready => "ready",
        SnapshotStatus::Removing => "removing",
        SnapshotStatus::Detaching => "detaching",
    }
}
