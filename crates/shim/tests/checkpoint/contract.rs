//! The contract.

use crate::world::{Sandbox, checkpointer};

/// Holds the guest, restores it twice beside the original; all three must find themselves in order.
async fn hold(guest: &str) {
    let checkpointer = checkpointer();
    let original = Sandbox::start(guest).await;
    let snapshot = original.capture(checkpointer).await.unwrap();
    let mut all = vec![original];
    for _ in 0..2 {
        let restored = Sandbox::restore(&snapshot, checkpointer.restore_spec(&snapshot.images()))
            .await
            .map_err(|(_, error)| fermata_runtime::error_chain(&error))
            .unwrap();
        all.push(restored);
    }
    for (number, sandbox) in all.iter().enumerate() {
        let (code, words) = sandbox.finish().await;
        assert_eq!(code, 0, "sandbox {number}: {words}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn memory_and_open_files() {
        hold(include_str!("guests/memory.py")).await;
    }

    #[tokio::test]
    async fn process_groups_sessions_stopped_children_and_zombies() {
        hold(include_str!("guests/processes.py")).await;
    }

    #[tokio::test]
    async fn a_thousand_threads() {
        hold(include_str!("guests/threads.py")).await;
    }

    #[tokio::test]
    async fn deleted_linked_locked_and_many_files() {
        hold(include_str!("guests/files.py")).await;
    }

    #[tokio::test]
    async fn every_kind_of_file_in_shared_memory() {
        hold(include_str!("guests/shared.py")).await;
    }

    #[tokio::test]
    async fn sockets_with_data_under_way() {
        hold(include_str!("guests/sockets.py")).await;
    }

    #[tokio::test]
    async fn epoll_timers_and_pending_signals() {
        hold(include_str!("guests/events.py")).await;
    }

    #[tokio::test]
    async fn a_shell_with_a_job_on_a_terminal() {
        hold(include_str!("guests/terminal.py")).await;
    }
}
