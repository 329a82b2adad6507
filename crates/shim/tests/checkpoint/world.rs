//! Sandboxes on an overlay of this machine's own root, gone with their last trace when they are dropped, also by a panic.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use fermata_checkpoint::criu::{Criu, Program};
use fermata_checkpoint::{CheckpointError, Checkpointer, Tree};
use fermata_protocol::{RestoreSpec, RootSpec, ShimSpec};
use fermata_runtime::cgroup::{self, Cgroups, Limits};
use fermata_runtime::{RuntimeError, ShimClient, default_security, exit_record, start_shim};
use rustix::process::{Pid, Signal};

/// Long enough for a loaded machine, short enough for a hang to be noticed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const SHIM: &str = env!("CARGO_BIN_EXE_fermata-shim");

/// CRIU, made once a run.
pub(crate) fn checkpointer() -> &'static dyn Checkpointer {
    static CRIU: OnceLock<Criu> = OnceLock::new();
    CRIU.get_or_init(|| criu(SHIM.into()))
}

/// CRIU, started by a program of choice.
pub(crate) fn criu(launcher: PathBuf) -> Criu {
    // Kept between runs, because it comes from a package archive.
    let directory = std::env::var_os("FERMATA_TEST_ENGINES").map_or_else(
        || PathBuf::from("/var/cache/fermata-test-engines"),
        PathBuf::from,
    );
    std::fs::create_dir_all(&directory).unwrap();
    // Test processes run side by side.
    let lock = std::fs::File::create(directory.join("lock")).unwrap();
    lock.lock().unwrap();
    Criu::new(
        Program::prepare(&directory, Path::new(SHIM)).unwrap(),
        launcher,
    )
}

/// A sandbox with its network namespace and its shim.
pub(crate) struct Sandbox {
    directory: tempfile::TempDir,
    pub(crate) spec: ShimSpec,
    network: String,
    shim: Option<ShimClient>,
    /// From the start of the shim until the sandbox was ready.
    pub(crate) started_in: Duration,
}

/// Memory and file system of one instant.
#[derive(Debug)]
pub(crate) struct Snapshot {
    directory: tempfile::TempDir,
    files: BTreeMap<PathBuf, String>,
    init: Vec<String>,
}

impl Snapshot {
    pub(crate) fn images(&self) -> PathBuf {
        self.directory.path().join("images")
    }

