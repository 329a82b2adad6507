//! Making a sandbox: from an image, or from a memory snapshot.
//!
//! ```text
//!                                                                  ┌─► process 1 started ─────────┐
//! network slot ─► record "creating" ─► upper, groups, layers ─► shim                              ├─► record "running"
//!                                                                  └─► processes played on ─► hooks ┘
//! ```
//!
//! Everything after the record is undone when a later step fails, by this code or, when the daemon died, by the next start.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use fermata_protocol::{AGENT_PATH, RootSpec, ShimSpec};
use fermata_runtime::cgroup::Limits;
use fermata_runtime::network::{Policy, Slot};
use fermata_runtime::ports::Ports;
use fermata_runtime::{AgentClient, RuntimeError, ShimClient, start_shim};
use jiff::Timestamp;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::idle::Activity;
use crate::live::{Inner, Live, lock};
use crate::machine::{Event, State};
use crate::model::{NetworkPolicy, Sandbox, SandboxId, SandboxSpec, SandboxStatus};
use crate::records::{ImageRecord, Restored, SandboxRecord};
use crate::restore::Origin;
use crate::{Engine, EngineError, Result};

/// Docker's size of `/dev/shm`.
const SHARED_MEMORY_BYTES: u64 = 64 << 20;

/// How often the sandbox's processes have been played on: programs that see it change have become another sandbox.
const GENERATION_PATH: &str = "/run/fermata/generation";

/// For images that say nothing.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Engine {
    /// Makes a sandbox; returns when it takes commands.
    ///
    /// # Errors
    /// `ImageNotFound`, `SandboxExists`, `InvalidArgument`, `Pool` (also when it is full), `Runtime`. Nothing of the attempt is
    /// left but its record, which says why it failed.
    pub async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox> {
        let inner = self.inner.clone();
        // A caller that goes away must not leave half a sandbox: the work goes on without it.
        let task = inner.tasks.spawn(create(inner.clone(), spec, None));
        task.await.map_err(|_| EngineError::ShuttingDown)?
    }
}

/// Makes a sandbox that starts afresh, or whose processes are those of `origin`.
pub(crate) async fn create(
    inner: Arc<Inner>,
    spec: SandboxSpec,
    origin: Option<Origin>,
) -> Result<Sandbox> {
    let started = Instant::now();
    inner.refuse_when_closing()?;
    let policy = network_policy(&spec.network)?;
    for name in spec.environment.keys() {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(EngineError::InvalidArgument {
                field: "environment",
                reason: format!("{name:?} cannot name a variable"),
            });
        }
    }
    let image_id = spec
        .image
        .clone()
        .unwrap_or_else(|| inner.base_image.clone());
    let image = lock(&inner.images)
        .get(&image_id)
        .cloned()
        .ok_or(EngineError::ImageNotFound { id: image_id })?;
    let layers = match &origin {
        Some(origin) => origin.record.held.layers.clone(),
        None => inner.storage.stack(&image.layers)?,
    };
    let id = match spec.id.clone() {
        Some(id) => id,
        None => new_id("sb")?,
    };
    let slot = inner
        .network
        .acquire()
        .await
        .map_err(runtime("connect", &id))?;
    let record = SandboxRecord {
        id: id.clone(),
        state: State::new(),
        image: image.id.clone(),
        spec,
        slot: Some(slot.number),
        layers,
        restored: origin.as_ref().map(|origin| Restored {
            from: origin.from.clone(),
            generation: origin.record.held.generation + 1,
        }),
        created_at: Timestamp::now(),
    };
    if let Err(error) = inner.records.insert_sandbox(&record).await {
        inner.network.release(slot.number).await;
        return Err(error);
    }
    let live = new_live(&inner, &record, &image, &slot);
    lock(&inner.live).insert(id.clone(), live.clone());
    match start(&inner, &live, &image, &slot, &policy, origin.as_ref()).await {
        Ok(()) => {
            inner.apply(&live, Event::Ready).await?;
            crate::supervise::spawn(&inner, live.clone());
            info!(sandbox = %id, image = %image.id, restored = origin.is_some(), elapsed_ms = started.elapsed().as_millis(), "sandbox runs");
            if live.state.borrow().status != SandboxStatus::Running {
                // Asked to stop while it was being made: end it now that there is something to end.
                let _ = live.shim.kill().await;
            }
            Ok(live.describe())
        }
        Err(error) => {
            let reason = error.chain();
            warn!(sandbox = %id, error = reason, "cannot make a sandbox");
            crate::supervise::clear(&inner, &live).await;
            inner.apply(&live, Event::StartFailed { reason }).await?;
            lock(&inner.live).remove(&id);
            Err(error)
        }
    }
}

