//! Stopping sandboxes that nobody uses.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::live::{Inner, lock};
use crate::model::SandboxStatus;
use crate::{Engine, error::EngineError};

/// How often the server looks; a sandbox outlives its timeout by at most this.
const INTERVAL: Duration = Duration::from_millis(500);

/// When a sandbox was last used, and whether it is being used now.
#[derive(Debug)]
pub(crate) struct Activity(Mutex<Uses>);

#[derive(Debug)]
struct Uses {
    open: usize,
    last: Instant,
}

/// A use of a sandbox, from its making to its drop.
#[derive(Debug)]
pub(crate) struct Use(Arc<Activity>);

impl Activity {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Uses {
            open: 0,
            last: Instant::now(),
        })))
    }

    pub(crate) fn begin_use(self: &Arc<Self>) -> Use {
        let mut uses = lock(&self.0);
        uses.open += 1;
        uses.last = Instant::now();
        Use(self.clone())
    }

    /// Starts the clock anew, as a changed timeout does.
    pub(crate) fn touch(&self) {
        lock(&self.0).last = Instant::now();
    }

    /// What is left of `timeout`; `None` for never, the whole of it while in use.
    pub(crate) fn expires_in(&self, timeout: Option<Duration>) -> Option<Duration> {
        let timeout = timeout?;
        let uses = lock(&self.0);
        if uses.open > 0 {
            return Some(timeout);
        }
        Some(timeout.saturating_sub(uses.last.elapsed()))
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut uses = lock(&self.0.0);
        uses.open = uses.open.saturating_sub(1);
        uses.last = Instant::now();
    }
}

/// Runs until the engine closes.
pub(crate) async fn watch(inner: Arc<Inner>) {
    let mut closing = inner.closing.subscribe();
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            _ = closing.wait_for(|closing| *closing) => return,
        }
        let expired = lock(&inner.live)
            .values()
            .filter(|live| {
                let timeout = lock(&live.spec).idle_timeout();
                live.state.borrow().status == SandboxStatus::Running
                    && live.activity.expires_in(timeout) == Some(Duration::ZERO)
            })
            .cloned()
            .collect::<Vec<_>>();
        for live in expired {
            info!(sandbox = %live.id, "stopping an idle sandbox");
            let engine = Engine {
                inner: inner.clone(),
            };
            inner.tasks.spawn(async move {
                match engine.stop_sandbox(&live.id).await {
                    Ok(_) | Err(EngineError::SandboxNotFound { .. }) => {}
                    Err(error) => {
                        warn!(sandbox = %live.id, error = error.chain(), "cannot stop an idle sandbox");
                    }
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_in_use_does_not_expire() {
        let activity = Activity::new();
        let first = activity.begin_use();
        let second = activity.begin_use();
        drop(first);
        assert_eq!(
            activity.expires_in(Some(Duration::ZERO)),
            Some(Duration::ZERO)
        );
        assert_eq!(
            activity.expires_in(Some(Duration::from_nanos(1))),
            Some(Duration::from_nanos(1))
        );
        drop(second);
        while activity.expires_in(Some(Duration::from_nanos(1))) != Some(Duration::ZERO) {}
        assert_eq!(activity.expires_in(None), None);
    }
}
