//! Clones of the snapshots used last, made before somebody asks: the ioctl waits for a commit of the file system, 8 ms that a
//! new sandbox would stand still for.
//!
//! ```text
//!             wanted                made by the worker                taken
//!  snapshot ─────────► short of clones ────────────────► staging/N-… ────────► uppers/ID
//!                                                            └ forgotten ► deleted
//! ```
//!
//! They live in staging, so a crash or an orderly end leaves them to the next open.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::id::SnapshotId;
use crate::{PoolError, Result};

/// Clones kept of one snapshot: what a burst gets at once.
const CLONES: usize = 4;
/// Snapshots that clones are kept of.
const SNAPSHOTS: usize = 8;
/// How long after a flush the snapshot is expected that it prepares. No clone is made meanwhile: its commit would be waited for
/// under the freeze.
const QUIET: Duration = Duration::from_secs(1);

/// Makes and deletes clones in staging.
pub(super) trait Workshop: Send + Sync + 'static {
    /// A clean clone of a snapshot; its name in staging.
    fn make(&self, source: &SnapshotId) -> Result<OsString>;
    /// Deletes what `make` has made.
    fn discard(&self, name: &OsString);
}

/// The clones, and the thread that makes them. Dropping it ends the thread.
#[derive(Debug)]
pub(super) struct Ahead {
    shared: Arc<Shared>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stock: Mutex<Stock>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Stock {
    /// The one used last comes first.
    sources: VecDeque<Source>,
    quiet_until: Option<Instant>,
    closing: bool,
}

#[derive(Debug)]
struct Source {
    snapshot: SnapshotId,
    clones: Vec<OsString>,
}

impl Ahead {
    pub(super) fn start(workshop: impl Workshop) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let worker = std::thread::Builder::new()
            .name("pool-clones".to_owned())
            .spawn({
                let shared = shared.clone();
                move || shared.work(&workshop)
            })
            .map_err(|source| PoolError::Thread { source })?;
        Ok(Self {
            shared,
            worker: Mutex::new(Some(worker)),
        })
    }

    /// A clone of a snapshot if there is one; more are made.
    pub(super) fn take(&self, snapshot: &SnapshotId) -> Option<OsString> {
        let taken = self.shared.stock().front(snapshot).clones.pop();
        self.shared.changed.notify_all();
        taken
    }

    /// Makes clones of a snapshot that will probably be used.
    pub(super) fn want(&self, snapshot: &SnapshotId) {
        self.shared.stock().front(snapshot);
        self.shared.changed.notify_all();
    }

    /// Makes no more clones of a snapshot; those that there are, to be deleted.
    pub(super) fn forget(&self, snapshot: &SnapshotId) -> Vec<OsString> {
        self.shared.stock().remove(snapshot)
    }

    /// Before a snapshot is taken.
    pub(super) fn quiet(&self) {
        self.shared.stock().quiet_until = Some(Instant::now() + QUIET);
    }

    /// After it.
    pub(super) fn go_on(&self) {
        self.shared.stock().quiet_until = None;
        self.shared.changed.notify_all();
    }

