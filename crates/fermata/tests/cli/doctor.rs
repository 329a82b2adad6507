use std::path::Path;

use crate::fermata::Fermata;

#[test]
fn every_check_says_how_it_stands_and_the_code_says_whether_all_do() {
    let directory = tempfile::tempdir().unwrap();
    let ended = Fermata::new(&[
        "doctor",
        "--json",
        "--data-dir",
        directory.path().to_str().unwrap(),
    ])
    .run();
    let document: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let checks = document["checks"].as_array().unwrap();
    let named = |name: &str| {
        checks
            .iter()
            .find(|check| check["name"] == name)
            .unwrap_or_else(|| panic!("no {name}"))
    };
    for name in [
        "root",
        "kernel",
        "overlayfs",
        "erofs",
        "btrfs",
        "time namespaces",
        "seccomp",
        "cgroup limits",
        "cgroup freeze",
        "veth",
        "nftables",
        "mkfs.erofs",
        "mmdebstrap",
        "criu",
        "disk",
        "open files",
    ] {
        let status = named(name)["status"].as_str().unwrap();
        assert!(
            ["ok", "info", "warning", "fail"].contains(&status),
            "{name}: {status}"
        );
        assert_ne!(named(name)["detail"], "", "{name}");
        if status == "fail" || status == "warning" {
            assert!(
                named(name)["advice"].is_string(),
                "{name} does not say what to do"
            );
        }
    }
    let failed = checks.iter().any(|check| check["status"] == "fail");
    assert_eq!(document["ready"], !failed);
    assert_eq!(ended.code, i32::from(failed));
}

#[test]
fn what_is_missing_is_named_with_its_package() {
    let directory = tempfile::tempdir().unwrap();
    let ended = Fermata::new(&["doctor"])
        .variable("PATH", directory.path())
        .variable("FERMATA_DATA_DIR", directory.path())
        .run();
    assert_eq!(ended.code, 1);
    let line = ended
        .stdout
        .lines()
        .find(|line| line.contains("mkfs.erofs "))
        .unwrap();
    assert!(
        line.starts_with("fail") && line.contains("apt-get install erofs-utils"),
        "{line}"
    );
}

#[test]
fn nothing_is_left_behind() {
    let scratch = tempfile::tempdir().unwrap();
    let ended = Fermata::new(&["doctor"])
        .variable("TMPDIR", scratch.path())
        .variable("FERMATA_DATA_DIR", scratch.path().join("none"))
        .run();
    assert_ne!(ended.stdout, "");
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(scratch.path().to_str().unwrap()));
    for unified in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new) {
        let Ok(entries) = std::fs::read_dir(unified) else {
            continue;
        };
        let own = format!("fermata-doctor-{}", ended.pid);
        assert!(
            entries
                .flatten()
                .all(|entry| entry.file_name() != own.as_str())
        );
    }
}
