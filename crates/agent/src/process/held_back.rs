//! The streams that are not being read, because their buffers are full and somebody has yet to get what is in them.
//!
//! ```text
//! watched ──(no room)──► held back: the program blocks when its pipe is full ──(a read makes room)──► watched
//!                                        └──(the reader is gone, seen at a look every second)────────►
//! ```

use std::time::{Duration, Instant};

use super::{Attention, StreamName};
use crate::agent::Agent;

/// The longest sleep while something is held back, so that standing still shows.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Whoever wakes up so late did not sleep but stood still, with everybody else: a capture, or a suspended machine.
const STOOD_STILL: Duration = Duration::from_secs(1);

/// What the main thread must look at when no event comes.
#[derive(Debug, Default)]
pub(crate) struct HeldBack {
    streams: Vec<(u64, StreamName)>,
    look_at: Option<Instant>,
}

impl HeldBack {
    /// Remembers a stream of the process with this serial.
    pub(crate) fn add(&mut self, serial: u64, name: StreamName, departure: Instant) {
        // A reader may have let it go on meanwhile, and it is held back anew.
        if !self.streams.contains(&(serial, name)) {
            self.streams.push((serial, name));
        }
        let look_at = self
            .look_at
            .unwrap_or_else(|| Instant::now() + LOOK_EVERY)
            .min(departure);
        self.look_at = Some(look_at);
    }

    /// How long the main thread may sleep.
    pub(crate) fn patience(&self) -> Option<Duration> {
        self.look_at
            .map(|look_at| look_at.saturating_duration_since(Instant::now()))
    }

    /// Lets streams go on whose readers are gone.
    pub(crate) fn look(&mut self, agent: &Agent, now: Instant) {
        let Some(look_at) = self.look_at.filter(|look_at| *look_at <= now) else {
            return;
        };
        let late = now - look_at;
        let pause = if late > STOOD_STILL {
            late
        } else {
            Duration::ZERO
        };
        let mut next = now + LOOK_EVERY;
        self.streams.retain(|(serial, name)| {
            let process = agent.table().watched(*serial);
            let attention = process.map_or(Attention::Never, |process| {
                process.look_again(&agent.epoll, *name, now, pause)
            });
            if let Attention::At(departure) = attention {
                next = next.min(departure);
            }
            matches!(attention, Attention::At(_))
        });
        self.look_at = (!self.streams.is_empty()).then_some(next);
    }
}

impl super::Process {
    /// Looks whether a stream that was held back may go on; `pause` is for how long nobody could do anything.
    fn look_again(
        &self,
        epoll: &std::os::fd::OwnedFd,
        name: StreamName,
        now: Instant,
        pause: Duration,
    ) -> Attention {
        let mut state = self.state();
        let output = &mut state.stream(name).output;
        output.postpone_departures(pause);
        if self.go_on(epoll, &mut state, name, now) {
            return Attention::WhenReadable;
        }
        // Without a departure to come the kernel could not watch the source just now.
        let departure = state.stream(name).output.next_departure(now);
        Attention::At(departure.unwrap_or(now + LOOK_EVERY))
    }
}