    /// No more clones are made; returns when the thread is at its end.
    pub(super) fn close(&self) {
        self.shared.stock().closing = true;
        self.shared.changed.notify_all();
        let worker = self
            .worker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if worker.is_some_and(|worker| worker.join().is_err()) {
            tracing::warn!("the thread that makes clones has panicked");
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn stock(&self) -> MutexGuard<'_, Stock> {
        // Every critical section leaves the data whole.
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, workshop: &impl Workshop) {
        let mut stock = self.stock();
        while !stock.closing {
            let now = Instant::now();
            if let Some(rest) = stock
                .quiet_until
                .map(|until| until.saturating_duration_since(now))
                && !rest.is_zero()
            {
                let woken = self.changed.wait_timeout(stock, rest);
                stock = woken.unwrap_or_else(PoisonError::into_inner).0;
            } else if let Some(name) = stock.surplus() {
                drop(stock);
                workshop.discard(&name);
                stock = self.stock();
            } else if let Some(snapshot) = stock.short() {
                drop(stock);
                let made = workshop.make(&snapshot);
                stock = self.stock();
                match made {
                    Ok(name) => {
                        if let Some(name) = stock.add(&snapshot, name) {
                            drop(stock);
                            workshop.discard(&name);
                            stock = self.stock();
                        }
                    }
                    Err(error) => {
                        // Whoever needs one makes it himself and hears of the reason.
                        tracing::debug!(%snapshot, error = &error as &dyn std::error::Error, "no clone ahead");
                        let clones = stock.remove(&snapshot);
                        drop(stock);
                        clones.iter().for_each(|name| workshop.discard(name));
                        stock = self.stock();
                    }
                }
            } else {
                let woken = self.changed.wait(stock);
                stock = woken.unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl Stock {
    fn front(&mut self, snapshot: &SnapshotId) -> &mut Source {
        let source = match self.position(snapshot) {
            Some(position) => self.sources.remove(position),
            None => None,
        };
        self.sources.push_front(source.unwrap_or_else(|| Source {
            snapshot: snapshot.clone(),
            clones: Vec::new(),
        }));
        &mut self.sources[0]
    }

    fn remove(&mut self, snapshot: &SnapshotId) -> Vec<OsString> {
        self.position(snapshot)
            .and_then(|position| self.sources.remove(position))
            .map_or_else(Vec::new, |source| source.clones)
    }

    /// A clone of a snapshot that was used too long ago.
    fn surplus(&mut self) -> Option<OsString> {
        while self.sources.len() > SNAPSHOTS {
            let oldest = self.sources.back_mut()?;
            if let Some(name) = oldest.clones.pop() {
                return Some(name);
            }
            self.sources.pop_back();
        }
        None
    }

    /// A snapshot that has too few clones.
    fn short(&self) -> Option<SnapshotId> {
        let short = |source: &&Source| source.clones.len() < CLONES;
        self.sources
            .iter()
            .find(short)
            .map(|source| source.snapshot.clone())
    }

    /// Gives it back when the snapshot was forgotten meanwhile.
    fn add(&mut self, snapshot: &SnapshotId, name: OsString) -> Option<OsString> {
        match self.position(snapshot) {
            Some(position) => {
                self.sources[position].clones.push(name);
                None
            }
            None => Some(name),
        }
    }

    fn position(&self, snapshot: &SnapshotId) -> Option<usize> {
        let same = |source: &Source| source.snapshot == *snapshot;
        self.sources.iter().position(same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(name: &str) -> SnapshotId {
        name.parse().unwrap()
    }

    fn fill(stock: &mut Stock) -> usize {
        let mut made = 0;
        while let Some(short) = stock.short() {
            made += 1;
            assert_eq!(stock.add(&short, format!("{made}").into()), None);
        }
        made
    }

    #[test]
    fn those_used_last_are_kept() {
        let mut stock = Stock::default();
        for number in 0..SNAPSHOTS {
            stock.front(&snapshot(&format!("s{number}")));
        }
        assert_eq!(fill(&mut stock), CLONES * SNAPSHOTS);
        assert_eq!(stock.surplus(), None);
        stock.front(&snapshot("s0"));
        stock.front(&snapshot("new"));
        for _ in 0..CLONES {
            assert!(stock.surplus().is_some());
        }
        assert_eq!(stock.surplus(), None);
        assert!(stock.position(&snapshot("s0")).is_some());
        assert!(
            stock.position(&snapshot("s1")).is_none(),
            "used longest ago"
        );
        assert_eq!(fill(&mut stock), CLONES);
    }

    #[test]
    fn a_clone_of_a_forgotten_snapshot_comes_back() {
        let mut stock = Stock::default();
        stock.front(&snapshot("s"));
        assert_eq!(stock.short(), Some(snapshot("s")));
        assert!(stock.remove(&snapshot("s")).is_empty());
        assert_eq!(
            stock.add(&snapshot("s"), "late".into()),
            Some("late".into())
        );
        assert_eq!(stock.short(), None);
    }
}
