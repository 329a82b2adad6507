//! What may happen to a sandbox, and what it is afterwards. Pure: no clock, no locks, no I/O.
//!
//! ```text
//! Creating ── Ready ──► Running ── StopAsked ──► Stopping
//!     │  │                 │                        │
//!     │  └── StopAsked ────│──────► Stopping        │
//!     │                    │                        │
//!  StartFailed        Ended, Lost              Ended, Lost
//!     ▼                    ▼                        ▼
//!   Failed          Stopped │ Failed             Stopped
//! ```

use jiff::Timestamp;

use crate::model::SandboxStatus;

/// Where a sandbox is, with what is known of its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) status: SandboxStatus,
    pub(crate) failure: Option<String>,
    pub(crate) exit_code: Option<i32>,
    pub(crate) stopped_at: Option<Timestamp>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// Its agent listens.
    Ready,
    /// It could not be made.
    StartFailed { reason: String },
    /// Somebody, or the idle timeout, wants it to end.
    StopAsked,
    /// Process 1 has ended and the shim has said how.
    Ended { exit_code: i32, out_of_memory: bool },
    /// Process 1 has ended and nobody could say how.
    Lost { reason: String },
}

impl State {
    /// A sandbox that was just asked for.
    pub(crate) fn new() -> Self {
        Self {
            status: SandboxStatus::Creating,
            failure: None,
            exit_code: None,
            stopped_at: None,
        }
    }

    /// Whether nothing will change any more.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self.status, SandboxStatus::Stopped | SandboxStatus::Failed)
    }

    /// The state after `event` at `now`; `None` when it changes nothing.
    pub(crate) fn after(&self, event: Event, now: Timestamp) -> Option<Self> {
        use SandboxStatus::{Creating, Failed, Running, Stopped, Stopping};
        let status = |status| {
            Some(Self {
                status,
                ..self.clone()
            })
        };
        let end = |status, exit_code, failure| {
            Some(Self {
                status,
                failure,
                exit_code,
                stopped_at: Some(now),
            })
        };
        match (self.status, event) {
            (Creating, Event::Ready) => status(Running),
            (Creating | Running, Event::StopAsked) => status(Stopping),
            (Creating, Event::StartFailed { reason }) => end(Failed, None, Some(reason)),
            (Stopping, Event::StartFailed { .. } | Event::Lost { .. }) => end(Stopped, None, None),
            (Stopping, Event::Ended { exit_code, .. }) => end(Stopped, Some(exit_code), None),
            (
                Creating | Running,
                Event::Ended {
                    exit_code,
                    out_of_memory,
                },
            ) => {
                let failure = out_of_memory
                    .then(|| "process 1 was killed: the sandbox ran out of memory".to_owned());
                let status = if failure.is_some() { Failed } else { Stopped };
                end(status, Some(exit_code), failure)
            }
            (Creating | Running, Event::Lost { reason }) => end(Failed, None, Some(reason)),
            (Running | Stopping, Event::Ready)
            | (Running, Event::StartFailed { .. })
            | (Stopping, Event::StopAsked)
            | (Stopped | Failed, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Ready),
            Just(Event::StopAsked),
            Just(Event::StartFailed {
                reason: "r".to_owned()
            }),
            Just(Event::Lost {
                reason: "l".to_owned()
            }),
            (0..256_i32, any::<bool>()).prop_map(|(exit_code, out_of_memory)| Event::Ended {
                exit_code,
                out_of_memory
            }),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_an_ended_sandbox_stays_as_it_ended(
            history in proptest::collection::vec(events(), 0..12)
        ) {
            let now = Timestamp::UNIX_EPOCH;
            let mut state = State::new();
            for event in history {
                let was_final = state.is_final();
                if let Some(next) = state.after(event, now) {
                    prop_assert!(!was_final);
                    state = next;
                }
                prop_assert_eq!(state.is_final(), state.stopped_at.is_some());
                prop_assert_eq!(state.failure.is_some(), state.status == SandboxStatus::Failed);
                if state.exit_code.is_some() {
                    prop_assert!(state.is_final());
                }
            }
        }

        #[test]
        fn a_sandbox_that_was_asked_to_stop_never_runs_again(
            history in proptest::collection::vec(events(), 0..12)
        ) {
            let mut state = State::new().after(Event::StopAsked, Timestamp::UNIX_EPOCH).unwrap();
            for event in history {
                if let Some(next) = state.after(event, Timestamp::UNIX_EPOCH) {
                    state = next;
                }
                prop_assert_ne!(state.status, SandboxStatus::Running);
                prop_assert_ne!(state.status, SandboxStatus::Failed);
            }
        }
    }

    #[test]
    fn running_out_of_memory_is_a_failure_with_its_exit_code() {
        let now = Timestamp::UNIX_EPOCH;
        let running = State::new().after(Event::Ready, now).unwrap();
        let ended = running
            .after(
                Event::Ended {
                    exit_code: 137,
                    out_of_memory: true,
                },
                now,
            )
            .unwrap();
        assert_eq!(ended.status, SandboxStatus::Failed);
        assert_eq!(ended.exit_code, Some(137));
    }
}
