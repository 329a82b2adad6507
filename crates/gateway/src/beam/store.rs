//! What the Beam interface has to remember and the engine does not know: stubs.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use uuid::Uuid;

use super::stub::StubConfiguration;

/// Why the records could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file cannot be made or opened.
    #[error("cannot open {path}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is no database of ours.
    #[error("cannot use {path} as the gateway's database")]
    Connect {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// The tables could not be brought up to date.
    #[error("cannot migrate {path}")]
    Migrate {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    /// A query failed.
    #[error("cannot {action} a stub")]
    Query {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// A record has another form than this version writes.
    #[error("stub {id} has an unreadable configuration")]
    Configuration {
        /// Which.
        id: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// The gateway's own database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BeamStore {
    pool: SqlitePool,
}

impl BeamStore {
    /// Opens or makes the database file.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        // Environments may hold secrets: nobody else may read them. SQLite gives its side files the same mode.
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(|source| StoreError::Open {
                path: path.to_owned(),
                source,
            })?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            // With WAL a power cut may take back the last stubs, never corrupt: clients make a new one each time.
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(5));
        let pool =
            SqlitePool::connect_with(options)
                .await
                .map_err(|source| StoreError::Connect {
                    path: path.to_owned(),
                    source,
                })?;
        sqlx::migrate!("./migrations")
            .run(&pool)
            .await
            .map_err(|source| StoreError::Migrate {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self { pool })
    }

    /// Keeps a new stub.
    pub(super) async fn add_stub(
        &self,
        configuration: &StubConfiguration,
    ) -> Result<String, StoreError> {
        let id = Uuid::new_v4().to_string();
        sqlx::query(
            "INSERT INTO stubs (id, configuration, created_at_unix_seconds) VALUES (?, ?, ?)",
        )
        .bind(&id)
        .bind(configuration.to_json())
        .bind(Timestamp::now().as_second())
        .execute(&self.pool)
        .await
        .map_err(|source| StoreError::Query {
            action: "add",
            source,
        })?;
        Ok(id)
    }

    /// A stub of just this configuration.
    pub(super) async fn find_stub(
        &self,
        configuration: &StubConfiguration,
    ) -> Result<Option<String>, StoreError> {
        sqlx::query_scalar("SELECT id FROM stubs WHERE configuration = ? ORDER BY created_at_unix_seconds DESC LIMIT 1")
            .bind(configuration.to_json())
            .fetch_optional(&self.pool)
            .await
            .map_err(|source| StoreError::Query { action: "find", source })
    }

    /// The configuration of a stub.
    pub(super) async fn stub(&self, id: &str) -> Result<Option<StubConfiguration>, StoreError> {
        let text: Option<String> =
            sqlx::query_scalar("SELECT configuration FROM stubs WHERE id = ?")
                .bind(id)
                .fetch_optional(&self.pool)
                .await
                .map_err(|source| StoreError::Query {
                    action: "read",
                    source,
                })?;
        text.map(|text| serde_json::from_str(&text))
            .transpose()
            .map_err(|source| StoreError::Configuration {
                id: id.to_owned(),
                source,
            })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn stubs_are_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("beam.sqlite");
        let configuration = StubConfiguration {
            cpu_millicores: 1000,
            ..StubConfiguration::default()
        };
        let store = BeamStore::open(&path).await.unwrap();
        let id = store.add_stub(&configuration).await.unwrap();
        store.pool.close().await;
        let store = BeamStore::open(&path).await.unwrap();
        assert_eq!(store.stub(&id).await.unwrap(), Some(configuration.clone()));
        assert_eq!(store.find_stub(&configuration).await.unwrap(), Some(id));
        assert_eq!(
            store
                .find_stub(&StubConfiguration::default())
                .await
                .unwrap(),
            None
        );
        assert_eq!(store.stub("nothing").await.unwrap(), None);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
    }

    #[tokio::test]
    async fn a_file_that_is_no_database_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("beam.sqlite");
        std::fs::write(
            &path,
            "not a database, but long enough to have a header".repeat(100),
        )
        .unwrap();
        let error = BeamStore::open(&path).await.unwrap_err();
        assert!(error.to_string().contains("beam.sqlite"), "{error}");
    }
}
