//! What the engine remembers over restarts: SQLite, one row a sandbox, one an image and one an exposed port.

mod memory_snapshots;
mod ports;

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};

use crate::machine::State;
use crate::model::{ImageId, ImageOrigin, RestoredFrom, SandboxId, SandboxSpec, SandboxStatus};
use crate::{EngineError, Result};
pub(crate) use memory_snapshots::{Held, MemoryRecord, SnapshotStatus};

/// The database.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    /// Commits survive the death of the daemon.
    fast: SqlitePool,
    /// Commits survive a power cut as well: what a caller keeps the id of.
    durable: SqlitePool,
}

/// A sandbox's row.
#[derive(Debug, Clone)]
pub(crate) struct SandboxRecord {
    pub(crate) id: SandboxId,
    pub(crate) state: State,
    pub(crate) image: ImageId,
    pub(crate) spec: SandboxSpec,
    pub(crate) slot: Option<u32>,
    /// Digests of all layers that it stands on, uppermost first.
    pub(crate) layers: Vec<String>,
    pub(crate) restored: Option<Restored>,
    pub(crate) created_at: Timestamp,
}

/// What a sandbox was played on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Restored {
    pub(crate) from: RestoredFrom,
    /// How often its processes have been played on.
    pub(crate) generation: u64,
}

/// How far an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ImageStatus {
    Making,
    Ready,
    Removing,
}

/// An image's row.
#[derive(Debug, Clone)]
pub(crate) struct ImageRecord {
    pub(crate) id: ImageId,
    pub(crate) status: ImageStatus,
    pub(crate) origin: ImageOrigin,
    /// Digests, uppermost first.
    pub(crate) layers: Vec<String>,
    /// The held upper, named as in the pool.
    pub(crate) snapshot: Option<String>,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) size_bytes: u64,
    pub(crate) created_at: Timestamp,
}

impl Records {
    /// Opens or makes the database.
    pub(crate) async fn open(path: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .busy_timeout(std::time::Duration::from_secs(10));
        let open = async {
            // One writer each: SQLite has one write lock, and queueing for it here costs less than its busy handler.
            let fast = SqlitePoolOptions::new()
                .max_connections(1)
                .connect_with(options.clone().synchronous(SqliteSynchronous::Normal))
                .await?;
            sqlx::migrate!().run(&fast).await?;
            let durable = SqlitePoolOptions::new()
                .max_connections(1)
                .connect_with(options.synchronous(SqliteSynchronous::Full))
                .await?;
            Ok::<_, sqlx::Error>(Self { fast, durable })
        };
        open.await.map_err(failed("open the records"))
    }

    pub(crate) async fn insert_sandbox(&self, record: &SandboxRecord) -> Result<()> {
        let done = sqlx::query(
            "INSERT INTO sandboxes (id, status, image, spec, slot, created_at, layers, restored) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?) \
             ON CONFLICT (id) DO NOTHING",
        )
        .bind(record.id.as_str())
        .bind(status_name(record.state.status))
        .bind(record.image.as_str())
        .bind(json(&record.spec))
        .bind(record.slot)
        .bind(record.created_at.to_string())
        .bind(json(&record.layers))
        .bind(record.restored.as_ref().map(json))
        .execute(&self.fast)
        .await
        .map_err(failed("record a sandbox"))?;
        if done.rows_affected() == 0 {
            return Err(EngineError::SandboxExists {
                id: record.id.clone(),
            });
        }
        Ok(())
    }

    /// Records where a sandbox is; one that has ended gives up its slot.
    pub(crate) async fn set_sandbox_state(&self, id: &SandboxId, state: &State) -> Result<()> {
        sqlx::query(
            "UPDATE sandboxes SET status = ?2, failure = ?3, exit_code = ?4, stopped_at = ?5, \
             slot = CASE WHEN ?5 IS NULL THEN slot END WHERE id = ?1",
        )
        .bind(id.as_str())
        .bind(status_name(state.status))
        .bind(&state.failure)
        .bind(state.exit_code)
        .bind(state.stopped_at.map(|time| time.to_string()))
        .execute(&self.fast)
        .await
        .map_err(failed("record a sandbox's state"))?;
        Ok(())
    }

