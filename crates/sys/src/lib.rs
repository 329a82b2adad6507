//! The only crate with `unsafe`: system calls that rustix lacks, each behind a safe function.
#![expect(
    unsafe_code,
    reason = "this crate exists to keep every unsafe block in one place"
)]
#![cfg_attr(not(test), warn(missing_docs))]
pub mod birth;
pub mod btrfs;
pub mod clone;
pub mod device_filter;
pub mod ending;
pub mod execute;
pub mod extended_state;
pub mod file_lock;
pub mod injection;
pub mod interpreter;
pub mod loop_device;
pub mod network_namespace;
pub mod open_file;
pub mod own_memory;
pub mod own_process;
pub mod page_map;
pub mod preload;
pub mod process;
pub mod record_lock;
pub mod restartable_sequences;
pub mod seccomp;
pub mod shared_words;
pub mod sharing;
pub mod socket;
pub mod tcp_repair;
pub mod terminal;
pub mod terminal_state;
pub mod tracee;
