//! Images that somebody has tampered with: they are read or refused, and nothing more than that happens.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;

use fermata_native::capture::Seized;
use fermata_native::image::{Image, PAGES_FILE, State};
use fermata_native::restore::program::{Program, Resources, Waiting};
use fermata_native::restore::tree::plan;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::guest::{GUEST, Guest};

/// What is done to the bytes of an image, at a place that is a fraction of its length.
#[derive(Debug, Clone)]
enum Change {
    Flip(u8),
    Put(u8),
    /// A length as large as they come (postcard writes seven bits a byte).
    PutHugeNumber,
    Insert(u8),
    Remove(u8),
    Cut,
}

fn changes() -> impl Strategy<Value = Vec<(f64, Change)>> {
    let change = prop_oneof![
        4 => (0..8_u8).prop_map(Change::Flip),
        4 => any::<u8>().prop_map(Change::Put),
        4 => Just(Change::PutHugeNumber),
        1 => any::<u8>().prop_map(Change::Insert),
        1 => (1..9_u8).prop_map(Change::Remove),
        1 => Just(Change::Cut),
    ];
    // Nearer to the begin than to the end, where the auxiliary vectors and registers are.
    prop::collection::vec(((0.0..1.0_f64).prop_map(|at| at * at), change), 1..4)
}

fn apply(bytes: &mut Vec<u8>, at: f64, change: &Change) {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a place"
    )]
    let at = (bytes.len() as f64 * at) as usize;
    if at >= bytes.len() {
        return;
    }
    match change {
        Change::Flip(bit) => bytes[at] ^= 1 << bit,
        Change::Put(byte) => bytes[at] = *byte,
        Change::PutHugeNumber => {
            let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
            bytes.splice(at..=at, huge);
        }
        Change::Insert(byte) => bytes.insert(at, *byte),
        Change::Remove(count) => drop(bytes.drain(at..(at + usize::from(*count)).min(bytes.len()))),
        Change::Cut => bytes.truncate(at),
    }
}

/// How far it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reached {
    Nothing,
    Decoded,
    Planned,
    Prepared,
}

/// All that a restore does before anything cannot be undone.
fn read(bytes: &[u8], pages: &File) -> Reached {
    let Ok(image) = Image::decode(bytes) else {
        return Reached::Nothing;
    };
    if plan(&image.processes, &[]).is_err() {
        return Reached::Decoded;
    }
    let resources = Resources {
        pages: pages.as_fd(),
        objects: &[],
        waiting: Waiting {
            failure: 100,
            arrived: 101,
            go: 102,
        },
    };
    let is_prepared = image
        .living()
        .all(|(process, alive)| Program::prepare(process, alive, resources).is_ok());
    if is_prepared {
        Reached::Prepared
    } else {
        Reached::Planned
    }
}

/// Memory that no image of this size explains ends this program.
fn limit_memory() {
    const SPARE_BYTES: u64 = 1 << 30;
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
    let limit = Some(pages * 4096 + SPARE_BYTES);
    setrlimit(
        Resource::As,
        Rlimit {
            current: limit,
            maximum: limit,
        },
    )
    .unwrap();
}

#[test]
fn whatever_is_done_to_an_image_it_is_read_or_refused() {
    let guest = Guest::start(GUEST);
    let directory = tempfile::tempdir().unwrap();
    let seized = Seized::take(guest.pid(), &[guest.pid()]).unwrap();
    let held = seized
        .hold(directory.path(), Vec::new(), Path::new("/"))
        .unwrap();
    seized.let_go();
    held.write(directory.path()).unwrap();
    // As process 1 of a sandbox, which is what can be planned.
    let mut image = Image::read(directory.path()).unwrap();
    let [process] = image.processes.as_mut_slice() else {
        panic!("one process");
    };
    (process.pid, process.parent, process.group, process.session) = (1, 0, 1, 0);
    if let State::Alive(alive) = &mut process.state {
        alive.threads[0].tid = 1;
        alive.threads[1].tid = 2;
    }
    let bytes = image.encode().unwrap();
    let pages = File::open(directory.path().join(PAGES_FILE)).unwrap();
    limit_memory();
    assert_eq!(read(&bytes, &pages), Reached::Prepared);
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        ..Config::with_cases(2000)
    });
    let reached = std::cell::RefCell::new([0_u32; 4]);
    runner
        .run(&changes(), |changes| {
            let mut bytes = bytes.clone();
            for (at, change) in &changes {
                apply(&mut bytes, *at, change);
            }
            reached.borrow_mut()[read(&bytes, &pages) as usize] += 1;
            Ok(())
        })
        .unwrap();
    // Neither only the decoder is tried, nor only what nobody has touched.
    let [nothing, _, planned, prepared] = reached.into_inner();
    assert!(
        nothing > 0 && planned > 0 && prepared > 0,
        "{nothing} {planned} {prepared}"
    );
}
