//! The pool's threads.

use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tracing::warn;

use super::namespace::system;
use super::pool::Shared;
use super::stock::Stock;
use crate::{RuntimeError, error_chain};

/// Below the server's own threads: a create that is under way goes before a stock for later ones.
const BACKGROUND_NICE: i32 = 5;
/// Between attempts to make a namespace when that fails.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

impl Shared {
    pub(super) fn start(
        self: &Arc<Self>,
        name: &str,
        work: fn(&Self),
    ) -> Result<JoinHandle<()>, RuntimeError> {
        let shared = self.clone();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // On Linux this is the thread's own, and its children inherit it.
                let own = rustix::thread::gettid();
                if let Err(error) = rustix::process::setpriority_process(Some(own), BACKGROUND_NICE)
                {
                    warn!(%error, "cannot lower the priority of a background thread");
                }
                work(&shared);
            })
            .map_err(system("start a thread"))
    }

    /// The first thread: makes namespaces until there are enough.
    pub(super) fn keep_ready(&self) {
        let mut stock = self.stock();
        while !stock.is_closing() {
            let Some(number) = stock.begin_if_short() else {
                stock = self
                    .changed
                    .wait(stock)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(stock);
            let made = self.make(number);
            stock = self.stock();
            match made {
                Ok(()) => {
                    stock.made_ready(number);
                    self.changed.notify_all();
                }
                Err(error) => {
                    warn!(
                        slot = number,
                        error = error_chain(&error),
                        "cannot make a network namespace"
                    );
                    stock.failed(number);
                    self.changed.notify_all();
                    let closing = |stock: &mut Stock| !stock.is_closing();
                    stock = self
                        .changed
                        .wait_timeout_while(stock, PAUSE_AFTER_FAILURE, closing)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0;
                }
            }
        }
    }

    /// The second thread: clears away what was released, many at once when many were.
    pub(super) fn keep_clearing(&self) {
        let mut stock = self.stock();
        while !stock.is_closing() {
            let retired = stock.take_retired();
            if retired.is_empty() {
                stock = self
                    .changed
                    .wait(stock)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            drop(stock);
            let cleared = self.clear_retired(&retired);
            stock = self.stock();
            match cleared {
                Ok(()) => stock.cleared(retired.into_keys()),
                Err(error) => {
                    // The next start tries again.
                    stock.lost(retired.len());
                    warn!(
                        slots = ?retired.keys(), error = error_chain(&error), "cannot clear away network namespaces"
                    );
                }
            }
            if let Some(cleared) = stock.take_cleared_if_many() {
                drop(stock);
                if let Err(error) = self.forget_connections(&cleared) {
                    // Only the limit of connections suffers.
                    warn!(
                        error = error_chain(&error),
                        "cannot forget connections of ended sandboxes"
                    );
                }
                stock = self.stock();
                stock.forgotten(cleared);
            }
            self.changed.notify_all();
        }
    }
}
