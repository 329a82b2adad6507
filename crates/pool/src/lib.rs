//! The storage: immutable EROFS layers below, writable uppers above them that snapshot in no time, and the base image.
//!
//! All of it is synchronous; an async caller uses a blocking thread. What is *not* here: mounting the overlayfs of a sandbox
//! (the shim does that in the sandbox's own namespace), and freezing one (the caller does that around
//! [`UpperDriver::snapshot`]).
//!
//! ```no_run
//! # use fermata_pool::{DriverChoice, Pool, PoolConfig, Result};
//! # fn main() -> Result<()> {
//! let pool = Pool::open(PoolConfig {
//!     directory: "/var/lib/fermata/pool".into(),
//!     driver: DriverChoice::Auto,
//!     size_bytes: None,
//!     agent: "/usr/libexec/fermata-agent".into(),
//!     extra_certificates: Vec::new(),
//! })?;
//! let base = pool.base_image(&mut |_line| {})?;
//! let image = [base.layer];
//! let lower = pool.mount_layers(&pool.stack(&image))?;
//! let upper = pool.create_upper(&"sandbox-1".parse()?, &image)?;
//! // … mount overlayfs with `lower` and `upper`, run, then:
//! pool.uppers().flush(&"sandbox-1".parse()?)?;
//! // freeze
//! pool.uppers().snapshot(&"sandbox-1".parse()?, &"snapshot-1".parse()?)?;
//! // thaw
//! # Ok(()) }
//! ```

mod backing;
mod base;
mod driver;
mod durable;
mod error;
mod id;
mod image;
mod layer;
mod mount;
mod pool;
mod program;
mod recipe;
mod system;
mod tree;

pub use base::BaseImage;
pub use driver::{Contents, DriverKind, Item, Upper, UpperDriver, Usage};
pub use error::PoolError;
pub use id::{Digest, SnapshotId, UpperId};
pub use image::ImageConfig;
pub use layer::LayerStore;
pub use pool::{DriverChoice, Pool, PoolConfig, Space};
pub use system::SystemLayers;

/// The pool's results.
pub type Result<T, E = PoolError> = std::result::Result<T, E>;
