//! Descriptors, and the open file descriptions that they refer to (`open(2)` has the difference).

use serde::{Deserialize, Serialize};

/// All open file descriptions of a tree.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Descriptions {
    /// Referred to by their place here.
    pub list: Vec<Description>,
}

/// A descriptor of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// Its number.
    pub number: i32,
    /// Its place in [`Descriptions::list`].
    pub description: u32,
    /// `FD_CLOEXEC`
    pub close_on_execute: bool,
}

/// An open file description.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// Status flags and access mode as `F_GETFL` tells them.
    pub flags: u32,
}