/// What the engine keeps of a sandbox while it has not ended.
pub(crate) fn new_live(
    inner: &Inner,
    record: &SandboxRecord,
    image: &ImageRecord,
    slot: &Slot,
) -> Arc<Live> {
    let mut environment = BTreeMap::from([
        ("PATH".to_owned(), DEFAULT_PATH.to_owned()),
        ("HOME".to_owned(), "/root".to_owned()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
    ]);
    environment.extend(image.environment.clone());
    environment.extend(record.spec.environment.clone());
    let activity = Activity::new();
    let used = activity.clone();
    Arc::new(Live {
        id: record.id.clone(),
        image: record.image.clone(),
        created_at: record.created_at,
        spec: std::sync::Mutex::new(record.spec.clone()),
        environment,
        slot: slot.number,
        layers: record.layers.clone(),
        restored: record.restored.clone(),
        agent: AgentClient::new(slot.namespace.clone()),
        shim: ShimClient::new(inner.run_directory(&record.id)),
        state: watch::Sender::new(record.state.clone()),
        activity,
        ports: Ports::new(slot.namespace.clone(), inner.config.ports.wait, move || {
            used.begin_use()
        }),
        exposing: tokio::sync::Mutex::new(()),
        operation: tokio::sync::Mutex::new(()),
    })
}

async fn start(
    inner: &Inner,
    live: &Live,
    image: &ImageRecord,
    slot: &Slot,
    policy: &Policy,
    origin: Option<&Origin>,
) -> Result<()> {
    let id = &live.id;
    if *policy != Policy::Open {
        inner
            .network
            .set_policy(slot.number, policy)
            .await
            .map_err(runtime("limit the network of", id))?;
    }
    let spec = lock(&live.spec).clone();
    let limits = Limits {
        cpu_millicores: spec.cpu_millicores,
        memory_bytes: inner.config.memory_cap_bytes,
        processes: inner.config.process_cap,
    };
    let cgroup = inner
        .cgroups
        .create(id.as_str(), limits)
        .map_err(runtime("limit", id))?;
    let upper_of = match origin {
        Some(origin) => &origin.image,
        None => image,
    };
    let (upper, lower) = tokio::try_join!(
        inner.storage.create_upper(id, upper_of),
        inner.storage.mount_layers(&live.layers),
    )?;
    let run_directory = inner.run_directory(id);
    make_directory(&run_directory)?;
    let hostname = hostname(id);
    let shim_spec = ShimSpec {
        sandbox_id: id.to_string(),
        hostname: hostname.clone(),
        root: RootSpec {
            lower,
            upper: upper.upper,
            work: upper.work,
        },
        network_namespace: slot.namespace.clone(),
        forwarding: Some(slot.forwarding.clone()),
        cgroup,
        security: inner.security.clone(),
        init: [AGENT_PATH, "--ready-fd", "3"].map(str::to_owned).to_vec(),
        environment: BTreeMap::from([("PATH".to_owned(), DEFAULT_PATH.to_owned())]),
        files: files(inner, live, &hostname),
        shared_memory_bytes: SHARED_MEMORY_BYTES,
        restore: match origin {
            Some(origin) => Some(crate::restore::restore_spec(inner, &origin.record).await?),
            None => None,
        },
    };
    start_shim(&inner.config.shim_program, &run_directory, &shim_spec)
        .await
        .map_err(runtime("start", id))?;
    if origin.is_some() {
        crate::restore::run_hooks(live).await?;
    }
    crate::ports::expose_all(inner, live, spec.ports).await
}

/// The files that tell programs who and where they are.
fn files(inner: &Inner, live: &Live, hostname: &str) -> BTreeMap<PathBuf, String> {
    BTreeMap::from([
        (
            PathBuf::from(GENERATION_PATH),
            format!("{}\n", live.generation()),
        ),
        (PathBuf::from("/etc/hostname"), format!("{hostname}\n")),
        (
            PathBuf::from("/etc/hosts"),
            format!(
                "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{hostname}\n"
            ),
        ),
        (
            PathBuf::from("/etc/resolv.conf"),
            inner.network.resolver_configuration(),
        ),
    ])
}

/// The part of an id that tells sandboxes apart, which is its end: `HOST_NAME_MAX` is 64, but prompts are narrow.
fn hostname(id: &SandboxId) -> String {
    let text = id.as_str();
    let start = text.len().saturating_sub(12);
    text[start..].trim_start_matches('-').to_owned()
}

pub(crate) fn make_directory(path: &std::path::Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|source| EngineError::File {
        action: "make",
        path: path.into(),
        source,
    })
}

/// A new id: the prefix and 60 random bits.
pub(crate) fn new_id<T>(prefix: &str) -> Result<T>
where
    T: std::str::FromStr<Err = crate::InvalidId>,
{
    let random = uuid::Uuid::new_v4().simple().to_string();
    Ok(format!("{prefix}-{}", &random[..15]).parse()?)
}

/// The network's word for a policy.
pub(crate) fn network_policy(policy: &NetworkPolicy) -> Result<Policy> {
    match policy {
        NetworkPolicy::Open => Ok(Policy::Open),
        NetworkPolicy::Blocked => Ok(Policy::Blocked),
        NetworkPolicy::Allow(networks) => {
            Policy::allow(networks).map_err(|error| EngineError::InvalidArgument {
                field: "network",
                reason: error.to_string(),
            })
        }
    }
}

/// For `map_err` on what the runtime does for a sandbox.
pub(crate) fn runtime(
    action: &'static str,
    id: &SandboxId,
) -> impl FnOnce(RuntimeError) -> EngineError {
    let id = id.clone();
    move |source| EngineError::Runtime { action, id, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_short_and_valid() {
        let id: SandboxId = "sandbox-6f1c2d1e-0000-4000-8000-000000000000-AbC12345"
            .parse()
            .unwrap();
        assert_eq!(hostname(&id), "000-AbC12345");
        let id: SandboxId = "sb-1".parse().unwrap();
        assert_eq!(hostname(&id), "sb-1");
    }

    #[test]
    fn too_many_networks_and_nonsense_are_refused() {
        let many = vec!["10.0.0.0/8".to_owned(); 65];
        network_policy(&NetworkPolicy::Allow(many)).unwrap_err();
        network_policy(&NetworkPolicy::Allow(vec!["nowhere".to_owned()])).unwrap_err();
    }
}
