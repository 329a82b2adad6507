//! Remembers which request started which process, so that a repeated request starts nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, PoisonError};

use crate::agent::lock;
use crate::failure::Refusal;

/// How many requests are remembered.
const REMEMBERED: usize = 4096;

#[derive(Debug, Default)]
struct Known {
    /// `None`: being started just now.
    pids: HashMap<String, Option<i32>>,
    order: VecDeque<String>,
}

/// The requests of the past.
#[derive(Debug, Default)]
pub(crate) struct Starts {
    known: Mutex<Known>,
    decided: Condvar,
}

impl Starts {
    /// Runs `start` unless this request has been served. A repetition that comes while the first is being served waits for
    /// its outcome; a request that failed may be repeated in earnest.
    pub(crate) fn once(
        &self,
        request_id: &str,
        start: impl FnOnce() -> Result<i32, Refusal>,
    ) -> Result<i32, Refusal> {
        if request_id.is_empty() {
            return start();
        }
        let mut known = lock(&self.known);
        loop {
            match known.pids.get(request_id) {
                Some(Some(pid)) => return Ok(*pid),
                Some(None) => {
                    known = self
                        .decided
                        .wait(known)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                None => break,
            }
        }
        known.pids.insert(request_id.to_owned(), None);
        drop(known);
        // Also on unwinding: nobody may wait for ever.
        let mut undecided = Undecided {
            starts: self,
            request_id,
            pid: None,
        };
        let pid = start()?;
        undecided.pid = Some(pid);
        Ok(pid)
    }
}

struct Undecided<'a> {
    starts: &'a Starts,
    request_id: &'a str,
    pid: Option<i32>,
}

impl Drop for Undecided<'_> {
    fn drop(&mut self) {
        let mut known = lock(&self.starts.known);
        if self.pid.is_some() {
            known.pids.insert(self.request_id.to_owned(), self.pid);
            known.order.push_back(self.request_id.to_owned());
            if known.order.len() > REMEMBERED
                && let Some(oldest) = known.order.pop_front()
            {
                known.pids.remove(&oldest);
            }
        } else {
            known.pids.remove(self.request_id);
        }
        drop(known);
        self.starts.decided.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_request_starts_nothing_and_a_failed_one_may_be_tried_again() {
        let starts = Starts::default();
        let failed = starts.once("a", || Err(Refusal::invalid("no")));
        assert!(failed.is_err());
        assert_eq!(starts.once("a", || Ok(1)), Ok(1));
        assert_eq!(starts.once("a", || Ok(2)), Ok(1));
        assert_eq!(starts.once("", || Ok(3)), Ok(3));
        assert_eq!(starts.once("", || Ok(4)), Ok(4));
    }

    #[test]
    fn a_repetition_waits_for_the_first() {
        let starts = Starts::default();
        let (entered, first_entered) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let starts = &starts;
        std::thread::scope(|scope| {
            let first = scope.spawn(move || {
                starts.once("a", || {
                    entered.send(()).unwrap();
                    released.recv().unwrap();
                    Ok(7)
                })
            });
            first_entered.recv().unwrap();
            let second = scope.spawn(move || starts.once("a", || Ok(8)));
            release.send(()).unwrap();
            assert_eq!(first.join().unwrap(), Ok(7));
            assert_eq!(second.join().unwrap(), Ok(7));
        });
    }

    #[test]
    fn only_so_many_are_remembered() {
        let starts = Starts::default();
        for number in 0..=REMEMBERED {
            starts.once(&number.to_string(), || Ok(1)).unwrap();
        }
        assert_eq!(starts.once("0", || Ok(2)), Ok(2));
        assert_eq!(starts.once("2", || Ok(2)), Ok(1));
    }
}
