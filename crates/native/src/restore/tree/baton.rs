//! Whose turn it is.
//!
//! Every actor waits on a word of its own for the number of the step that is its next, and whoever has taken a step sets the
//! word of the one whose step follows. So a step costs at most one wake, and nobody else stirs.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fermata_sys::shared_words::SharedWords;
use rustix::io::Errno;
use rustix::thread::futex::{self, Flags, Timespec};

/// What the word of an actor becomes when some process has failed.
const FAILED: u32 = u32::MAX;

/// How long a wait lasts before it is asked whether somebody has died, who then cannot say so.
const PATIENCE: Duration = Duration::from_millis(100);

/// The turns of all actors; shared with every process cloned from this one.
#[derive(Debug)]
pub(super) struct Baton {
    /// One an actor, then the two below.
    words: SharedWords,
    /// What all wait on in the end.
    release: usize,
    /// The step that is under way.
    progress: usize,
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It has come.
    Come,
    /// Not for a long time now.
    Late,
    /// It never will.
    Failed,
}

impl Baton {
    pub(super) fn new(actors: usize) -> io::Result<Self> {
        Ok(Self {
            words: SharedWords::new(actors + 2)?,
            release: actors,
            progress: actors + 1,
        })
    }

    /// Waits for a while until all steps before this one have been taken.
    pub(super) fn wait_for_step(&self, actor: usize, step: usize) -> io::Result<Turn> {
        self.wait(actor, number(step)?)
    }

    /// Waits for a while until everybody may go.
    pub(super) fn wait_for_release(&self) -> io::Result<Turn> {
        self.wait(self.release, 1)
    }

    /// Gives the turn to the actor whose step this is.
    pub(super) fn pass(&self, actor: usize, step: usize) -> io::Result<()> {
        let step = number(step)?;
        self.words[self.progress].store(step, Ordering::Relaxed);
        // Not a store, which could cover a failure.
        self.words[actor].fetch_max(step, Ordering::Release);
        self.wake(actor, 1)
    }

    /// Lets everybody go.
    pub(super) fn release(&self) -> io::Result<()> {
        self.words[self.release].store(1, Ordering::Release);
        self.wake(self.release, i32::MAX.cast_unsigned())
    }

    /// Has the first actor give up.
    pub(super) fn fail(&self) {
        self.words[0].store(FAILED, Ordering::Release);
        // A word of our own memory can always be woken.
        let _ = self.wake(0, 1);
    }

    /// The step that is under way, as far as is known here.
    pub(super) fn progress(&self) -> usize {
        self.words[self.progress].load(Ordering::Relaxed) as usize
    }

    fn wait(&self, word: usize, until: u32) -> io::Result<Turn> {
        let patience = Timespec {
            tv_sec: 0,
            tv_nsec: PATIENCE.subsec_nanos().into(),
        };
        let word = &self.words[word];
        loop {
            let seen = word.load(Ordering::Acquire);
            if seen == FAILED {
                return Ok(Turn::Failed);
            }
            if seen >= until {
                return Ok(Turn::Come);
            }
            match futex::wait(word, Flags::empty(), seen, Some(&patience)) {
                Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::TIMEDOUT) => return Ok(Turn::Late),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn wake(&self, word: usize, count: u32) -> io::Result<()> {
        futex::wake(&self.words[word], Flags::empty(), count)?;
        Ok(())
    }
}

fn number(step: usize) -> io::Result<u32> {
    u32::try_from(step)
        .ok()
        .filter(|&step| step < FAILED)
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_comes_once_it_is_passed() {
        let baton = Baton::new(2).unwrap();
        assert_eq!(baton.wait_for_step(1, 0).unwrap(), Turn::Come);
        assert_eq!(baton.wait_for_step(1, 3).unwrap(), Turn::Late);
        baton.pass(1, 3).unwrap();
        assert_eq!(baton.progress(), 3);
        assert_eq!(baton.wait_for_step(1, 3).unwrap(), Turn::Come);
        assert_eq!(baton.wait_for_step(1, 4).unwrap(), Turn::Late);
    }

    #[test]
    fn a_failure_is_not_covered_by_a_turn() {
        let baton = Baton::new(2).unwrap();
        baton.fail();
        baton.pass(0, 1).unwrap();
        assert_eq!(baton.wait_for_step(0, 1).unwrap(), Turn::Failed);
        assert_eq!(baton.wait_for_step(1, 0).unwrap(), Turn::Come);
    }

    #[test]
    fn all_go_when_they_are_released() {
        let baton = Baton::new(1).unwrap();
        assert_eq!(baton.wait_for_release().unwrap(), Turn::Late);
        baton.release().unwrap();
        assert_eq!(baton.wait_for_release().unwrap(), Turn::Come);
    }
}
