//! What the engine keeps of checkpoint engines and sealed snapshots: which engine there is, and which snapshots are whole.
//!
//! ```text
//! start ─► found, or made in the background ─► ready | unavailable (why)
//!            └ captures and restores wait meanwhile
//! ```

use std::path::Path;
use std::sync::Arc;

use fermata_checkpoint::criu::{Criu, Program};
use fermata_checkpoint::{Checkpointer, Facts, Incompatible, Machine, Manifest, Verifier};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::live::Inner;
use crate::model::RestoredFrom;
use crate::records::MemoryRecord;
use crate::{EngineConfig, EngineError, Result};

type Found = Result<Arc<dyn Checkpointer>, String>;

/// The engine that captures, once it is known, and what has been checked.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    found: watch::Receiver<Option<Found>>,
    verifier: Arc<Verifier>,
}

impl Checkpoints {
    /// Looks for an engine in the background, which may take seconds at the first start of a server: nothing but memory
    /// snapshots has to wait for it.
    pub(crate) fn prepare(config: &EngineConfig) -> Self {
        let (sender, found) = watch::channel(None);
        let directory = config.checkpoint_directory.clone();
        let launcher = config.shim_program.clone();
        // A thread of its own: a server that ends meanwhile does not wait for it, and what it leaves is cleared by the next try.
        let search = move || {
            let program = Program::prepare(&directory, &launcher);
            sender.send_replace(Some(match program {
                Ok(program) => {
                    info!(version = %program.version(), "memory snapshots are made with CRIU");
                    let criu: Arc<dyn Checkpointer> = Arc::new(Criu::new(program, launcher));
                    Ok(criu)
                }
                Err(error) => {
                    let reason = fermata_runtime::error_chain(&error);
                    warn!(reason, "no memory snapshots");
                    Err(reason)
                }
            }));
        };
        let thread = std::thread::Builder::new().name("checkpoint".to_owned());
        if let Err(error) = thread.spawn(search) {
            warn!(%error, "no memory snapshots: cannot start a thread");
        }
        Self {
            found,
            verifier: Arc::default(),
        }
    }
}

impl Inner {
    /// What captures; waits until it is known.
    pub(crate) async fn checkpointer(&self) -> Result<Arc<dyn Checkpointer>> {
        let mut found = self.checkpoints.found.clone();
        let found = found
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|found| found.clone());
        found
            .unwrap_or_else(|| Err("its search was broken off".to_owned()))
            .map_err(|reason| EngineError::NoCheckpointer { reason })
    }

    /// Makes a captured directory a snapshot that survives a power cut.
    pub(crate) async fn seal(&self, record: &mut MemoryRecord) -> Result<()> {
        let checkpointer = self.checkpointer().await?;
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
        let checkpointer = self.checkpointer().await?;
        let directory = self.memory_directory(&record.id);
        let verifier = self.checkpoints.verifier.clone();
        let (id, image) = (record.id.clone(), record.image.clone());
        blocking(move || {
            let failed = |source| EngineError::Snapshot {
                id: id.clone(),
                source,
            };
            let manifest = Manifest::read(&directory).map_err(failed)?;
            let here = Machine::read().map_err(failed)?;
            let reasons = manifest.compatible_with(&here, &checkpointer.engine());
            if reasons.is_empty() {
                return verifier.verify(&directory, &manifest).map_err(failed);
            }
            let words = reasons.iter().map(ToString::to_string).collect::<Vec<_>>();
            Err(EngineError::NotPlayable {
                retryable: reasons.iter().all(Incompatible::is_retryable),
                reason: words.join("; "),
                id: id.clone(),
                image,
            })
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
