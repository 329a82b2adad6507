//! How long snapshots take: `cargo run --release -p fermata-pool --example snapshot_timing [DIRECTORY] [btrfs|copy]`.
//!
//! Writes through a real overlayfs mount, then does what the engine does: flush while running, snapshot (this part would be
//! under the freeze). Medians of several rounds. Needs root.
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::error::Error;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fermata_pool::{DriverChoice, Pool, PoolConfig, SnapshotId, UpperId};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

const ROUNDS: usize = 5;
const LARGE: usize = 500;
const SMALL_FILES: usize = 50_000;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

fn main() -> Outcome {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments
        .next()
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let driver = match arguments.next().as_deref() {
        Some("copy") => DriverChoice::Copy,
        _ => DriverChoice::Btrfs,
    };
    let scratch = tempfile::TempDir::with_prefix_in("fermata-timing-", directory)?;
    let agent = scratch.path().join("agent");
    fs::write(&agent, "none")?;
    let pool = Pool::open(PoolConfig {
        directory: scratch.path().join("pool"),
        driver,
        size_bytes: None,
        agent,
        extra_certificates: Vec::new(),
    })?;
    let outcome = measure(&pool, &scratch.path().join("root"));
    pool.close()?;
    outcome
}

fn measure(pool: &Pool, root: &Path) -> Outcome {
    fs::create_dir(root)?;
    println!(
        "{:<28} {:>9} {:>9} {:>9} {:>9}",
        "", "write ms", "flush ms", "pause ms", "total ms"
    );
    row(pool, root, "idle", &|_root| Ok(()))?;
    row(pool, root, "500 MB in one file", &|root| {
        let mut file = File::create(root.join("large"))?;
        let mut block = vec![0; 1 << 20];
        for number in 0..LARGE {
            blake3::Hasher::new()
                .update(&number.to_le_bytes())
                .finalize_xof()
                .fill(&mut block);
            file.write_all(&block)?;
        }
        Ok(())
    })?;
    row(pool, root, "50,000 small files", &|root| {
        for number in 0..SMALL_FILES {
            let directory = root.join(format!("d{}", number / 500));
            if number % 500 == 0 {
                fs::create_dir(&directory)?;
            }
            fs::write(directory.join(number.to_string()), [b'x'; 1000])?;
        }
        Ok(())
    })?;
    singles(pool)
}

fn row(pool: &Pool, root: &Path, name: &str, fill: &dyn Fn(&Path) -> Outcome) -> Outcome {
    let mut columns: [Vec<Duration>; 4] = Default::default();
    for round in 0..ROUNDS {
        let slug = name.replace([' ', ','], "-");
        let (upper, snapshot): (UpperId, SnapshotId) = (
            format!("{slug}-{round}").parse()?,
            format!("{slug}-{round}").parse()?,
        );
        let made = pool.uppers().create(&upper)?;
        let lower = pool.mount_layers(&pool.stack(&[]))?;
        let lower: Vec<String> = lower
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let (upper_path, work) = (made.upper.display(), made.work.display());
        let options = format!(
            "xino=on,lowerdir={},upperdir={upper_path},workdir={work}",
            lower.join(":")
        );
        mount(
            "overlay",
            root,
            "overlay",
            MountFlags::empty(),
            CString::new(options)?.as_c_str(),
        )?;
        let timed = (|| {
            let write = time(|| fill(root))?;
            let flush = time(|| Ok(pool.uppers().flush(&upper)?))?;
            let pause = time(|| Ok(pool.uppers().snapshot(&upper, &snapshot)?))?;
            Ok::<_, Box<dyn Error>>([write, flush, pause, flush + pause])
        })();
        unmount(root, UnmountFlags::DETACH)?;
        for (column, duration) in columns.iter_mut().zip(timed?) {
            column.push(duration);
        }
        pool.uppers().delete(&upper.clone().into())?;
        if round + 1 < ROUNDS {
            pool.uppers().delete(&snapshot.into())?;
        }
    }
    let [write, flush, pause, total] = columns.map(median);
    println!("{name:<28} {write:>9.1} {flush:>9.1} {pause:>9.1} {total:>9.1}");
    Ok(())
}

/// The calls by themselves, on the snapshot with the small files.
fn singles(pool: &Pool) -> Outcome {
    let snapshot: SnapshotId = format!("50-000-small-files-{}", ROUNDS - 1).parse()?;
    let (mut create, mut clone, mut delete) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..20 {
        let (empty, full): (UpperId, UpperId) =
            (format!("e{round}").parse()?, format!("f{round}").parse()?);
        create.push(time(|| Ok(pool.uppers().create(&empty)?))?);
        clone.push(time(|| {
            Ok(pool.uppers().clone_snapshot(&snapshot, &full)?)
        })?);
        delete.push(time(|| Ok(pool.uppers().delete(&full.into())?))?);
    }
    let usage = time(|| Ok(pool.uppers().usage(&snapshot.clone().into())?))?;
    println!(
        "create {:.2} ms, clone of 50,000 files {:.2} ms, delete of it {:.2} ms, usage of it {:.0} ms",
        median(create),
        median(clone),
        median(delete),
        usage.as_secs_f64() * 1000.0
    );
    Ok(())
}

fn time<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

/// In milliseconds.
fn median(mut durations: Vec<Duration>) -> f64 {
    durations.sort();
    durations[durations.len() / 2].as_secs_f64() * 1000.0
}
