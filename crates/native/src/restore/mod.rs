//! Making a tree again.

pub mod descriptors;
