//! Opening and closing: after `open` the machine is what the records say, whatever happened before.
//!
//! ```text
//! record     found                        done
//! running    shim answers                 kept
//! running    no shim, exit record or not  ended, cleared
//! creating   anything                     undone, failed
//! stopping   anything                     finished
//! making     (image, memory snapshot)     deleted, forgotten
//! removing   (image, memory snapshot)     finished
//! none       upper, snapshot, group, run directory   deleted
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use fermata_runtime::cgroup::Cgroups;
use fermata_runtime::network::{NetworkConfig, NetworkPool, Policy};
use fermata_runtime::ports::HostPorts;
use fermata_runtime::{default_security, exit_record};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::build::BUILD_LABEL;
use crate::checkpoint::Checkpoints;
use crate::config::EngineConfig;
use crate::create::{make_directory, network_policy, new_live};
use crate::live::{Inner, lock};
use crate::machine::Event;
use crate::model::{ImageId, ImageOrigin, SandboxStatus};
use crate::records::{
    ImageRecord, ImageStatus, MemoryRecord, Records, SandboxRecord, SnapshotStatus,
};
use crate::storage::Storage;
use crate::{Engine, EngineError, Result};

impl Engine {
    /// Opens the data directory: prepares pool and base image when they are missing, finds running sandboxes again, and
    /// finishes or undoes what was interrupted. `progress` gets one line of text a step.
    ///
    /// # Errors
    /// Whatever keeps the server from working, by what it was doing.
    pub async fn open(
        config: EngineConfig,
        progress: mpsc::UnboundedSender<String>,
    ) -> Result<Self> {
        let data = config.data_directory.clone();
        make_directory(&data.join("run/sandboxes"))?;
        // Records hold what sandboxes were given as environment, memory snapshots what was in their memory.
        keep_private(&data)?;
        make_directory(&data.join("memory"))?;
        // Beside the rest: sandboxes and their files do not wait for it.
        let checkpoints = Checkpoints::prepare(&config);
        let records = Records::open(&data.join("fermata.sqlite")).await?;
        let sandboxes = records.sandboxes().await?;
        let images = records.images().await?;
        let snapshots = records.memory_snapshots().await?;
        let (storage, base) = Storage::open(&config, progress.clone()).await?;
        let cgroups = Cgroups::open().map_err(host("prepare control groups"))?;
        let security = default_security().map_err(|source| EngineError::File {
            action: "compile the seccomp profile for",
            path: data.clone(),
            source: std::io::Error::other(source),
        })?;
        let network = NetworkPool::open(NetworkConfig {
            run_directory: data.join("run"),
            ready: config.ready_networks,
            name_servers: config.name_servers.clone(),
            in_use: sandboxes.iter().filter_map(recorded_network).collect(),
            ..NetworkConfig::default()
        })
        .await
        .map_err(host("prepare the network"))?;

        let host_ports = HostPorts::new(config.ports.address, config.ports.range.clone());
        let base_image = base.id.clone();
        let inner = Arc::new(Inner {
            checkpoints,
            config,
            records,
            storage,
            network: Arc::new(network),
            host_ports,
            cgroups,
            security,
            base_image,
            live: Mutex::new(HashMap::new()),
            memory_snapshots: Mutex::new(BTreeMap::new()),
            images: Mutex::new(BTreeMap::new()),
            builds: Mutex::new(HashMap::new()),
            closing: watch::Sender::new(false),
            tasks: TaskTracker::new(),
        });
        recover_images(&inner, images, base).await?;
        recover_memory_snapshots(&inner, snapshots).await?;
        recover_sandboxes(&inner, sandboxes).await?;
        sweep(&inner).await?;
        inner.tasks.spawn(crate::idle::watch(inner.clone()));
        Ok(Self { inner })
    }

    /// Stops taking work and finishes what is under way. Sandboxes run on for the next start, or are ended; then the pool is
    /// unmounted too.
    ///
    /// # Errors
    /// What could not be ended or unmounted.
    pub async fn shut_down(&self, stop_sandboxes: bool) -> Result<()> {
        let inner = &self.inner;
        inner.closing.send_replace(true);
        inner.checkpoints.close();
        inner.tasks.close();
        inner.tasks.wait().await;
        let live = lock(&inner.live).values().cloned().collect::<Vec<_>>();
        futures::future::join_all(live.iter().map(|live| live.ports.close_all())).await;
        if stop_sandboxes {
            let stopping = live.iter().map(|live| self.stop_sandbox(&live.id));
            for result in futures::future::join_all(stopping).await {
                result?;
            }
        }
        let none_left = lock(&inner.live).is_empty();
        inner
            .network
            .shut_down(!none_left)
            .await
            .map_err(host("close the network"))?;
        if none_left {
            inner.storage.close().await?;
            Cgroups::remove_parents();
        }
        inner.records.close().await;
        Ok(())
    }
}

fn keep_private(directory: &Path) -> Result<()> {
    std::fs::set_permissions(directory, Permissions::from_mode(0o700)).map_err(|source| {
        EngineError::File {
            action: "protect",
            path: directory.into(),
            source,
        }
    })
}

async fn recover_images(
    inner: &Arc<Inner>,
    records: Vec<ImageRecord>,
    base: ImageRecord,
) -> Result<()> {
    let (ready, unfinished): (Vec<_>, Vec<_>) = records
        .into_iter()
        .partition(|record| record.status == ImageStatus::Ready);
    if !ready.iter().any(|record| record.id == base.id) {
        inner.records.insert_image(&base).await?;
    }
    {
        let mut images = lock(&inner.images);
        images.extend(ready.into_iter().map(|record| (record.id.clone(), record)));
        images.insert(base.id.clone(), base);
    }
    for record in unfinished {
        info!(image = %record.id, status = ?record.status, "clearing away an unfinished image");
        crate::images::destroy(inner, &record).await?;
    }
    Ok(())
}