    pub(crate) async fn set_sandbox_spec(&self, id: &SandboxId, spec: &SandboxSpec) -> Result<()> {
        sqlx::query("UPDATE sandboxes SET spec = ? WHERE id = ?")
            .bind(json(spec))
            .bind(id.as_str())
            .execute(&self.fast)
            .await
            .map_err(failed("record a sandbox's settings"))?;
        Ok(())
    }

    pub(crate) async fn sandbox(&self, id: &SandboxId) -> Result<Option<SandboxRecord>> {
        sqlx::query("SELECT * FROM sandboxes WHERE id = ?")
            .bind(id.as_str())
            .try_map(|row| sandbox_record(&row))
            .fetch_optional(&self.fast)
            .await
            .map_err(failed("look up a sandbox"))
    }

    pub(crate) async fn sandboxes(&self) -> Result<Vec<SandboxRecord>> {
        sqlx::query("SELECT * FROM sandboxes ORDER BY created_at")
            .try_map(|row| sandbox_record(&row))
            .fetch_all(&self.fast)
            .await
            .map_err(failed("list sandboxes"))
    }

    pub(crate) async fn delete_sandbox(&self, id: &SandboxId) -> Result<()> {
        sqlx::query("DELETE FROM sandboxes WHERE id = ?")
            .bind(id.as_str())
            .execute(&self.fast)
            .await
            .map_err(failed("forget a sandbox"))?;
        Ok(())
    }

    /// Forgets all but the newest `keep` of the ended sandboxes.
    pub(crate) async fn forget_old_sandboxes(&self, keep: u32) -> Result<()> {
        sqlx::query(
            "DELETE FROM sandboxes WHERE stopped_at IS NOT NULL AND id NOT IN \
             (SELECT id FROM sandboxes WHERE stopped_at IS NOT NULL ORDER BY stopped_at DESC LIMIT ?)",
        )
        .bind(keep)
        .execute(&self.fast)
        .await
        .map_err(failed("forget ended sandboxes"))?;
        Ok(())
    }

    pub(crate) async fn insert_image(&self, record: &ImageRecord) -> Result<()> {
        let size_bytes = i64::try_from(record.size_bytes).unwrap_or(i64::MAX);
        // A ready image is an answer to somebody; one in the making only has to be found by the next start.
        let pool = if record.status == ImageStatus::Ready {
            &self.durable
        } else {
            &self.fast
        };
        sqlx::query(
            "INSERT OR REPLACE INTO images (id, status, origin, layers, snapshot, environment, size_bytes, created_at) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(record.id.as_str())
        .bind(image_status_name(record.status))
        .bind(json(&record.origin))
        .bind(json(&record.layers))
        .bind(&record.snapshot)
        .bind(json(&record.environment))
        .bind(size_bytes)
        .bind(record.created_at.to_string())
        .execute(pool)
        .await
        .map_err(failed("record an image"))?;
        Ok(())
    }

    pub(crate) async fn set_image_status(&self, id: &ImageId, status: ImageStatus) -> Result<()> {
        sqlx::query("UPDATE images SET status = ? WHERE id = ?")
            .bind(image_status_name(status))
            .bind(id.as_str())
            .execute(&self.durable)
            .await
            .map_err(failed("record an image's state"))?;
        Ok(())
    }

    pub(crate) async fn set_image_size(&self, id: &ImageId, bytes: u64) -> Result<()> {
        sqlx::query("UPDATE images SET size_bytes = ? WHERE id = ?")
            .bind(i64::try_from(bytes).unwrap_or(i64::MAX))
            .bind(id.as_str())
            .execute(&self.fast)
            .await
            .map_err(failed("record an image's size"))?;
        Ok(())
    }

    pub(crate) async fn delete_image(&self, id: &ImageId) -> Result<()> {
        sqlx::query("DELETE FROM images WHERE id = ?")
            .bind(id.as_str())
            .execute(&self.durable)
            .await
            .map_err(failed("forget an image"))?;
        Ok(())
    }

    pub(crate) async fn images(&self) -> Result<Vec<ImageRecord>> {
        sqlx::query("SELECT * FROM images ORDER BY created_at")
            .try_map(|row| image_record(&row))
            .fetch_all(&self.fast)
            .await
            .map_err(failed("list images"))
    }

    /// Finishes what is being written.
    pub(crate) async fn close(&self) {
        self.fast.close().await;
        self.durable.close().await;
    }
}

fn failed<E: Into<sqlx::Error>>(action: &'static str) -> impl FnOnce(E) -> EngineError {
    move |source| EngineError::Database {
        action,
        source: source.into(),
    }
}

/// Our own types encode without fail: no map has keys that are not strings.
fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn decode<T: DeserializeOwned>(row: &SqliteRow, column: &str) -> sqlx::Result<T> {
    let text: &str = row.try_get(column)?;
    serde_json::from_str(text).map_err(|error| undecodable(column, error))
}

fn parse<T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    row: &SqliteRow,
    column: &str,
) -> sqlx::Result<T> {
    let text: &str = row.try_get(column)?;
    text.parse().map_err(|error| undecodable(column, error))
}

