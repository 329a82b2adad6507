//! Plays a captured tree on.

pub mod tree;
