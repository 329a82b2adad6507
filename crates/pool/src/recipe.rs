//! Which layer came out of which recipe, so that nothing is made twice.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::id::Digest;
use crate::layer::LayerStore;
use crate::{PoolError, Result, durable};

/// A result, with what its maker wants to keep beside it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Made<T> {
    pub(crate) layer: Digest,
    pub(crate) notes: T,
}

/// One small file per recipe, named by the recipe's digest.
#[derive(Debug)]
pub(crate) struct Recipes {
    directory: PathBuf,
}

impl Recipes {
    pub(crate) fn open(directory: PathBuf) -> Result<Self> {
        durable::create_directory(&directory)?;
        Ok(Self { directory })
    }

    /// The result of an earlier time, if its layer is still there.
    pub(crate) fn find<T: DeserializeOwned>(
        &self,
        recipe: &Digest,
        layers: &LayerStore,
    ) -> Result<Option<Made<T>>> {
        let path = self.path(recipe);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(PoolError::file("read", &path)(error)),
        };
        let made: Made<T> =
            serde_json::from_slice(&text).map_err(|source| PoolError::Record { path, source })?;
        Ok(layers.contains(&made.layer)?.then_some(made))
    }

    /// The layer must be on disk.
    pub(crate) fn note<T: Serialize>(&self, recipe: &Digest, made: &Made<T>) -> Result<()> {
        let path = self.path(recipe);
        let text = serde_json::to_vec_pretty(made).map_err(|source| PoolError::Record {
            path: path.clone(),
            source,
        })?;
        durable::write(&path, &text)
    }

    fn path(&self, recipe: &Digest) -> PathBuf {
        self.directory.join(format!("{recipe}.json"))
    }
}
