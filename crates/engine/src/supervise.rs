//! Noticing the end of a sandbox, and clearing away what it held.

use std::sync::Arc;
use std::time::Duration;

use fermata_runtime::{cgroup, exit_record};
use tracing::{info, warn};

use crate::live::{Inner, Live, lock};
use crate::machine::Event;

/// How many ended sandboxes `ps -a` can still show.
const ENDED_KEPT: u32 = 1000;

/// Watches a sandbox until it has ended.
pub(crate) fn spawn(inner: &Arc<Inner>, live: Arc<Live>) {
    let inner = inner.clone();
    // Not tracked: it lasts as long as the sandbox, which outlives the daemon.
    tokio::spawn(async move {
        let event = end_of(&inner, &live).await;
        finish(&inner, &live, event).await;
    });
}

/// How the sandbox ended; returns when it has.
async fn end_of(inner: &Inner, live: &Live) -> Event {
    let exit = match live.shim.wait_exit().await {
        Ok(exit) => Some((exit.exit_code, exit.out_of_memory)),
        // The shim is gone: it has left a record, or it was killed.
        Err(_) => exit_record(&inner.run_directory(&live.id))
            .map(|record| (record.exit_code, record.out_of_memory)),
    };
    match exit {
        Some((exit_code, out_of_memory)) => Event::Ended {
            exit_code,
            out_of_memory,
        },
        None => Event::Lost {
            reason: "its shim was killed, and the sandbox was ended with it".to_owned(),
        },
    }
}

/// Clears away what is left, records how it ended, and forgets it.
pub(crate) async fn finish(inner: &Inner, live: &Live, event: Event) {
    // Not in the middle of a snapshot, which still reads the upper.
    let _operation = live.operation.lock().await;
    clear(inner, live).await;
    match inner.apply(live, event).await {
        Ok(_) => {
            let state = live.state.borrow().clone();
            info!(sandbox = %live.id, status = ?state.status, exit_code = state.exit_code, failure = state.failure, "sandbox ended");
        }
        Err(error) => {
            warn!(sandbox = %live.id, error = error.chain(), "cannot record the end of a sandbox");
        }
    }
    lock(&inner.live).remove(&live.id);
    if let Err(error) = inner.records.forget_old_sandboxes(ENDED_KEPT).await {
        warn!(error = error.chain(), "cannot forget old sandboxes");
    }
}

/// Ends whatever still runs of a sandbox, and gives back all it held. Each step may find its work done already; a step that
/// fails is tried again by the next start.
pub(crate) async fn clear(inner: &Inner, live: &Live) {
    // First, so that no connection is made in a namespace that is given back below.
    crate::ports::close_all(inner, live).await;
    let cgroup = inner.cgroups.spec(live.id.as_str());
    end_processes(&cgroup).await;
    if let Err(error) = inner.storage.delete_upper(&live.id).await {
        warn!(sandbox = %live.id, error = error.chain(), "cannot delete a sandbox's files");
    }
    inner.network.release(live.slot).await;
    let directory = inner.run_directory(&live.id);
    match std::fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            warn!(path = %directory.display(), %error, "cannot remove a run directory");
        }
        _ => {}
    }
}

/// Kills all processes of a control group, waits until the kernel has let go of them, and removes it.
pub(crate) async fn end_processes(spec: &fermata_protocol::CgroupSpec) {
    /// Killed processes go within milliseconds unless the kernel is stuck in an uninterruptible wait.
    const LIMIT: Duration = Duration::from_secs(20);
    const STEP: Duration = Duration::from_millis(2);
    let deadline = tokio::time::Instant::now() + LIMIT;
    cgroup::remove(spec);
    while spec.unified.exists() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(STEP).await;
        cgroup::remove(spec);
    }
    if spec.unified.exists() {
        warn!(path = %spec.unified.display(), "processes of an ended sandbox do not go away");
    }
}
