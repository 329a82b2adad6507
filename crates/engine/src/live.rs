//! What the engine holds in memory: the running sandboxes and the images.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fermata_protocol::SecuritySpec;
use fermata_runtime::cgroup::Cgroups;
use fermata_runtime::network::NetworkPool;
use fermata_runtime::ports::{HostPorts, Ports};
use fermata_runtime::{AgentClient, ShimClient};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::checkpoint::Checkpoints;
use crate::config::EngineConfig;
use crate::idle::Activity;
use crate::machine::{Event, State};
use crate::model::{
    ImageId, RestoredFrom, Sandbox, SandboxId, SandboxSpec, SandboxStatus, SnapshotId,
};
use crate::records::{ImageRecord, MemoryRecord, Records, Restored, SandboxRecord};
use crate::storage::Storage;
use crate::{EngineError, Result};

/// Everything the engine's operations share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: EngineConfig,
    pub(crate) records: Records,
    pub(crate) storage: Storage,
    pub(crate) network: Arc<NetworkPool>,
    pub(crate) host_ports: HostPorts,
    pub(crate) cgroups: Cgroups,
    pub(crate) security: SecuritySpec,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) base_image: ImageId,
    /// Sandboxes that have not ended.
    pub(crate) live: Mutex<HashMap<SandboxId, Arc<Live>>>,
    /// Memory snapshots that can be played on.
    pub(crate) memory_snapshots: Mutex<BTreeMap<SnapshotId, Arc<MemoryRecord>>>,
    /// Images that can be started from.
    pub(crate) images: Mutex<BTreeMap<ImageId, ImageRecord>>,
    /// One lock a build key, so that equal builds run once.
    pub(crate) builds: Mutex<HashMap<ImageId, Arc<tokio::sync::Mutex<()>>>>,
    /// Set once; afterwards nothing new is begun.
    pub(crate) closing: watch::Sender<bool>,
    /// Everything that must come to its end before the daemon does.
    pub(crate) tasks: TaskTracker,
}

/// A sandbox that has not ended.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) id: SandboxId,
    pub(crate) image: ImageId,
    pub(crate) created_at: Timestamp,
    pub(crate) spec: Mutex<SandboxSpec>,
    /// Environment of each process: the image's, then the sandbox's.
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) slot: u32,
    /// Digests of all layers that it stands on, uppermost first.
    pub(crate) layers: Vec<String>,
    pub(crate) restored: Option<Restored>,
    pub(crate) agent: AgentClient,
    pub(crate) shim: ShimClient,
    pub(crate) state: watch::Sender<State>,
    pub(crate) activity: Arc<Activity>,
    pub(crate) ports: Ports,
    /// Changes of what is exposed follow one another, apart from longer operations.
    pub(crate) exposing: tokio::sync::Mutex<()>,
    /// Snapshots, network changes and the end follow one another.
    pub(crate) operation: tokio::sync::Mutex<()>,
}

/// A running sandbox with what a caller needs to command it.
#[derive(Debug, Clone)]
pub struct Handle {
    /// Speaks to its agent.
    pub agent: Agent,
    /// Environment that each process gets: the image's, then the sandbox's.
    pub environment: BTreeMap<String, String>,
}

/// The agent of a running sandbox. As long as one is held, the sandbox counts as used.
#[derive(Debug, Clone)]
pub struct Agent {
    pub(crate) client: AgentClient,
    pub(crate) _use: Arc<crate::idle::Use>,
}

impl std::ops::Deref for Agent {
    type Target = AgentClient;

    fn deref(&self) -> &AgentClient {
        &self.client
    }
}

