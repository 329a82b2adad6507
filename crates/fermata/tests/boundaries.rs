//! The boundaries that ARCHITECTURE.md draws: who may depend on whom, and who may use `unsafe`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Each crate of the workspace with the ones it may use. Arrows go downwards only.
const ALLOWED: &[(&str, &[&str])] = &[
    ("sys", &[]),
    ("protocol", &[]),
    ("pool", &["sys"]),
    ("agent", &["sys", "protocol"]),
    ("native", &["sys"]),
    ("checkpoint", &["sys", "protocol", "native"]),
    ("shim", &["sys", "protocol", "checkpoint", "native"]),
    ("runtime", &["sys", "protocol"]),
    (
        "engine",
        &["sys", "protocol", "pool", "runtime", "checkpoint"],
    ),
    ("gateway", &["protocol", "engine"]),
    (
        "fermata",
        &["sys", "pool", "runtime", "checkpoint", "engine", "gateway"],
    ),
];

fn crates_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_depend_only_on_what_is_below_them() {
        let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
        for entry in std::fs::read_dir(crates_directory()).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let below = allowed
                .get(name.as_str())
                .unwrap_or_else(|| panic!("crate {name} is not in the table"));
            let manifest: toml::Table = std::fs::read_to_string(path.join("Cargo.toml"))
                .unwrap()
                .parse()
                .unwrap();
            let dependencies = manifest["dependencies"].as_table().unwrap();
            for dependency in dependencies.keys() {
                if let Some(used) = dependency.strip_prefix("fermata-") {
                    assert!(below.contains(&used), "{name} must not use {used}");
                }
            }
        }
    }

    #[test]
    fn only_sys_has_unsafe_code() {
        let mut pending = vec![crates_directory()];
        let mut seen = 0;
        while let Some(directory) = pending.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    if path.file_name().unwrap() != "sys" {
                        pending.push(path);
                    }
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    seen += 1;
                    let text = std::fs::read_to_string(&path).unwrap();
                    // Spelled in two parts, or this file would find itself.
                    for word in [
                        concat!("unsafe", " {"),
                        concat!("unsafe", " fn"),
                        concat!("unsafe", " impl"),
                    ] {
                        assert!(!text.contains(word), "{} has {word:?}", path.display());
                    }
                }
            }
        }
        assert!(seen > 20, "looked at {seen} files only");
    }

    #[test]
    fn every_crate_takes_the_workspace_lints() {
        for (name, _) in ALLOWED {
            let manifest =
                std::fs::read_to_string(crates_directory().join(name).join("Cargo.toml")).unwrap();
            assert!(manifest.contains("[lints]\nworkspace = true"), "{name}");
        }
    }
}