    fn upper(&self) -> PathBuf {
        self.directory.path().join("upper")
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Sandbox {
    fn new(init: Vec<String>, files: BTreeMap<PathBuf, String>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = format!("checkpoint-test-{}-{number}", std::process::id());
        let directory = tempfile::tempdir().unwrap();
        let scratch = directory.path().join("scratch");
        std::fs::create_dir(&scratch).unwrap();
        std::fs::create_dir(directory.path().join("run")).unwrap();
        // overlayfs refuses an upper below one of its own lowers, and the lower here is the whole root.
        rustix::mount::mount(
            "tmpfs",
            &scratch,
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            c"size=256m",
        )
        .unwrap();
        for part in ["upper", "work"] {
            std::fs::create_dir(scratch.join(part)).unwrap();
        }
        run("ip", &["netns", "add", &id]);
        let limits = Limits {
            cpu_millicores: 2000,
            memory_bytes: 1 << 30,
            processes: 4096,
        };
        let spec = ShimSpec {
            sandbox_id: id.clone(),
            hostname: format!("host-{number}"),
            root: RootSpec {
                lower: vec![PathBuf::from("/")],
                upper: scratch.join("upper"),
                work: scratch.join("work"),
            },
            network_namespace: Path::new("/run/netns").join(&id),
            forwarding: None,
            cgroup: Cgroups::open().unwrap().create(&id, limits).unwrap(),
            security: default_security().unwrap(),
            init,
            environment: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
            files,
            shared_memory_bytes: 64 << 20,
            restore: None,
        };
        let sandbox = Self {
            directory,
            spec,
            network: id,
            shim: None,
            started_in: Duration::ZERO,
        };
        run("ip", &["-n", &sandbox.network, "link", "set", "lo", "up"]);
        sandbox
    }

    /// Starts a guest program from `guests/`.
    pub(crate) async fn start(guest: &str) -> Self {
        let python = ["/usr/bin/python3", "-u", "/guest.py"].map(str::to_owned);
        let prelude = include_str!("guests/prelude.py");
        let files = BTreeMap::from([(PathBuf::from("/guest.py"), format!("{prelude}{guest}"))]);
        let mut sandbox = Self::new(python.to_vec(), files);
        sandbox.run_shim().await.unwrap();
        sandbox
    }

    /// A sandbox that goes on where the snapshot was made.
    pub(crate) async fn restore(
        snapshot: &Snapshot,
        restore: RestoreSpec,
    ) -> Result<Self, (Self, RuntimeError)> {
        Self::restore_prepared(snapshot, restore, |_| {}).await
    }

    /// As above, with something done before its shim is started.
    pub(crate) async fn restore_prepared(
        snapshot: &Snapshot,
        restore: RestoreSpec,
        prepare: impl FnOnce(&mut Self),
    ) -> Result<Self, (Self, RuntimeError)> {
        let mut sandbox = Self::new(snapshot.init.clone(), snapshot.files.clone());
        prepare(&mut sandbox);
        copy(&snapshot.upper(), &sandbox.spec.root.upper);
        sandbox.spec.restore = Some(restore);
        match sandbox.run_shim().await {
            Ok(()) => Ok(sandbox),
            Err(error) => Err((sandbox, error)),
        }
    }

    async fn run_shim(&mut self) -> Result<(), RuntimeError> {
        let start = Instant::now();
        self.shim = Some(start_shim(Path::new(SHIM), &self.run_directory(), &self.spec).await?);
        self.started_in = start.elapsed();
        Ok(())
    }

    pub(crate) fn shim(&self) -> &ShimClient {
        self.shim.as_ref().unwrap()
    }

    pub(crate) fn run_directory(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    pub(crate) async fn init_pid(&self) -> i32 {
        self.shim().status().await.unwrap().init_pid
    }

    pub(crate) async fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.init_pid().await).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Tells the guest to check itself, and returns its exit code and words.
    pub(crate) async fn finish(&self) -> (i32, String) {
        self.signal(Signal::USR1).await;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let exit = loop {
            if let Some(exit) = exit_record(&self.run_directory()) {
                break exit;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "the guest did not end"
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        let words =
            std::fs::read_to_string(self.spec.root.upper.join("result")).unwrap_or_default();
        (exit.exit_code, words)
    }

    /// Holds it, memory and file system.
    pub(crate) async fn capture(
        &self,
        checkpointer: &'static dyn Checkpointer,
    ) -> Result<Snapshot, CheckpointError> {
        self.capture_with(checkpointer, || Ok(())).await
    }

    /// As above, with something that happens at the instant.
    pub(crate) async fn capture_with(
        &self,
        checkpointer: &'static dyn Checkpointer,
        at_instant: impl FnOnce() -> std::io::Result<()> + Send + 'static,
    ) -> Result<Snapshot, CheckpointError> {
        let snapshot = Snapshot {
            directory: tempfile::tempdir().unwrap(),
            files: self.spec.files.clone(),
            init: self.spec.init.clone(),
        };
        for path in [snapshot.images(), snapshot.upper()] {
            std::fs::create_dir(path).unwrap();
        }
        let init_pid = self.init_pid().await;
        let frozen = self.shim().freeze(PATIENCE).await.unwrap();
        let cgroup = self.spec.cgroup.unified.clone();
        let upper = self.spec.root.upper.clone();
        let run_directory = self.run_directory();
        let work = move || {
            let tree = Tree {
                init_pid,
                shim: &run_directory,
                cgroup: &cgroup,
                lease: frozen.as_fd(),
            };
            let mut at_instant = Some(at_instant);
            let result = checkpointer.capture(&tree, &snapshot.images(), &mut || {
                copy(&upper, &snapshot.upper());
                at_instant.take().map_or(Ok(()), |act| act())
            });
            (frozen, result.map(|remainder| (snapshot, remainder)))
        };
        let (frozen, result) = tokio::task::spawn_blocking(work).await.unwrap();
        frozen.thaw().await.unwrap();
        let (snapshot, remainder) = result?;
        let written = tokio::task::spawn_blocking(|| remainder.map_or(Ok(()), |rest| rest.write()));
        written.await.unwrap()?;
        Ok(snapshot)
    }
}

/// An upper on tmpfs cannot be snapshotted; the tree stands still while it is copied.
fn copy(from: &Path, to: &Path) {
    let from = format!("{}/.", from.display());
    run(
        "cp",
        &["-a", "--reflink=never", &from, to.to_str().unwrap()],
    );
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for _ in 0..1000 {
            cgroup::remove(&self.spec.cgroup);
            if !self.spec.cgroup.unified.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let scratch = self.directory.path().join("scratch");
        let _ = rustix::mount::unmount(&scratch, rustix::mount::UnmountFlags::DETACH);
        let _ = Command::new("ip")
            .args(["netns", "delete", &self.network])
            .status();
    }
}
