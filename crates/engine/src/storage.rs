//! The pool, in the engine's words and off the async threads.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use fermata_pool::{Digest, Item, Pool, PoolConfig, PoolError, Upper};
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::config::EngineConfig;
use crate::model::{ImageId, ImageOrigin, SandboxId};
use crate::records::{ImageRecord, ImageStatus};
use crate::{EngineError, Result};

/// What sandboxes and images keep in the pool. A sandbox's upper has the sandbox's id, a snapshot has its image's.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    pool: Arc<Pool>,
}

impl Storage {
    /// Opens the pool and makes the base image when it is missing.
    pub(crate) async fn open(
        config: &EngineConfig,
        progress: mpsc::UnboundedSender<String>,
    ) -> Result<(Self, ImageRecord)> {
        let pool_config = PoolConfig {
            directory: config.data_directory.join("pool"),
            driver: config.pool_driver,
            size_bytes: config.pool_size_bytes,
            agent: config.agent_program.clone(),
            extra_certificates: config.extra_certificates.clone(),
        };
        let (pool, base, size_bytes) = blocking("the pool", move || {
            let say = |line: &str| {
                // Nobody has to listen.
                let _ = progress.send(line.to_owned());
            };
            say("opening the pool");
            let pool = Pool::open(pool_config)?;
            let base = pool.base_image(&mut |line| say(line))?;
            let size_bytes = pool.layers().size(&base.layer)?;
            Ok((pool, base, size_bytes))
        })
        .await?;
        let record = ImageRecord {
            id: format!("base-{}", &base.recipe.as_str()[..12]).parse()?,
            status: ImageStatus::Ready,
            origin: ImageOrigin::Base,
            layers: vec![base.layer.to_string()],
            snapshot: None,
            environment: base.config.environment,
            size_bytes,
            created_at: Timestamp::now(),
        };
        let storage = Self {
            pool: Arc::new(pool),
        };
        Ok((storage, record))
    }

    /// Makes the writable layer of a sandbox: empty, or from its image's snapshot.
    pub(crate) async fn create_upper(
        &self,
        sandbox: &SandboxId,
        image: &ImageRecord,
    ) -> Result<Upper> {
        let id = sandbox.to_string();
        let snapshot = image.snapshot.clone();
        let layers = image.layers.clone();
        self.with(format!("sandbox {id}"), move |pool| {
            require_room(pool)?;
            let upper = id.parse()?;
            match snapshot {
                Some(snapshot) => pool.uppers().clone_snapshot(&snapshot.parse()?, &upper),
                None => pool.create_upper(&upper, &digests(&layers)?),
            }
        })
        .await
    }

    /// Deletes a sandbox's writable layer; fine when there is none.
    pub(crate) async fn delete_upper(&self, sandbox: &SandboxId) -> Result<()> {
        let id = sandbox.to_string();
        self.with(format!("sandbox {id}"), move |pool| {
            absent_is_fine(pool.uppers().delete(&Item::Upper(id.parse()?)))
        })
        .await
    }

    /// Writes out what a sandbox has changed while it runs on, as the first step of holding it.
    pub(crate) async fn flush_upper(&self, sandbox: &SandboxId) -> Result<()> {
        let id = sandbox.to_string();
        self.with(format!("sandbox {id}"), move |pool| {
            require_room(pool)?;
            pool.uppers().flush(&id.parse()?)
        })
        .await
    }

    /// Holds a sandbox's writable layer as it is at this instant.
    pub(crate) async fn snapshot_upper(&self, sandbox: &SandboxId, image: &ImageId) -> Result<()> {
        let (id, snapshot) = (sandbox.to_string(), image.to_string());
        self.with(format!("a snapshot of sandbox {id}"), move |pool| {
            pool.uppers().snapshot(&id.parse()?, &snapshot.parse()?)
        })
        .await
    }

    /// As [`Self::snapshot_upper`], for a thread that blocks.
    pub(crate) fn snapshot_upper_now(
        &self,
        sandbox: &SandboxId,
        image: &ImageId,
    ) -> Result<(), PoolError> {
        let (upper, snapshot) = (sandbox.as_str().parse()?, image.as_str().parse()?);
        self.pool.uppers().snapshot(&upper, &snapshot)
    }

    /// Bytes in a snapshot.
    pub(crate) async fn snapshot_bytes(&self, image: &ImageId) -> Result<u64> {
        let id = image.to_string();
        self.with(format!("image {id}"), move |pool| {
            Ok(pool.uppers().usage(&Item::Snapshot(id.parse()?))?.bytes)
        })
        .await
    }

