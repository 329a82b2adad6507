//! placeholder
/// placeholder
#[derive(Debug, thiserror::Error)]
#[error("pool")]
pub struct PoolError;
impl PoolError {
    /// placeholder
    pub fn is_no_space(&self) -> bool { false }
}
