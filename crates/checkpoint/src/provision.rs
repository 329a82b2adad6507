//! A checkpointer that may still be on its way.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::criu::{Criu, Program};
use crate::{CheckpointError, Checkpointer};

/// Gets an engine ready beside everything else: finding one takes a moment, making one some seconds and a package archive, and
/// nothing but memory snapshots has to wait for it.
#[derive(Debug, Clone)]
pub struct Provision {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// The processes that are making an engine.
    making: Mutex<Option<Pid>>,
}

#[derive(Debug)]
enum State {
    OnItsWay,
    Ready(Arc<dyn Checkpointer>),
    /// In words, because it is told to everyone who asks.
    Missing(String),
}

impl Provision {
    /// Where the engines of a server are, inside its data directory.
    #[must_use]
    pub fn directory(data_directory: &Path) -> PathBuf {
        data_directory.join("engines")
    }

    /// Starts to get one ready, in a thread of its own. `launcher` is the shim program.
    #[must_use]
    pub fn start(data_directory: &Path, launcher: PathBuf) -> Self {
        let provision = Self::new(State::OnItsWay);
        let directory = Self::directory(data_directory);
        let ours = provision.clone();
        let work = move || {
            let state = match Program::prepare_watched(&directory, &launcher, &|group| {
                ours.note(group);
            }) {
                Ok(program) => {
                    tracing::info!(version = %program.version(), "memory snapshots are possible: CRIU is ready");
                    State::Ready(Arc::new(Criu::new(program, launcher)))
                }
                Err(error) => {
                    let reason = match error {
                        CheckpointError::NoEngine { reason } => reason,
                        other => fermata_protocol::error_chain(&other),
                    };
                    tracing::warn!(reason, "memory snapshots are not possible");
                    State::Missing(reason)
                }
            };
            ours.set(state);
        };
        let thread = std::thread::Builder::new().name("checkpoint-engine".to_owned());
        if let Err(error) = thread.spawn(work) {
            provision.set(State::Missing(error.to_string()));
        }
        provision
    }

    /// The checkpointer, after at most `patience`; blocks.
    ///
    /// # Errors
    /// [`CheckpointError::NoEngine`] with the reason.
    pub fn get(&self, patience: Duration) -> Result<Arc<dyn Checkpointer>, CheckpointError> {
        let state = self
            .shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(state, patience, |state| matches!(state, State::OnItsWay))
            .unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Ready(checkpointer) => Ok(Arc::clone(checkpointer)),
            State::Missing(reason) => Err(CheckpointError::NoEngine {
                reason: reason.clone(),
            }),
            State::OnItsWay => Err(CheckpointError::NoEngine {
                reason: "it is still being made ready".to_owned(),
            }),
        }
    }

    /// Ends what is being made; for a server that ends. The next one makes it anew.
    pub fn stop(&self) {
        let making = self
            .shared
            .making
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = *making {
            // Fails when it has just ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    fn note(&self, group: Option<Pid>) {
        *self
            .shared
            .making
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = group;
    }

    fn new(state: State) -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                changed: Condvar::new(),
                making: Mutex::new(None),
            }),
        }
    }

    fn set(&self, state: State) {
        *self
            .shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = state;
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_too_early_is_told_so() {
        let provision = Provision::new(State::OnItsWay);
        let error = provision.get(Duration::ZERO).unwrap_err();
        assert!(
            error.to_string().contains("still being made ready"),
            "{error}"
        );
        let waiting = {
            let provision = provision.clone();
            std::thread::spawn(move || provision.get(Duration::from_secs(60)).unwrap_err())
        };
        provision.set(State::Missing("there is none".to_owned()));
        let error = waiting.join().unwrap();
        assert!(error.to_string().ends_with("there is none"), "{error}");
    }
}