    /// Deletes a snapshot; fine when there is none.
    pub(crate) async fn delete_snapshot(&self, image: &ImageId) -> Result<()> {
        let id = image.to_string();
        self.with(format!("image {id}"), move |pool| {
            absent_is_fine(pool.uppers().delete(&Item::Snapshot(id.parse()?)))
        })
        .await
    }

    /// Makes a layer of a snapshot; its digest and size.
    pub(crate) async fn bake(&self, image: &ImageId) -> Result<(String, u64)> {
        let id = image.to_string();
        self.with(format!("a layer of image {id}"), move |pool| {
            let digest = pool.bake(&id.parse()?)?;
            let size_bytes = pool.layers().size(&digest)?;
            Ok((digest.to_string(), size_bytes))
        })
        .await
    }

    /// What a new sandbox from an image with these layers stands on, uppermost first.
    pub(crate) fn stack(&self, layers: &[String]) -> Result<Vec<String>> {
        let layers = digests(layers).map_err(|source| EngineError::Pool {
            subject: "the layers of an image".to_owned(),
            source,
        })?;
        let stack = self.pool.stack(&layers);
        Ok(stack.iter().map(ToString::to_string).collect())
    }

    /// Where layers are mounted, in the same order.
    pub(crate) async fn mount_layers(&self, layers: &[String]) -> Result<Vec<PathBuf>> {
        let layers = layers.to_vec();
        self.with("the layers of a sandbox".to_owned(), move |pool| {
            pool.mount_layers(&digests(&layers)?)
        })
        .await
    }

    /// Deletes a layer that no image needs any more; fine when there is none.
    pub(crate) async fn remove_layer(&self, layer: &str) -> Result<()> {
        let layer = layer.to_owned();
        self.with(format!("layer {layer}"), move |pool| {
            let digest = layer.parse()?;
            if pool.layers().contains(&digest)? {
                pool.layers().remove(&digest)?;
            }
            Ok(())
        })
        .await
    }

    /// Deletes uppers and snapshots that are not in these sets.
    pub(crate) async fn sweep(
        &self,
        uppers: &HashSet<String>,
        snapshots: &HashSet<String>,
    ) -> Result<()> {
        let (uppers, snapshots) = (uppers.clone(), snapshots.clone());
        self.with("what nothing needs".to_owned(), move |pool| {
            let contents = pool.uppers().list()?;
            let uppers = contents
                .uppers
                .into_iter()
                .filter(|id| !uppers.contains(id.as_str()))
                .map(Item::Upper);
            let snapshots = contents
                .snapshots
                .into_iter()
                .filter(|id| !snapshots.contains(id.as_str()))
                .map(Item::Snapshot);
            for item in uppers.chain(snapshots) {
                tracing::info!(%item, "deleting what no record knows of");
                absent_is_fine(pool.uppers().delete(&item))?;
            }
            Ok(())
        })
        .await
    }

    /// Unmounts everything; only when no sandbox runs.
    pub(crate) async fn close(&self) -> Result<()> {
        self.with("the pool".to_owned(), Pool::close).await
    }

    async fn with<T: Send + 'static>(
        &self,
        subject: String,
        work: impl FnOnce(&Pool) -> Result<T, PoolError> + Send + 'static,
    ) -> Result<T> {
        let pool = self.pool.clone();
        blocking(subject, move || work(&pool)).await
    }
}

async fn blocking<T: Send + 'static>(
    subject: impl Into<String>,
    work: impl FnOnce() -> Result<T, PoolError> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| EngineError::ShuttingDown)?
        .map_err(|source| EngineError::Pool {
            subject: subject.into(),
            source,
        })
}

/// The pool's own file system is sparse: when the disk below it is full, writes into it fail as if it were broken. Nothing new
/// is begun before it comes to that.
fn require_room(pool: &Pool) -> Result<(), PoolError> {
    const RESERVE_BYTES: u64 = 256 << 20;
    let available = pool.space()?.host_free;
    if available < RESERVE_BYTES {
        return Err(PoolError::TooLittleSpace {
            needed: RESERVE_BYTES,
            available,
        });
    }
    Ok(())
}

fn digests(layers: &[String]) -> Result<Vec<Digest>, PoolError> {
    layers.iter().map(|layer| layer.parse()).collect()
}

/// What is to be deleted may have been deleted by an earlier, interrupted try.
fn absent_is_fine(result: Result<(), PoolError>) -> Result<(), PoolError> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}
