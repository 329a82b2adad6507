//! `fermata serve`: the daemon's life.
//!
//! ```text
//! settings ─► lock ─► token ─► addresses bound ─► engine opened ─► serving, endpoints published, "ready"
//!                                                                     │ SIGTERM, SIGINT
//!                                  engine shut down ◄─ calls drained ◄┘
//! ```
//!
//! Sandboxes are kept by their shims and run on through all of this.

mod error;
mod gateways;
mod lock;
mod programs;
mod progress;
mod publish;
mod token;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fermata_engine::{Engine, EngineConfig};
use fermata_gateway::beam::{Addresses, Beam, BeamStore};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::arguments::ServeFlags;
use crate::config::{Config, Limits, LogFormat};
use crate::endpoint::Endpoints;
use crate::failure::Failure;
use crate::printer::Printer;
use error::ServeError;
use gateways::Gateways;

/// What the Beam gateway keeps between starts.
const BEAM_STORE_FILE: &str = "beam.db";

/// Runs the server until it is told to stop.
pub(crate) fn serve(
    flags: &ServeFlags,
    data_dir: Option<PathBuf>,
    printer: Printer,
) -> Result<(), Failure> {
    let config = Config::load(flags, data_dir)?;
    log_to_stderr(config.log_format.value);
    if !rustix::process::geteuid().is_root() {
        return Err(ServeError::NotRoot.into());
    }
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(ServeError::Threads)?;
    let result = runtime.block_on(run(&config, printer));
    // Calls that did not end in time are cut off here.
    runtime.shutdown_background();
    result
}

async fn run(config: &Config, printer: Printer) -> Result<(), Failure> {
    let mut stop = StopSignals::new()?;
    let directory = &config.data_dir.value;
    let _lock = lock::take(directory)?;
    publish::withdraw(directory)?;
    let token: Arc<str> = token::load_or_make(directory, printer)?.into();
    // Before the engine's long first start, so that a taken port is known at once.
    let gateways = Gateways::bind(config.grpc.value, config.http.value)?;
    let endpoints = gateways.endpoints()?;

    let engine = tokio::select! {
        engine = open_engine(config) => engine?,
        name = stop.next() => {
            tracing::info!(signal = name, "stopped before the server was ready");
            return Ok(());
        }
    };
    let store = BeamStore::open(&directory.join(BEAM_STORE_FILE))
        .await
        .map_err(ServeError::BeamStore)?;
    let addresses = Addresses {
        grpc: endpoints.grpc,
        http: endpoints.http,
    };
    let beam = Beam::new(engine.clone(), store, addresses);
    let draining = CancellationToken::new();
    let listening = gateways.listen()?;
    let mut serving = tokio::spawn(listening.serve(engine.clone(), beam, token, draining.clone()));
    publish::publish(directory, endpoints)?;
    printer.line(&ready_line(endpoints, directory))?;

    let ended_early = tokio::select! {
        name = stop.next() => {
            tracing::info!(signal = name, "stopping");
            None
        }
        ended = &mut serving => Some(ended),
    };
    draining.cancel();
    publish::withdraw(directory)?;
    let served = match ended_early {
        Some(ended) => gateways::outcome(ended),
        None => drain(&mut serving, &mut stop).await,
    };
    engine
        .shut_down(config.stop_sandboxes.value)
        .await
        .map_err(ServeError::ShutDown)?;
    Ok(served?)
}

/// Waits for calls under way, unless told to stop once more.
async fn drain(
    serving: &mut tokio::task::JoinHandle<Result<(), ServeError>>,
    stop: &mut StopSignals,
) -> Result<(), ServeError> {
    tokio::select! {
        ended = serving => gateways::outcome(ended),
        name = stop.next() => {
            tracing::warn!(signal = name, "calls are cut off");
            Ok(())
        }
    }
}

async fn open_engine(config: &Config) -> Result<Engine, ServeError> {
    let config = engine_config(config)?;
    let (progress, lines) = mpsc::unbounded_channel();
    let display = tokio::spawn(progress::show(lines));
    let engine = Engine::open(config, progress)
        .await
        .map_err(ServeError::Open);
    // Ends with the sender, which the engine has dropped; wait so that the ready line comes after it.
    if let Err(error) = display.await {
        tracing::warn!(%error, "the progress display failed");
    }
    engine
}

fn engine_config(config: &Config) -> Result<EngineConfig, ServeError> {
    let defaults = EngineConfig::new(
        config.data_dir.value.clone(),
        programs::find("fermata-shim")?,
        programs::find("fermata-agent")?,
    );
    let Limits {
        memory_cap,
        process_cap,
        pool_size,
    } = &config.limits;
    Ok(EngineConfig {
        memory_cap_bytes: memory_cap
            .value
            .map_or(defaults.memory_cap_bytes, |size| size.0),
        process_cap: process_cap.value.unwrap_or(defaults.process_cap),
        pool_size_bytes: pool_size.value.map(|size| size.0),
        checkpointer: config.checkpointer.value.into(),
        name_servers: config.name_servers.value.0.clone(),
        extra_certificates: config
            .extra_certificates
            .value
            .0
            .iter()
            .map(Into::into)
            .collect(),
        build_environment: config.build_environment.value.0.clone(),
        ports: config.ports.engine(),
        ..defaults
    })
}

fn ready_line(endpoints: Endpoints, directory: &Path) -> String {
    format!(
        "fermata ready: grpc {}, http {}, data {}",
        endpoints.grpc,
        endpoints.http,
        directory.display()
    )
}

struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn new() -> Result<Self, ServeError> {
        let listen = |kind| signal(kind).map_err(ServeError::Signals);
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_unset| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            use std::io::IsTerminal as _;
            builder.with_ansi(std::io::stderr().is_terminal()).init();
        }
        LogFormat::Json => builder.json().init(),
    }
}

/// A few descriptors a sandbox add up beyond the customary soft limit of 1024.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(1 << 20, |hard| hard.min(1 << 20));
    if limit.current.is_some_and(|soft| soft < wanted) {
        limit.current = Some(wanted);
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "cannot raise the limit of open files");
        }
    }
}
