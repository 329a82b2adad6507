//! The real shim with a shell as process 1, on an overlay of this machine's own root.
#![expect(clippy::unwrap_used, reason = "a test's fixture fails the test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fermata_protocol::{RootSpec, ShimSpec};
use fermata_runtime::cgroup::{self, Cgroups, Limits};
use fermata_runtime::{RuntimeError, ShimClient, default_security, exit_record, start_shim};

/// Long enough for a loaded machine, short enough for a hang to be noticed.
const PATIENCE: Duration = Duration::from_secs(20);

/// A sandbox that is gone with its last trace when this is dropped, also by a panic.
struct Fixture {
    directory: tempfile::TempDir,
    spec: ShimSpec,
}

impl Fixture {
    /// `script` runs as process 1; it has to write to descriptor 3 when it is ready.
    fn new(name: &str, script: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let scratch = directory.path().join("scratch");
        std::fs::create_dir(&scratch).unwrap();
        // overlayfs refuses an upper below one of its own lowers, and the lower here is the whole root.
        rustix::mount::mount(
            "tmpfs",
            &scratch,
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            c"size=8m",
        )
        .unwrap();
        for part in ["upper", "work"] {
            std::fs::create_dir(scratch.join(part)).unwrap();
        }
        std::fs::create_dir(directory.path().join("run")).unwrap();
        let id = format!("shim-test-{name}-{}", std::process::id());
        let limits = Limits {
            cpu_millicores: 1000,
            memory_bytes: 256 << 20,
            processes: 64,
        };
        let spec = ShimSpec {
            sandbox_id: id.clone(),
            hostname: name.to_owned(),
            root: RootSpec {
                lower: vec![PathBuf::from("/")],
                upper: scratch.join("upper"),
                work: scratch.join("work"),
            },
            network_namespace: PathBuf::from("/proc/self/ns/net"),
            forwarding: None,
            cgroup: Cgroups::open().unwrap().create(&id, limits).unwrap(),
            security: default_security().unwrap(),
            init: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            environment: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
            files: BTreeMap::from([(PathBuf::from("/etc/hostname"), format!("{name}\n"))]),
            shared_memory_bytes: 1 << 20,
            restore: None,
        };
        Self { directory, spec }
    }

