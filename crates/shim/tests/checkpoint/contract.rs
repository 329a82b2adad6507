//! The contract, which every engine keeps.

use fermata_checkpoint::Checkpointer;

use crate::world::Sandbox;

/// Holds the guest, restores it twice beside the original; all three must find themselves in order.
async fn hold(checkpointer: &'static dyn Checkpointer, guest: &str) {
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

macro_rules! contract {
    ($checkpointer:expr) => {
        use super::hold;

        #[tokio::test]
        async fn memory_and_open_files() {
            hold($checkpointer, include_str!("guests/memory.py")).await;
        }

        #[tokio::test]
        async fn process_groups_sessions_stopped_children_and_zombies() {
            hold($checkpointer, include_str!("guests/processes.py")).await;
        }

        #[tokio::test]
        async fn a_thousand_threads() {
            hold($checkpointer, include_str!("guests/threads.py")).await;
        }

        #[tokio::test]
        async fn deleted_linked_locked_and_many_files() {
            hold($checkpointer, include_str!("guests/files.py")).await;
        }

        #[tokio::test]
        async fn every_kind_of_file_in_shared_memory() {
            hold($checkpointer, include_str!("guests/shared.py")).await;
        }

        #[tokio::test]
        async fn sockets_with_data_under_way() {
            hold($checkpointer, include_str!("guests/sockets.py")).await;
        }

        #[tokio::test]
        async fn epoll_timers_and_pending_signals() {
            hold($checkpointer, include_str!("guests/events.py")).await;
        }

        #[tokio::test]
        async fn a_shell_with_a_job_on_a_terminal() {
            hold($checkpointer, include_str!("guests/terminal.py")).await;
        }
    };
}

#[cfg(test)]
mod criu {
    contract!(crate::world::checkpointer());
}

#[cfg(test)]
mod native {
    use crate::world::Sandbox;

    contract!(&fermata_checkpoint::native::Native);

    #[tokio::test]
    async fn removed_files_of_layers_and_with_names_elsewhere() {
        let native = &fermata_checkpoint::native::Native;
        hold(native, include_str!("guests/removed.py")).await;
    }

    #[tokio::test]
    async fn what_every_start_makes_is_not_held() {
        let original = Sandbox::start(include_str!("guests/idle.py")).await;
        let native = &fermata_checkpoint::native::Native;
        let snapshot = original.capture(native).await.unwrap();
        for archive in ["dev", "shm"] {
            assert!(!snapshot.images().join(archive).exists(), "{archive}");
        }
    }
}
