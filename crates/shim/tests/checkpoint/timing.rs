//! How long it takes: `cargo nextest run --release -p fermata-shim --run-ignored all --no-capture timing`.

#![expect(clippy::print_stderr, reason = "it measures for people")]

use std::time::{Duration, Instant};

use fermata_checkpoint::{Facts, Manifest, Verifier};

use crate::world::{Sandbox, Snapshot, checkpointer};

const ROUNDS: usize = 9;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// The shim is the parent of process 1.
fn shim_pss_kb(init_pid: i32) -> u64 {
    let number = |path: String, name: &str| {
        std::fs::read_to_string(path)
            .unwrap()
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .unwrap()
    };
    let shim: u64 = number(format!("/proc/{init_pid}/status"), "PPid:");
    number(format!("/proc/{shim}/smaps_rollup"), "Pss:")
}

async fn measure(name: &str, guest: &str) {
    let checkpointer = checkpointer();
    let original = Sandbox::start(guest).await;
    let (mut captures, mut seals, mut restores) = (Vec::new(), Vec::new(), Vec::new());
    let mut verifications = Vec::new();
    let (mut bytes, mut shims) = (0, vec![shim_pss_kb(original.init_pid().await)]);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let snapshot: Snapshot = original.capture(checkpointer).await.unwrap();
        captures.push(start.elapsed());
        let images = snapshot.images();
        let facts = Facts {
            id: "timing".to_owned(),
            parent: None,
            created_at: jiff::Timestamp::now(),
            paused_ms: 0.0,
            engine: checkpointer.engine(),
        };
        let start = Instant::now();
        let manifest = Manifest::seal(&images, facts, &Verifier::default()).unwrap();
        seals.push(start.elapsed());
        bytes = manifest.bytes();
        let start = Instant::now();
        Verifier::default().verify(&images, &manifest).unwrap();
        verifications.push(start.elapsed());
        let sandbox = Sandbox::restore(&snapshot, checkpointer.restore_spec(&images))
            .await
            .ok()
            .unwrap();
        restores.push(sandbox.started_in);
        shims.push(shim_pss_kb(sandbox.init_pid().await));
    }
    eprintln!(
        "{name}: {bytes} bytes; freeze to thaw {:?}, seal {:?}, verify {:?}, restore {:?}, PSS in kB of shims {shims:?}",
        median(captures),
        median(seals),
        median(verifications),
        median(restores)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[ignore = "measures"]
    async fn timing() {
        measure("idle", include_str!("guests/idle.py")).await;
        measure("200 MB", include_str!("guests/large.py")).await;
    }
}