fn undecodable(column: &str, error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: Box::new(error),
    }
}

fn sandbox_record(row: &SqliteRow) -> sqlx::Result<SandboxRecord> {
    let stopped_at: Option<&str> = row.try_get("stopped_at")?;
    Ok(SandboxRecord {
        id: parse(row, "id")?,
        state: State {
            status: match row.try_get::<&str, _>("status")? {
                "creating" => SandboxStatus::Creating,
                "running" => SandboxStatus::Running,
                "stopping" => SandboxStatus::Stopping,
                "stopped" => SandboxStatus::Stopped,
                _ => SandboxStatus::Failed,
            },
            failure: row.try_get("failure")?,
            exit_code: row.try_get("exit_code")?,
            stopped_at: stopped_at
                .map(str::parse)
                .transpose()
                .map_err(|error: jiff::Error| undecodable("stopped_at", error))?,
        },
        image: parse(row, "image")?,
        spec: decode(row, "spec")?,
        slot: row.try_get("slot")?,
        layers: decode(row, "layers")?,
        restored: match row.try_get::<Option<&str>, _>("restored")? {
            Some(_) => Some(decode(row, "restored")?),
            None => None,
        },
        created_at: parse(row, "created_at")?,
    })
}

fn image_record(row: &SqliteRow) -> sqlx::Result<ImageRecord> {
    let size_bytes: i64 = row.try_get("size_bytes")?;
    Ok(ImageRecord {
        id: parse(row, "id")?,
        status: match row.try_get::<&str, _>("status")? {
            "ready" => ImageStatus::Ready,
            "making" => ImageStatus::Making,
            _ => ImageStatus::Removing,
        },
        origin: decode(row, "origin")?,
        layers: decode(row, "layers")?,
        snapshot: row.try_get("snapshot")?,
        environment: decode(row, "environment")?,
        size_bytes: u64::try_from(size_bytes).unwrap_or(0),
        created_at: parse(row, "created_at")?,
    })
}

fn status_name(status: SandboxStatus) -> &'static str {
    match status {
        SandboxStatus::Creating => "creating",
        SandboxStatus::Running => "running",
        SandboxStatus::Stopping => "stopping",
        SandboxStatus::Stopped => "stopped",
        SandboxStatus::Failed => "failed",
    }
}

fn image_status_name(status: ImageStatus) -> &'static str {
    match status {
        ImageStatus::Making => "making",
        ImageStatus::Ready => "ready",
        ImageStatus::Removing => "removing",
    }
}
