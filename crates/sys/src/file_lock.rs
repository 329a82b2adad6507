//! Locks that end with the process that holds them.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Locks a file for this process alone; `false` when somebody else has it for longer than `patience`.
///
/// Patience is needed even for a holder that is dead: a lock belongs to the open file (`flock(2)`), which a child that the holder
/// was just starting shares until it executes.
///
/// # Errors
/// What `flock(2)` says.
pub fn lock_exclusively(file: &File, patience: Duration) -> io::Result<bool> {
    const STEP: Duration = Duration::from_millis(5);
    let deadline = Instant::now() + patience;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) if Instant::now() >= deadline => return Ok(false),
            Err(Errno::WOULDBLOCK) => std::thread::sleep(STEP),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_refused_while_another_open_file_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let first = File::create(&path).unwrap();
        let second = File::open(&path).unwrap();
        assert!(lock_exclusively(&first, Duration::ZERO).unwrap());
        assert!(!lock_exclusively(&second, Duration::from_millis(20)).unwrap());
        drop(first);
        assert!(lock_exclusively(&second, Duration::ZERO).unwrap());
    }
}
