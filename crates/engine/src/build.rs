//! Building images: a sandbox that runs the steps, is held, and is baked into one layer.
//!
//! ```text
//! key of the spec ─► image there? ──yes──► Finished { cached }
//!                        │ no
//!                        ▼
//!   sandbox from `from` ─► steps ─► hold ─► stop ─► bake a layer ─► record "ready"
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fermata_protocol::agent::{EnvironmentVariable, Stream};
use fermata_runtime::{OutputFrom, RuntimeError, StartRequest};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::create::{new_id, runtime};
use crate::live::{Handle, Inner, lock};
use crate::model::{
    BuildEvent, BuildSpec, BuildStep, ImageId, ImageOrigin, SandboxId, SandboxSpec,
};
use crate::records::{ImageRecord, ImageStatus};
use crate::{Engine, EngineError, Result};

/// Marks sandboxes of builds, which a restart ends: nobody can go on with them.
pub(crate) const BUILD_LABEL: &str = "fermata.build";

/// Events that a slow receiver may leave unread before the build waits for it.
const EVENTS_WAITING: usize = 256;

impl Engine {
    /// The image that a build of this would give, and whether it is there already.
    ///
    /// # Errors
    /// `ImageNotFound` when what it starts from is not there.
    #[expect(clippy::unused_async, reason = "a later store of images is remote")]
    pub async fn find_build(&self, spec: &BuildSpec) -> Result<(ImageId, bool)> {
        let id = build_id(&self.inner, spec)?;
        let exists = lock(&self.inner.images).contains_key(&id);
        Ok((id, exists))
    }

    /// Builds, or finds the result of an equal earlier build. Goes on when the receiver is dropped.
    #[must_use]
    pub fn build_image(&self, spec: BuildSpec) -> mpsc::Receiver<BuildEvent> {
        let (events, receiver) = mpsc::channel(EVENTS_WAITING);
        let engine = self.clone();
        self.inner.tasks.spawn(async move {
            let last = match build(&engine, &spec, &events).await {
                Ok((image, cached)) => BuildEvent::Finished { image, cached },
                Err(BuildError::Step { message }) => BuildEvent::Failed { message },
                Err(BuildError::Engine(error)) => BuildEvent::Failed {
                    message: error.chain(),
                },
            };
            // A receiver that is gone has no use for it.
            let _ = events.send(last).await;
        });
        receiver
    }
}

/// Why a build failed: by its own steps, or by the server.
enum BuildError {
    Step { message: String },
    Engine(EngineError),
}

impl From<EngineError> for BuildError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

/// The id is the digest of everything that decides the content, in 16 hexadecimal digits as Beam's.
fn build_id(inner: &Inner, spec: &BuildSpec) -> Result<ImageId> {
    let from = spec
        .from
        .clone()
        .unwrap_or_else(|| inner.base_image.clone());
    let layers = lock(&inner.images)
        .get(&from)
        .map(|image| (image.layers.clone(), image.snapshot.clone()))
        .ok_or(EngineError::ImageNotFound { id: from })?;
    let content = serde_json::json!([layers, spec.steps, spec.environment]);
    let digest = blake3::hash(content.to_string().as_bytes()).to_hex();
    Ok(digest[..16].parse()?)
}

async fn build(
    engine: &Engine,
    spec: &BuildSpec,
    events: &mpsc::Sender<BuildEvent>,
) -> Result<(ImageId, bool), BuildError> {
    let inner = &engine.inner;
    inner.refuse_when_closing()?;
    let id = build_id(inner, spec)?;
    let gate = lock(&inner.builds).entry(id.clone()).or_default().clone();
    // An equal build that runs already is waited for; its result is then found.
    let result = {
        let _gate = gate.lock().await;
        if lock(&inner.images).contains_key(&id) {
            Ok((id, true))
        } else {
            build_anew(engine, id, spec, events).await
        }
    };
    drop(gate);
    lock(&inner.builds).retain(|_, gate| Arc::strong_count(gate) > 1);
    result
}

async fn build_anew(
    engine: &Engine,
    id: ImageId,
    spec: &BuildSpec,
    events: &mpsc::Sender<BuildEvent>,
) -> Result<(ImageId, bool), BuildError> {
    let inner = &engine.inner;
    let sandbox = engine
        .create_sandbox(SandboxSpec {
            image: spec.from.clone(),
            labels: BTreeMap::from([(BUILD_LABEL.to_owned(), id.to_string())]),
            ..SandboxSpec::default()
        })
        .await?;
    let held = run_and_hold(engine, &sandbox.id, spec, events).await;
    // A tool of this build, not a sandbox of the caller's: it is not listed afterwards.
    let ended = match engine.stop_sandbox(&sandbox.id).await {
        Ok(_) => engine.remove_sandbox(&sandbox.id).await,
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        warn!(sandbox = %sandbox.id, error = error.chain(), "cannot end the sandbox of a build");
    }
    let snapshot = held?;
    let baked = bake(inner, &id, &snapshot, &sandbox.image, spec).await;
    crate::snapshot::discard(inner, &snapshot).await;
    baked?;
    info!(image = %id, "image built");
    Ok((id, false))
}

