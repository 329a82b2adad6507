//! A restored sandbox is a new one where it must be, and the same where it must not differ.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use crate::world::{Sandbox, checkpointer};

/// Connects from a thread that has joined the sandbox's network, as the port proxy of the daemon does.
fn connect_inside(namespace: &Path, port: u16) -> TcpStream {
    let namespace = namespace.to_owned();
    std::thread::spawn(move || {
        use std::os::fd::AsFd as _;
        let file = std::fs::File::open(namespace).unwrap();
        fermata_sys::clone::join_namespace(file.as_fd()).unwrap();
        TcpStream::connect(("127.0.0.1", port)).unwrap()
    })
    .join()
    .unwrap()
}

/// Lines of /proc/PID/status that say what a process may do and where it is.
fn confinement(pid: i32) -> Vec<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kept = [
        "Name:",
        "Umask:",
        "Uid:",
        "Gid:",
        "Groups:",
        "SigBlk:",
        "CapInh:",
        "CapPrm:",
        "CapEff:",
        "CapBnd:",
        "CapAmb:",
        "NoNewPrivs:",
        "Seccomp:",
        "Seccomp_filters:",
        "Cpus_allowed:",
    ];
    let mut lines = status
        .lines()
        .filter(|line| kept.iter().any(|name| line.starts_with(name)))
        .map(str::to_owned)
        .collect::<Vec<_>>();
    assert_eq!(lines.len(), kept.len());
    lines.push(std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap());
    lines.push(std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap());
    lines.push(std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap());
    lines
}

/// Its mounts without what differs between any two sandboxes: ids, device numbers and the layers of the root.
fn mounts(sandbox: &Sandbox, pid: i32) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let mut mounts = text
        .lines()
        .map(|line| {
            let fields = line.split(' ').skip(3).collect::<Vec<_>>();
            let text = if fields[1] == "/" {
                fields[..3].join(" ")
            } else {
                fields.join(" ")
            };
            text.replace(&sandbox.spec.sandbox_id, "SANDBOX")
        })
        .collect::<Vec<_>>();
    // The order in which they were mounted says nothing.
    mounts.sort();
    mounts
}

fn host_name(pid: i32) -> String {
    let output = std::process::Command::new("nsenter")
        .args(["--target", &pid.to_string(), "--uts", "hostname"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_confined_as_the_original_in_namespaces_of_its_own() {
        let original = Sandbox::start(include_str!("guests/processes.py")).await;
        let snapshot = original.capture(checkpointer()).await.unwrap();
        let spec = checkpointer().restore_spec(&snapshot.images());
        let restored = Sandbox::restore(&snapshot, spec).await.ok().unwrap();
        let (old, new) = (original.init_pid().await, restored.init_pid().await);
        assert_eq!(confinement(old), confinement(new));
        assert_eq!(mounts(&original, old), mounts(&restored, new));
        for namespace in ["pid", "mnt", "ipc", "uts", "cgroup", "time", "net"] {
            let of = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
            assert_ne!(of(old), of(new), "{namespace}");
            let host = std::fs::read_link(format!("/proc/self/ns/{namespace}")).unwrap();
            assert_ne!(host, of(new), "{namespace}");
        }
        // All of it is in the new sandbox's control groups.
        let count = |directory: &Path| {
            let procs = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap();
            procs.lines().count()
        };
        for (old, new) in original
            .spec
            .cgroup
            .controllers
            .iter()
            .zip(&restored.spec.cgroup.controllers)
        {
            assert_eq!(count(old), count(new));
        }
        assert_eq!(
            count(&original.spec.cgroup.unified),
            count(&restored.spec.cgroup.unified)
        );
        let keys = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(
            keys(new).contains(&restored.spec.sandbox_id),
            "{}",
            keys(new)
        );
        assert!(
            !keys(new).contains(&original.spec.sandbox_id),
            "{}",
            keys(new)
        );
    }

    #[tokio::test]
    async fn it_has_its_own_name_and_files_whatever_is_in_their_way() {
        let original = Sandbox::start(include_str!("guests/memory.py")).await;
        let etc = PathBuf::from(format!("/proc/{}/root/etc", original.init_pid().await));
        // What a program inside could leave there; the victim is a file of this machine.
        let victim = tempfile::NamedTempFile::new().unwrap();
        for name in ["hostname", "hosts", "resolv.conf"] {
            let _ = std::fs::remove_file(etc.join(name));
        }
        std::os::unix::fs::symlink(victim.path(), etc.join("hostname")).unwrap();
        let fifo = etc.join("hosts");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o644),
            0,
        )
        .unwrap();
        let snapshot = original.capture(checkpointer()).await.unwrap();
        let spec = checkpointer().restore_spec(&snapshot.images());
        let files = [
            ("/etc/hostname", "new-name\n"),
            ("/etc/hosts", "127.0.0.1 new-name\n"),
            ("/etc/resolv.conf", "nameserver 127.0.0.2\n"),
        ];
        let restored = Sandbox::restore_prepared(&snapshot, spec, |sandbox| {
            for (path, content) in files {
                sandbox.spec.files.insert(path.into(), content.to_owned());
            }
        })
        .await
        .ok()
        .unwrap();
        let pid = restored.init_pid().await;
        assert_eq!(host_name(pid), restored.spec.hostname);
        assert_ne!(host_name(original.init_pid().await), restored.spec.hostname);
        for (path, content) in files {
            let path = restored.spec.root.upper.join(path.trim_start_matches('/'));
            assert!(path.symlink_metadata().unwrap().file_type().is_file());
            assert_eq!(std::fs::read_to_string(path).unwrap(), content);
        }
        assert_eq!(std::fs::read(victim.path()).unwrap(), b"");
    }

    #[tokio::test]
    async fn connections_that_lead_outside_end_and_others_live() {
        let guest = include_str!("guests/server.py");
        let original = Sandbox::start(guest).await;
        let mut outside = connect_inside(&original.spec.network_namespace, 8000);
        outside.write_all(b"hello").unwrap();
        let mut answer = [0; 5];
        outside.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello");
        let snapshot = original.capture(checkpointer()).await.unwrap();
        let spec = checkpointer().restore_spec(&snapshot.images());
        let restored = Sandbox::restore(&snapshot, spec).await.ok().unwrap();
        // To the original it is the same connection still.
        outside.write_all(b"again").unwrap();
        outside.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"again");
        drop(outside);
        // The restored one takes new connections at once.
        let mut fresh = connect_inside(&restored.spec.network_namespace, 8000);
        fresh.write_all(b"fresh").unwrap();
        fresh.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"fresh");
        drop(fresh);
        for (sandbox, expected) in [
            (original, &["closed"][..]),
            // The second where a packet of it found nobody before it was destroyed.
            (restored, &["ECONNABORTED", "ECONNRESET"][..]),
        ] {
            let (code, words) = sandbox.finish().await;
            assert_eq!(code, 0, "{words}");
            assert!(expected.contains(&words.as_str()), "{words}");
        }
    }
}
