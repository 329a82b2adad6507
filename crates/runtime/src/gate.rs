//! Lets calls and connections through, or holds them back.
//!
//! ```text
//! open ── close(): interrupt what may be repeated, wait for the rest ──► closed ── open() ──► open
//! ```

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch};

/// Everything in progress holds `passage` for reading; a closed gate holds it for writing.
#[derive(Debug)]
pub(crate) struct Gate {
    passage: Arc<RwLock<()>>,
    closed: Mutex<Option<OwnedRwLockWriteGuard<()>>>,
    closing: watch::Sender<bool>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            passage: Arc::default(),
            closed: Mutex::default(),
            closing: watch::Sender::new(false),
        }
    }
}

/// Permission for one call or connection.
pub(crate) struct Pass {
    closing: watch::Receiver<bool>,
    _passage: OwnedRwLockReadGuard<()>,
}

impl Pass {
    /// Returns when the gate is about to close.
    pub(crate) async fn interrupted(&mut self) {
        // Fails when the gate itself is gone, and then nobody closes it any more.
        if self.closing.wait_for(|closing| *closing).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Gate {
    /// Waits until the gate is open.
    pub(crate) async fn pass(&self) -> Pass {
        Pass {
            _passage: Arc::clone(&self.passage).read_owned().await,
            closing: self.closing.subscribe(),
        }
    }

    /// Closes the gate and waits until every pass has been given back. Closing a closed gate does nothing.
    pub(crate) async fn close(&self) {
        if self.slot().is_some() {
            return;
        }
        // A close that is given up must not interrupt calls for ever.
        let announcement = Announcement(&self.closing);
        self.closing.send_replace(true);
        let passage = Arc::clone(&self.passage).write_owned().await;
        *self.slot() = Some(passage);
        drop(announcement);
    }

    pub(crate) fn open(&self) {
        drop(self.slot().take());
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<OwnedRwLockWriteGuard<()>>> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Announcement<'a>(&'a watch::Sender<bool>);

impl Drop for Announcement<'_> {
    fn drop(&mut self) {
        // From here on nobody gets in, so nobody needs to be interrupted.
        self.0.send_replace(false);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_closing_gate_interrupts_and_a_closed_one_holds_back() {
        let gate = Arc::new(Gate::default());
        let mut pass = gate.pass().await;
        let close = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.close().await }
        });
        pass.interrupted().await;
        assert!(!close.is_finished());
        drop(pass);
        close.await.unwrap();
        let held = tokio::time::timeout(Duration::from_millis(20), gate.pass()).await;
        assert!(held.is_err());
        gate.open();
        let mut pass = gate.pass().await;
        let left_alone = tokio::time::timeout(Duration::from_millis(20), pass.interrupted()).await;
        assert!(left_alone.is_err());
    }

    #[tokio::test]
    async fn a_close_that_is_given_up_leaves_the_gate_open() {
        let gate = Gate::default();
        let pass = gate.pass().await;
        let given_up = tokio::time::timeout(Duration::from_millis(20), gate.close()).await;
        assert!(given_up.is_err());
        drop(pass);
        let mut pass = gate.pass().await;
        let left_alone = tokio::time::timeout(Duration::from_millis(20), pass.interrupted()).await;
        assert!(left_alone.is_err());
    }
}
