//! Names of what is being captured.

use crate::Owner;

/// A process that is stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its pid as the caller sees it.
    pub host_pid: i32,
    /// Its pid inside.
    pub pid: i32,
    /// `/proc/PID/comm`
    pub name: String,
}

impl Task {
    /// As errors name it.
    #[must_use]
    pub fn owner(&self) -> Owner {
        Owner {
            pid: self.pid,
            name: self.name.clone(),
        }
    }
}
