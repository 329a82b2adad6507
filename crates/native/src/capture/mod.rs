//! Reading what a stopped tree is made of.

pub mod descriptors;
mod task;

pub use task::Task;
