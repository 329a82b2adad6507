//! Looking at and removing images.

use std::collections::HashSet;

use crate::live::{Inner, lock};
use crate::model::{Image, ImageId};
use crate::records::{ImageRecord, ImageStatus};
use crate::{Engine, EngineError, Result};

impl Engine {
    /// An image.
    ///
    /// # Errors
    /// `ImageNotFound`
    #[expect(clippy::unused_async, reason = "a later store of images is remote")]
    pub async fn image(&self, id: &ImageId) -> Result<Image> {
        let record = lock(&self.inner.images)
            .get(id)
            .cloned()
            .ok_or_else(|| EngineError::ImageNotFound { id: id.clone() })?;
        Ok(describe(&self.inner, record))
    }

    /// All images, in the order of their ids.
    ///
    /// # Errors
    /// None at present.
    #[expect(clippy::unused_async, reason = "a later store of images is remote")]
    pub async fn images(&self) -> Result<Vec<Image>> {
        let records = lock(&self.inner.images)
            .values()
            .cloned()
            .collect::<Vec<_>>();
        Ok(records
            .into_iter()
            .map(|record| describe(&self.inner, record))
            .collect())
    }

    /// The image that sandboxes start from when nothing else is asked for.
    #[must_use]
    pub fn base_image(&self) -> ImageId {
        self.inner.base_image.clone()
    }

    /// Removes an image and what only it needs.
    ///
    /// # Errors
    /// `ImageNotFound`; `ImageInUse` while a sandbox runs from it, and for the base image; `Pool`.
    pub async fn remove_image(&self, id: &ImageId) -> Result<()> {
        let inner = &self.inner;
        if *id == inner.base_image {
            return Err(EngineError::ImageInUse {
                id: id.clone(),
                users: "every sandbox that names no image".to_owned(),
            });
        }
        let record = {
            // Both locks in this order, and nothing awaited: no sandbox can begin from it in between.
            let live = lock(&inner.live);
            let snapshots = lock(&inner.memory_snapshots);
            let sandboxes = live.values().filter(|live| live.image == *id);
            let halves = snapshots.values().filter(|record| record.image == *id);
            let users = sandboxes
                .map(|live| live.id.to_string())
                .chain(halves.map(|record| format!("memory snapshot {}", record.id)))
                .collect::<Vec<_>>();
            if !users.is_empty() {
                return Err(EngineError::ImageInUse {
                    id: id.clone(),
                    users: users.join(", "),
                });
            }
            lock(&inner.images)
                .remove(id)
                .ok_or_else(|| EngineError::ImageNotFound { id: id.clone() })?
        };
        inner
            .records
            .set_image_status(id, ImageStatus::Removing)
            .await?;
        destroy(inner, &record).await
    }
}

/// Deletes what an image that nobody can see any more still has in the pool, then its record.
pub(crate) async fn destroy(inner: &Inner, record: &ImageRecord) -> Result<()> {
    if record.snapshot.is_some() {
        inner.storage.delete_snapshot(&record.id).await?;
    }
    let needed: HashSet<String> = lock(&inner.images)
        .values()
        .flat_map(|image| image.layers.iter().cloned())
        .collect();
    for layer in &record.layers {
        if !needed.contains(layer) {
            inner.storage.remove_layer(layer).await?;
        }
    }
    inner.records.delete_image(&record.id).await
}

fn describe(inner: &Inner, record: ImageRecord) -> Image {
    let sandboxes = lock(&inner.live)
        .values()
        .filter(|live| live.image == record.id)
        .count();
    Image {
        sandboxes: u64::try_from(sandboxes).unwrap_or(u64::MAX),
        id: record.id,
        origin: record.origin,
        created_at: record.created_at,
        environment: record.environment,
        size_bytes: record.size_bytes,
    }
}
