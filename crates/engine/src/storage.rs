//! The pool, in the engine's words and off the async threads.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use fermata_pool::{Pool, PoolError};

use crate::live::lock;
use crate::{EngineError, Result};

/// What a sandbox or an image keeps in the pool.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    pool: Arc<Pool>,
    /// Where each layer is mounted.
    mounts: Arc<Mutex<HashMap<String, PathBuf>>>,
}