/// A poisoned lock only says that another thread panicked; each value here is replaced whole, so it is still consistent.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    /// The sandbox, when it has not ended.
    pub(crate) fn find_live(&self, id: &SandboxId) -> Option<Arc<Live>> {
        lock(&self.live).get(id).cloned()
    }

    /// The sandbox when it takes commands, else why not.
    pub(crate) async fn running(&self, id: &SandboxId) -> Result<Arc<Live>> {
        let status = if let Some(live) = self.find_live(id) {
            let status = live.state.borrow().status;
            if status == SandboxStatus::Running {
                return Ok(live);
            }
            status
        } else {
            self.records
                .sandbox(id)
                .await?
                .ok_or_else(|| EngineError::SandboxNotFound { id: id.clone() })?
                .state
                .status
        };
        Err(EngineError::NotRunning {
            id: id.clone(),
            status,
        })
    }

    pub(crate) fn refuse_when_closing(&self) -> Result<()> {
        if *self.closing.borrow() {
            return Err(EngineError::ShuttingDown);
        }
        Ok(())
    }

    /// A sandbox's run directory.
    pub(crate) fn run_directory(&self, id: &SandboxId) -> PathBuf {
        self.config
            .data_directory
            .join("run/sandboxes")
            .join(id.as_str())
    }

    /// Where the memory half of a snapshot is kept.
    pub(crate) fn memory_directory(&self, id: &SnapshotId) -> PathBuf {
        self.config.data_directory.join("memory").join(id.as_str())
    }

    /// Applies an event: decided by the machine, recorded, then published. `false` when it changes nothing.
    pub(crate) async fn apply(&self, live: &Live, event: Event) -> Result<bool> {
        let next = live.state.borrow().after(event, Timestamp::now());
        let Some(next) = next else {
            return Ok(false);
        };
        self.records.set_sandbox_state(&live.id, &next).await?;
        if next.is_final() {
            // Before anybody who waits for the end is told: what they do next must not find it alive.
            lock(&self.live).remove(&live.id);
        }
        live.state.send_replace(next);
        Ok(true)
    }
}

impl Live {
    /// `NotRunning` unless it takes commands.
    pub(crate) fn require_running(&self) -> Result<()> {
        let status = self.state.borrow().status;
        if status == SandboxStatus::Running {
            return Ok(());
        }
        Err(EngineError::NotRunning {
            id: self.id.clone(),
            status,
        })
    }

    /// How often its processes have been played on.
    pub(crate) fn generation(&self) -> u64 {
        self.restored
            .as_ref()
            .map_or(0, |restored| restored.generation)
    }

    pub(crate) fn is_played_on_from(&self, snapshot: &SnapshotId) -> bool {
        let from = self.restored.as_ref().map(|restored| &restored.from);
        matches!(from, Some(RestoredFrom::Snapshot(id)) if id == snapshot)
    }

    /// Returns when it has ended and all is cleared away.
    pub(crate) async fn ended(&self) {
        let mut state = self.state.subscribe();
        // The sender lives in `self`: this ends only by the condition.
        let _ = state.wait_for(State::is_final).await;
    }

    /// As callers see it.
    pub(crate) fn describe(&self) -> Sandbox {
        let state = self.state.borrow().clone();
        let spec = lock(&self.spec).clone();
        let expires_at = (state.status == SandboxStatus::Running)
            .then(|| self.activity.expires_in(spec.idle_timeout()))
            .flatten()
            .and_then(after_now);
        describe(
            SandboxRecord {
                id: self.id.clone(),
                state,
                image: self.image.clone(),
                spec,
                slot: Some(self.slot),
                layers: self.layers.clone(),
                restored: self.restored.clone(),
                created_at: self.created_at,
            },
            expires_at,
        )
    }
}

fn after_now(left: Duration) -> Option<Timestamp> {
    jiff::SignedDuration::try_from(left)
        .ok()
        .and_then(|left| Timestamp::now().checked_add(left).ok())
}

/// A record as callers see it.
pub(crate) fn describe(record: SandboxRecord, expires_at: Option<Timestamp>) -> Sandbox {
    Sandbox {
        id: record.id,
        image: record.image,
        status: record.state.status,
        failure: record.state.failure,
        exit_code: record.state.exit_code,
        created_at: record.created_at,
        stopped_at: record.state.stopped_at,
        expires_at,
        spec: record.spec,
        restored_from: record.restored.map(|restored| restored.from),
    }
}