/// Runs the steps, then holds the sandbox as a snapshot that only this build knows.
async fn run_and_hold(
    engine: &Engine,
    sandbox: &SandboxId,
    spec: &BuildSpec,
    events: &mpsc::Sender<BuildEvent>,
) -> Result<ImageId, BuildError> {
    let inner = &engine.inner;
    let handle = engine.handle(sandbox).await?;
    for step in &spec.steps {
        run_step(inner, sandbox, &handle, step, &spec.environment, events).await?;
    }
    let live = inner.running(sandbox).await?;
    let snapshot: ImageId = new_id("build")?;
    let source = lock(&inner.images).get(&live.image).cloned();
    let source = source.ok_or_else(|| EngineError::ImageNotFound {
        id: live.image.clone(),
    })?;
    // Recorded as in the making for good: the next start deletes it if this one cannot.
    inner
        .records
        .insert_image(&ImageRecord {
            id: snapshot.clone(),
            status: ImageStatus::Making,
            origin: ImageOrigin::Build,
            snapshot: Some(snapshot.to_string()),
            created_at: Timestamp::now(),
            ..source
        })
        .await?;
    if let Err(error) = crate::snapshot::hold(inner, &live, &snapshot).await {
        crate::snapshot::discard(inner, &snapshot).await;
        return Err(error.into());
    }
    Ok(snapshot)
}

async fn bake(
    inner: &Arc<Inner>,
    id: &ImageId,
    snapshot: &ImageId,
    from: &ImageId,
    spec: &BuildSpec,
) -> Result<()> {
    let source = lock(&inner.images)
        .get(from)
        .cloned()
        .ok_or_else(|| EngineError::ImageNotFound { id: from.clone() })?;
    let (layer, layer_bytes) = inner.storage.bake(snapshot).await?;
    let mut layers = vec![layer];
    layers.extend(source.layers);
    let mut environment = source.environment;
    environment.extend(spec.environment.clone());
    let record = ImageRecord {
        id: id.clone(),
        status: ImageStatus::Ready,
        origin: ImageOrigin::Build,
        layers,
        snapshot: None,
        environment,
        size_bytes: source.size_bytes + layer_bytes,
        created_at: Timestamp::now(),
    };
    inner.records.insert_image(&record).await?;
    lock(&inner.images).insert(id.clone(), record);
    Ok(())
}

/// What a step runs, and how it is shown.
fn command(step: &BuildStep) -> (Vec<String>, String) {
    match step {
        BuildStep::Shell(line) => (
            vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()],
            format!("RUN {line}"),
        ),
        BuildStep::Pip(packages) => {
            let fixed = [
                "python3",
                "-m",
                "pip",
                "install",
                "--no-cache-dir",
                "--root-user-action=ignore",
            ];
            let mut arguments = fixed.map(str::to_owned).to_vec();
            arguments.extend(packages.iter().cloned());
            (arguments, format!("pip install {}", packages.join(" ")))
        }
    }
}

async fn run_step(
    inner: &Inner,
    sandbox: &SandboxId,
    handle: &Handle,
    step: &BuildStep,
    environment: &BTreeMap<String, String>,
    events: &mpsc::Sender<BuildEvent>,
) -> Result<(), BuildError> {
    let (arguments, shown) = command(step);
    say(events, format!("=> {shown}\n")).await;
    let mut variables = handle.environment.clone();
    variables.insert("DEBIAN_FRONTEND".to_owned(), "noninteractive".to_owned());
    variables.extend(inner.config.build_environment.clone());
    variables.extend(environment.clone());
    let pid = handle
        .agent
        .start(StartRequest {
            arguments: arguments.into_iter().map(String::into_bytes).collect(),
            working_directory: b"/workspace".to_vec(),
            environment: variables
                .into_iter()
                .map(|(name, value)| EnvironmentVariable {
                    name: name.into_bytes().into(),
                    value: value.into_bytes().into(),
                })
                .collect(),
            ..StartRequest::default()
        })
        .await
        .map_err(runtime("run a build step in", sandbox))?;
    let relayed = tokio::try_join!(
        relay(handle, pid, Stream::Stdout, events),
        relay(handle, pid, Stream::Stderr, events),
    );
    relayed.map_err(runtime("read the output of a build step in", sandbox))?;
    let exit_code = exit_code_of(handle, pid)
        .await
        .map_err(runtime("end a build step in", sandbox))?;
    if exit_code != 0 {
        return Err(BuildError::Step {
            message: format!("`{shown}` ended with exit code {exit_code}"),
        });
    }
    Ok(())
}

/// The end of a process's output is not its end: its exit code comes a moment later, or much later when it closed its output.
async fn exit_code_of(handle: &Handle, pid: i32) -> Result<i32, RuntimeError> {
    const WAIT: Duration = Duration::from_secs(30);
    loop {
        let state = handle.agent.wait(pid, WAIT).await?;
        if !state.running {
            return Ok(state.exit_code);
        }
    }
}

/// Passes one stream on until the process has ended and all it wrote is passed on.
async fn relay(
    handle: &Handle,
    pid: i32,
    stream: Stream,
    events: &mpsc::Sender<BuildEvent>,
) -> Result<(), RuntimeError> {
    const WAIT: Duration = Duration::from_millis(500);
    const CHUNK_BYTES: u64 = 64 << 10;
    let mut offset = 0;
    loop {
        // Asked before the read: what had been written before the end is in the read that follows.
        let running = handle.agent.wait(pid, Duration::ZERO).await?.running;
        let wait = if running { WAIT } else { Duration::ZERO };
        let chunk = handle
            .agent
            .read_output(pid, stream, OutputFrom::Offset(offset), CHUNK_BYTES, wait)
            .await?;
        offset = chunk.offset + chunk.data.len() as u64;
        if !chunk.data.is_empty() {
            say(events, String::from_utf8_lossy(&chunk.data).into_owned()).await;
        } else if chunk.end || !running {
            return Ok(());
        }
    }
}

async fn say(events: &mpsc::Sender<BuildEvent>, text: String) {
    // A receiver that is gone does not stop the build.
    let _ = events.send(BuildEvent::Output { text }).await;
}