    fn run(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    async fn start(&self) -> Result<ShimClient, RuntimeError> {
        start_shim(
            Path::new(env!("CARGO_BIN_EXE_fermata-shim")),
            &self.run(),
            &self.spec,
        )
        .await
    }

    fn events(&self) -> String {
        std::fs::read_to_string(self.spec.cgroup.unified.join("cgroup.events")).unwrap()
    }
}

impl Drop for Fixture {
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
    }
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{what} did not happen"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn process_1_is_confined_as_docker_confines_it() {
        let fixture = Fixture::new("confined", "printf x >&3; exec sleep 1000");
        let shim = fixture.start().await.unwrap();
        let pid = shim.status().await.unwrap().init_pid;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap()
                .trim()
                .to_owned()
        };
        assert_eq!(field("CapBnd:"), "00000000a80425fb");
        assert_eq!(field("CapEff:"), "00000000a80425fb");
        assert_eq!(field("CapAmb:"), "0000000000000000");
        assert_eq!(field("Seccomp:"), "2");
        assert_eq!(field("Seccomp_filters:"), "2");
        assert_eq!(field("NSpid:").split_whitespace().last(), Some("1"));
        for namespace in ["pid", "mnt", "ipc", "uts", "cgroup", "time"] {
            let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
            assert_ne!(of(&pid.to_string()), of("self"), "{namespace}");
        }
        let root = PathBuf::from(format!("/proc/{pid}/root"));
        assert_eq!(
            std::fs::read_to_string(root.join("etc/hostname")).unwrap(),
            "confined\n"
        );
        assert!(root.join("dev/null").exists());
        assert!(!root.join("dev/kmsg").exists());
        let mounts = std::fs::read_to_string(format!("/proc/{pid}/mounts")).unwrap();
        let has = |path: &str, option: &str| {
            mounts.lines().any(|line| {
                let fields = line.split(' ').collect::<Vec<_>>();
                fields[1] == path && fields[3].split(',').any(|found| found == option)
            })
        };
        assert!(has("/proc/sys", "ro"), "{mounts}");
        assert!(has("/sys", "ro"), "{mounts}");
        assert!(has("/proc/keys", "nosuid"), "{mounts}");
        shim.kill().await.unwrap();
        assert_eq!(
            shim.wait_exit().await.ok().map(|exit| exit.exit_code),
            Some(137)
        );
    }

    #[tokio::test]
    async fn the_end_of_process_1_is_recorded_and_leaves_nothing() {
        // A child that holds on to everything is killed with process 1.
        let fixture = Fixture::new(
            "end",
            "sleep 1000 & printf x >&3; read line < /dev/null; exit 7",
        );
        let shim = fixture.start().await.unwrap();
        let _ = shim.wait_exit().await;
        eventually("the record", || exit_record(&fixture.run()).is_some()).await;
        let record = exit_record(&fixture.run()).unwrap();
        assert_eq!((record.exit_code, record.out_of_memory), (7, false));
        eventually("removal", || !fixture.spec.cgroup.unified.exists()).await;
        assert!(
            fixture
                .spec
                .cgroup
                .controllers
                .iter()
                .all(|path| !path.exists())
        );
    }

    #[tokio::test]
    async fn a_freeze_ends_with_its_connection() {
        let fixture = Fixture::new("freeze", "printf x >&3; while :; do :; done");
        let shim = fixture.start().await.unwrap();
        let frozen = shim.freeze(PATIENCE).await.unwrap();
        assert!(fixture.events().contains("frozen 1"));
        drop(frozen);
        eventually("the thaw", || fixture.events().contains("frozen 0")).await;
        let frozen = shim.freeze(PATIENCE).await.unwrap();
        frozen.thaw().await.unwrap();
        assert!(fixture.events().contains("frozen 0"));
        shim.kill().await.unwrap();
        let _ = shim.wait_exit().await;
    }

    #[tokio::test]
    async fn a_sandbox_is_killed_also_while_frozen() {
        let fixture = Fixture::new("frozen", "printf x >&3; exec sleep 1000");
        let shim = fixture.start().await.unwrap();
        let _frozen = shim.freeze(PATIENCE).await.unwrap();
        shim.kill().await.unwrap();
        assert_eq!(shim.wait_exit().await.unwrap().exit_code, 137);
    }

    #[tokio::test]
    async fn what_keeps_a_sandbox_from_starting_is_named() {
        let mut fixture = Fixture::new("missing", "true");
        fixture.spec.init = vec!["/no/such/agent".to_owned()];
        let message = fixture.start().await.unwrap_err().to_string();
        assert!(
            message.contains("cannot execute /no/such/agent"),
            "{message}"
        );

        let mut fixture = Fixture::new("no-upper", "true");
        fixture.spec.root.upper = PathBuf::from("/no/such/upper");
        let message = fixture.start().await.unwrap_err().to_string();
        assert!(message.contains("cannot mount the overlay"), "{message}");

        let fixture = Fixture::new("dies", "exit 1");
        let message = fixture.start().await.unwrap_err().to_string();
        assert!(message.contains("ended before it was ready"), "{message}");
    }

    #[tokio::test]
    async fn running_out_of_memory_is_recorded() {
        // Killable like a program that the agent starts.
        let script = "echo 0 > /proc/self/oom_score_adj; printf x >&3; x=$(head -c 400000000 /dev/zero | tr '\\0' x); exit 3";
        let fixture = Fixture::new("memory", script);
        let shim = fixture.start().await.unwrap();
        let _ = shim.wait_exit().await;
        eventually("the record", || exit_record(&fixture.run()).is_some()).await;
        assert!(exit_record(&fixture.run()).unwrap().out_of_memory);
    }
}
