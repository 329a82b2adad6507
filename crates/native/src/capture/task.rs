//! A process of the tree, as it is found from the host.

use std::io;

use crate::{NativeError, Owner};

/// A process of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// As the host sees it.
    pub host_pid: i32,
    /// As it is seen inside.
    pub pid: i32,
    /// `/proc/PID/comm`.
    pub name: String,
}

impl Task {
    /// For errors.
    #[must_use]
    pub fn owner(&self) -> Owner {
        Owner {
            pid: self.pid,
            name: self.name.clone(),
        }
    }

    pub(crate) fn unheld(&self, reason: impl Into<String>) -> NativeError {
        NativeError::Unheld {
            owner: self.owner(),
            reason: reason.into(),
        }
    }

    /// For `map_err`.
    pub(crate) fn failed<E: Into<io::Error>>(
        &self,
        action: &'static str,
    ) -> impl FnOnce(E) -> NativeError {
        let owner = self.owner();
        move |source| NativeError::Capture {
            action,
            owner,
            source: source.into(),
        }
    }
}
