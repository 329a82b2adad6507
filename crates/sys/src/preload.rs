//! What is loaded into other programs.

/// A shared object for `LD_PRELOAD` that lets `syscall(SYS_prlimit64, …)` tell the limits of other users' processes where the
/// kernel does not; its source is in `preload/`.
pub const LIMITS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/limits.so"));