async fn recover_memory_snapshots(inner: &Arc<Inner>, records: Vec<MemoryRecord>) -> Result<()> {
    for record in records {
        if record.status == SnapshotStatus::Ready {
            lock(&inner.memory_snapshots).insert(record.id.clone(), Arc::new(record));
        } else {
            info!(snapshot = %record.id, status = ?record.status, "clearing away an unfinished memory snapshot");
            crate::memory::finish_removal(inner, &record, record.status).await?;
        }
    }
    Ok(())
}

async fn recover_sandboxes(inner: &Arc<Inner>, records: Vec<SandboxRecord>) -> Result<()> {
    for record in records {
        if record.state.is_final() {
            continue;
        }
        let Some(slot) = record.slot.and_then(|number| inner.network.slot(number)) else {
            let reason = "its network was gone when the server started".to_owned();
            abandon(inner, &record, Event::Lost { reason }).await?;
            continue;
        };
        let image = lock(&inner.images).get(&record.image).cloned();
        let image = image.unwrap_or_else(|| placeholder(record.image.clone()));
        let live = new_live(inner, &record, &image, &slot);
        lock(&inner.live).insert(record.id.clone(), live.clone());
        let shim = live.shim.status().await;
        let is_build = record.spec.labels.contains_key(BUILD_LABEL);
        match (record.state.status, shim) {
            (SandboxStatus::Running, Ok(_)) if !is_build => {
                info!(sandbox = %record.id, "sandbox found again");
                crate::ports::expose_again(inner, &live).await?;
                crate::supervise::spawn(inner, live);
            }
            (SandboxStatus::Creating, _) => {
                let reason = "the server ended while it was being made".to_owned();
                crate::supervise::finish(inner, &live, Event::StartFailed { reason }).await;
            }
            (_, _) => {
                let event = match exit_record(&inner.run_directory(&record.id)) {
                    Some(exit) => Event::Ended {
                        exit_code: exit.exit_code,
                        out_of_memory: exit.out_of_memory,
                    },
                    None => Event::Lost {
                        reason: "it was gone when the server started".to_owned(),
                    },
                };
                crate::supervise::finish(inner, &live, event).await;
            }
        }
    }
    Ok(())
}

/// The slot that a sandbox holds by its record, with the policy to be put in force for it: the server may have ended between
/// record and effect. What the record cannot say is not allowed.
fn recorded_network(record: &SandboxRecord) -> Option<(u32, Policy)> {
    let policy = network_policy(&record.spec.network).unwrap_or(Policy::Blocked);
    record.slot.map(|slot| (slot, policy))
}

/// Ends what is left of a sandbox that cannot be taken up again.
async fn abandon(inner: &Inner, record: &SandboxRecord, event: Event) -> Result<()> {
    crate::supervise::end_processes(&inner.cgroups.spec(record.id.as_str())).await;
    inner.storage.delete_upper(&record.id).await?;
    if let Some(state) = record.state.after(event, Timestamp::now()) {
        inner.records.set_sandbox_state(&record.id, &state).await?;
    }
    Ok(())
}

/// For a sandbox whose image has been removed from under its record.
fn placeholder(id: ImageId) -> ImageRecord {
    ImageRecord {
        id,
        status: ImageStatus::Removing,
        origin: ImageOrigin::Base,
        layers: Vec::new(),
        snapshot: None,
        environment: BTreeMap::new(),
        size_bytes: 0,
        created_at: Timestamp::UNIX_EPOCH,
    }
}

/// Deletes what no record knows of.
async fn sweep(inner: &Inner) -> Result<()> {
    let uppers: HashSet<String> = lock(&inner.live).keys().map(ToString::to_string).collect();
    let snapshots: HashSet<String> = lock(&inner.images)
        .values()
        .filter_map(|image| image.snapshot.clone())
        .collect();
    inner.storage.sweep(&uppers, &snapshots).await?;
    inner.records.delete_stale_ports().await?;
    let directory = inner.config.data_directory.join("run/sandboxes");
    for name in names(&directory)? {
        if !uppers.contains(&name) {
            crate::supervise::end_processes(&inner.cgroups.spec(&name)).await;
            remove_directory(directory.join(&name))?;
        }
    }
    let directory = inner.config.data_directory.join("memory");
    for name in names(&directory)? {
        let is_known = name
            .parse()
            .is_ok_and(|id| inner.memory_record(&id).is_ok());
        if !is_known {
            remove_directory(directory.join(&name))?;
        }
    }
    Ok(())
}

fn remove_directory(path: PathBuf) -> Result<()> {
    std::fs::remove_dir_all(&path).map_err(|source| EngineError::File {
        action: "remove",
        path,
        source,
    })
}

fn names(directory: &Path) -> Result<Vec<String>> {
    let read = || {
        std::fs::read_dir(directory)?
            .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .collect::<std::io::Result<Vec<_>>>()
    };
    read().map_err(|source| EngineError::File {
        action: "list",
        path: directory.into(),
        source,
    })
}

/// For `map_err` on what concerns the machine and no single sandbox.
fn host(action: &'static str) -> impl FnOnce(fermata_runtime::RuntimeError) -> EngineError {
    move |source| EngineError::Host { action, source }
}
