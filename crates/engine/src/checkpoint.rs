//! What the engine keeps of checkpoint engines and sealed snapshots: which engine there is, and which snapshots are whole.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fermata_checkpoint::{
    CheckpointError, CheckpointErrorKind, Checkpointer, Facts, Incompatible, Machine, Manifest,
    ManifestError, Provision, Verifier, native,
};

use crate::config::CheckpointerChoice;
use crate::live::Inner;
use crate::model::RestoredFrom;
use crate::records::MemoryRecord;
use crate::{EngineConfig, EngineError, Result};

/// How long a snapshot waits for the checkpoint engine, which is made at the first start of a server.
const PATIENCE: Duration = Duration::from_secs(120);

/// The engines, one of which may be on its way, and what has been checked.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    choice: CheckpointerChoice,
    /// CRIU.
    provision: Provision,
    verifier: Arc<Verifier>,
}

impl Checkpoints {
    /// Begins to get an engine ready.
    pub(crate) fn prepare(config: &EngineConfig) -> Self {
        Self {
            choice: config.checkpointer,
            provision: Provision::start(&config.data_directory, config.shim_program.clone()),
            verifier: Arc::default(),
        }
    }

    /// Gives up what is still on its way.
    pub(crate) fn close(&self) {
        self.provision.stop();
    }
}

impl Drop for Checkpoints {
    /// Also for a server that did not come to run.
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    /// What captures first.
    pub(crate) async fn checkpointer(&self) -> Result<Arc<dyn Checkpointer>> {
        match self.checkpoints.choice {
            CheckpointerChoice::Auto | CheckpointerChoice::Native => Ok(Arc::new(native::Native)),
            CheckpointerChoice::Criu => self.criu().await,
        }
    }

    /// What captures a sandbox that `error` says the first one cannot hold.
    pub(crate) async fn other_checkpointer(
        &self,
        error: &EngineError,
    ) -> Option<Arc<dyn Checkpointer>> {
        let EngineError::Checkpoint { source, .. } = error else {
            return None;
        };
        let is_refused = source.kind() == CheckpointErrorKind::Unsupported;
        if !is_refused || self.checkpoints.choice != CheckpointerChoice::Auto {
            return None;
        }
        self.criu().await.ok()
    }

    /// What has made a snapshot, and can play it on.
    pub(crate) async fn maker(&self, record: &MemoryRecord) -> Result<Arc<dyn Checkpointer>> {
        match record.held.engine.split(' ').next() {
            Some(native::NAME) => Ok(Arc::new(native::Native)),
            _ => self.criu().await,
        }
    }

    /// Waits until it is there.
    async fn criu(&self) -> Result<Arc<dyn Checkpointer>> {
        let provision = self.checkpoints.provision.clone();
        if let Ok(checkpointer) = provision.get(Duration::ZERO) {
            return Ok(checkpointer);
        }
        blocking(move || {
            provision.get(PATIENCE).map_err(|error| match error {
                CheckpointError::NoEngine { reason } => EngineError::NoCheckpointer { reason },
                other => EngineError::NoCheckpointer {
                    reason: fermata_runtime::error_chain(&other),
                },
            })
        })
        .await
    }

    /// Makes a captured directory a snapshot that survives a power cut.
    pub(crate) async fn seal(&self, record: &mut MemoryRecord) -> Result<()> {
        let checkpointer = self.maker(record).await?;
        let facts = Facts {
            id: record.id.to_string(),
            parent: match &record.held.restored_from {
                Some(RestoredFrom::Snapshot(id)) => Some(id.to_string()),
                Some(RestoredFrom::Sandbox(_)) | None => None,
            },
            created_at: record.created_at,
            paused_ms: record.held.paused_ms,
            engine: checkpointer.engine(),
        };
        let directory = self.memory_directory(&record.id);
        let verifier = self.checkpoints.verifier.clone();
        let id = record.id.clone();
        let manifest = blocking(move || {
            Manifest::seal(&directory, facts, &verifier)
                .map_err(|source| EngineError::Snapshot { id, source })
        })
        .await?;
        record.held.memory_bytes = manifest.bytes();
        Ok(())
    }

    /// Refuses a snapshot that is damaged, or that this machine cannot play on.
    pub(crate) async fn check(&self, record: &MemoryRecord) -> Result<()> {
        let checkpointer = self.maker(record).await?;
        let directory = self.memory_directory(&record.id);
        let verifier = self.checkpoints.verifier.clone();
        let (id, image) = (record.id.clone(), record.image.clone());
        blocking(move || {
            let refuse = |reason, retryable| EngineError::NotPlayable {
                id: id.clone(),
                image: image.clone(),
                reason,
                retryable,
            };
            let damaged =
                |error: ManifestError| refuse(fermata_runtime::error_chain(&error), false);
            let manifest = Manifest::read(&directory).map_err(damaged)?;
            let here = Machine::read().map_err(damaged)?;
            let reasons = manifest.compatible_with(&here, &checkpointer.engine());
            if !reasons.is_empty() {
                let words = reasons.iter().map(ToString::to_string).collect::<Vec<_>>();
                let retryable = reasons.iter().all(Incompatible::is_retryable);
                return Err(refuse(words.join("; "), retryable));
            }
            verifier.verify(&directory, &manifest).map_err(damaged)
        })
        .await
    }

    /// Forgets what is known of a snapshot that goes.
    pub(crate) fn forget_checks(&self, directory: &Path) {
        self.checkpoints.verifier.forget(directory);
    }
}

/// Runs what waits for the disk where it does not hold up other tasks.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| EngineError::ShuttingDown)?
}
