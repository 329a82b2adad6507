//! What an image says about the processes started in it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Defaults that an image gives to its sandboxes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ImageConfig {
    /// Environment of every process.
    pub environment: BTreeMap<String, String>,
    /// Where processes start; `/` when empty.
    pub working_directory: String,
}
