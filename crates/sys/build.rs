//! Compiles what is loaded into CRIU: a shared object without libraries, which cargo cannot make for a static target.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    let source = "preload/limits.rs";
    println!("cargo::rerun-if-changed={source}");
    let variable = |name: &str| std::env::var(name).expect("cargo sets it");
    let object = PathBuf::from(variable("OUT_DIR")).join("limits.so");
    let status = Command::new(variable("RUSTC"))
        .args([
            "--edition=2024",
            "--crate-type=cdylib",
            "--crate-name=limits",
        ])
        .args(["-Copt-level=s", "-Cpanic=abort", "-Cstrip=symbols"])
        // Its one symbol from outside is found in the program's own libc.
        .args(["-Clink-arg=-nostdlib", "-Clink-arg=-nostartfiles"])
        .arg(format!("--target={}", variable("TARGET")))
        .arg("-o")
        .arg(&object)
        .arg(source)
        .status()
        .expect("the compiler starts");
    assert!(status.success(), "cannot compile {source}: {status}");
}
