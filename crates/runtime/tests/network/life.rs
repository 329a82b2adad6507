//! Making, giving back, starting again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fermata_runtime::RuntimeError;
use fermata_runtime::network::{NetworkConfig, NetworkPool, Policy};

use crate::world::{FAR, METADATA, PORT, Sandbox, World, configuration, eventually, output, run};

fn interfaces() -> BTreeSet<String> {
    let links = output("ip -o link");
    links
        .lines()
        .filter_map(|line| line.split(": ").nth(1)?.split('@').next())
        .filter(|name| name.starts_with("fermata"))
        .map(str::to_owned)
        .collect()
}

fn pinned(world: &World) -> BTreeSet<String> {
    let directory = world.directory.path().join("run/netns");
    std::fs::read_dir(directory)
        .map(|entries| {
            entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect()
        })
        .unwrap_or_default()
}

fn assert_nothing_left(world: &World) {
    assert_eq!(interfaces(), BTreeSet::new());
    assert_eq!(output("nft list tables"), "");
    assert_eq!(pinned(world), BTreeSet::new());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(world.directory.path().to_str().unwrap()));
}

#[test]
fn an_orderly_end_leaves_nothing() {
    let world = World::new();
    let pool = world.open();
    let sandbox = world.acquire(&pool);
    world.set_policy(&pool, &sandbox, &Policy::Blocked);
    world.shut_down(&pool, false);
    assert_nothing_left(&world);
}

#[test]
fn sandboxes_outlive_the_server() {
    for orderly in [true, false] {
        let world = World::new();
        let pool = world.open();
        let (open, blocked, gone) = (
            world.acquire(&pool),
            world.acquire(&pool),
            world.acquire(&pool),
        );
        world.set_policy(&pool, &blocked, &Policy::Blocked);
        let mut connection = open.connect(FAR);
        if orderly {
            world.shut_down(&pool, true);
        }
        drop(pool);
        connection.echo().unwrap();
        assert!(open.reaches(FAR), "without a server");
        assert!(!blocked.reaches(FAR));

        let policies = BTreeMap::from([
            (open.slot.number, Policy::Open),
            (blocked.slot.number, Policy::Blocked),
            (4000, Policy::Open),
        ]);
        let pool = world.open_with(policies);
        connection.echo().unwrap();
        assert!(open.reaches(FAR));
        assert!(!blocked.reaches(FAR));
        assert_eq!(pool.slot(open.slot.number), Some(open.slot.clone()));
        assert_eq!(pool.slot(4000), None, "it does not exist");
        assert_eq!(pool.slot(gone.slot.number), None, "nobody claimed it");
        assert!(!gone.reaches(FAR), "even for a process that is still in it");
        let next = world.acquire(&pool);
        assert!(![open.slot.number, blocked.slot.number].contains(&next.slot.number));
        assert!(next.reaches(FAR));
        world.shut_down(&pool, false);
        assert_eq!(interfaces(), BTreeSet::new());
    }
}

#[test]
fn a_released_namespace_is_cut_off() {
    let world = World::new();
    let pool = world.open();
    let sandbox = world.acquire(&pool);
    let mut connection = sandbox.connect(FAR);
    world.runtime.block_on(pool.release(sandbox.slot.number));
    world.runtime.block_on(pool.release(sandbox.slot.number));
    eventually("the file goes", || !sandbox.slot.namespace.exists());
    assert!(!connection.hears());
    assert!(!sandbox.reaches(FAR));
    world.shut_down(&pool, false);
}

#[test]
fn a_new_user_of_a_slot_inherits_no_connections() {
    let world = World::new();
    let few = NetworkConfig {
        transfer_range: "10.77.0.0/24".parse().unwrap(),
        ready: 0,
        ..world.configuration()
    };
    let pool = world.runtime.block_on(NetworkPool::open(few)).unwrap();
    let known = |sandbox: &Sandbox| {
        let connections = std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap();
        connections.contains(&format!("src=10.77.0.{} ", sandbox.slot.number))
    };
    let mut seen = BTreeSet::new();
    let mut again = 0;
    while again < 3 {
        let sandbox = world.acquire(&pool);
        again += usize::from(!seen.insert(sandbox.slot.number));
        assert!(!known(&sandbox));
        let _open = sandbox.connect(FAR);
        assert!(known(&sandbox));
        world.runtime.block_on(pool.release(sandbox.slot.number));
    }
    world.shut_down(&pool, false);
}

#[test]
fn servers_side_by_side_do_not_meet() {
    let world = World::new();
    let one = world.open();
    let second = NetworkConfig {
        run_directory: world.directory.path().join("second"),
        ..world.configuration()
    };
    let two = world.runtime.block_on(NetworkPool::open(second)).unwrap();
    assert!(matches!(
        world
            .runtime
            .block_on(NetworkPool::open(world.configuration()))
            .unwrap_err(),
        RuntimeError::NetworkInUse { .. }
    ));
    let (first, other) = (world.acquire(&one), world.acquire(&two));
    assert!(first.reaches(FAR) && other.reaches(FAR));
    other.inside(|| crate::world::serve_everywhere(PORT));
    assert!(!first.reaches(std::net::Ipv4Addr::new(
        10,
        201,
        16,
        u8::try_from(other.slot.number).unwrap()
    )));
    world.shut_down(&one, false);
    assert!(
        other.reaches(FAR),
        "the end of one is not the end of the other"
    );
    world.shut_down(&two, false);
    assert_eq!(interfaces(), BTreeSet::new());
}

#[test]
fn slots_run_out_with_a_word() {
    let world = World::new();
    let configuration = NetworkConfig {
        // A sixteenth of it has 16 addresses.
        transfer_range: "10.77.0.0/24".parse().unwrap(),
        ready: 0,
        ..world.configuration()
    };
    let pool = world
        .runtime
        .block_on(NetworkPool::open(configuration))
        .unwrap();
    let sandboxes: Vec<Sandbox> = (0..14).map(|_| world.acquire(&pool)).collect();
    assert!(matches!(
        world.runtime.block_on(pool.acquire()).unwrap_err(),
        RuntimeError::NoFreeSlot { in_use: 14 }
    ));
    assert!(sandboxes.iter().all(|sandbox| sandbox.reaches(FAR)));
    world
        .runtime
        .block_on(pool.release(sandboxes[3].slot.number));
    eventually("a slot comes back", || {
        world.runtime.block_on(pool.acquire()).is_ok()
    });
    world.shut_down(&pool, false);
}

#[test]
fn a_hundred_one_after_another() {
    let world = World::new();
    let pool = world.open();
    let sandboxes: Vec<Sandbox> = (0..100).map(|_| world.acquire(&pool)).collect();
    let numbers: BTreeSet<u32> = sandboxes
        .iter()
        .map(|sandbox| sandbox.slot.number)
        .collect();
    assert_eq!(numbers.len(), 100);
    assert!(sandboxes.iter().all(|sandbox| sandbox.reaches(FAR)));
    world.shut_down(&pool, false);
    assert_nothing_left(&world);
}

#[test]
fn flushed_rules_come_back() {
    let world = World::new();
    let pool = world.open();
    let (open, blocked) = (world.acquire(&pool), world.acquire(&pool));
    world.set_policy(&pool, &blocked, &Policy::Blocked);
    for _ in 0..3 {
        run("nft flush ruleset");
        eventually("the rules come back", || {
            output("nft list tables").contains("fermata_0")
        });
        assert!(open.reaches(FAR));
        assert!(!blocked.reaches(FAR));
        assert!(!open.reaches(METADATA));
    }
    run("nft add table inet other");
    run("nft delete table inet other");
    world.set_policy(&pool, &blocked, &Policy::Open);
    assert!(blocked.reaches(FAR), "other tables are not its business");
    world.shut_down(&pool, false);
    assert_nothing_left(&world);
}

#[test]
fn killed_at_any_instant_the_next_start_cleans() {
    let world = World::new();
    for round in 0..10_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "life::victim", "--ignored", "--nocapture"])
            .env(VICTIM_DIRECTORY, world.directory.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // The instant is the point: from its first steps to its second life.
        std::thread::sleep(Duration::from_millis(17 + 53 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let pool = world.open();
        assert!(world.acquire(&pool).reaches(FAR));
        world.shut_down(&pool, false);
        assert_nothing_left(&world);
    }
}

const VICTIM_DIRECTORY: &str = "FERMATA_TEST_VICTIM_DIRECTORY";

#[test]
#[ignore = "run, and killed, by another test"]
fn victim() {
    let directory = std::env::var_os(VICTIM_DIRECTORY).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        loop {
            let pool = NetworkPool::open(configuration(Path::new(&directory)))
                .await
                .unwrap();
            for _ in 0..5 {
                let (one, two) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
                pool.set_policy(one.number, &Policy::Blocked).await.unwrap();
                pool.release(one.number).await;
                pool.set_policy(two.number, &Policy::allow(&["203.0.113.1"]).unwrap())
                    .await
                    .unwrap();
            }
        }
    });
}

#[test]
#[ignore = "a measurement"]
fn measure() {
    let world = World::new();
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        format!(
            "median {:?}, worst {:?}",
            times[times.len() / 2],
            times[times.len() - 1]
        )
    };
    let timed = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    let none = NetworkConfig {
        ready: 0,
        ..world.configuration()
    };
    let pool = world.runtime.block_on(NetworkPool::open(none)).unwrap();
    let mut numbers = Vec::new();
    let mut make = || numbers.push(world.acquire(&pool).slot.number);
    println!(
        "make one: {}",
        median((0..100).map(|_| timed(&mut make)).collect())
    );
    let list: Vec<String> = (0..64).map(|n| format!("172.16.{n}.0/25")).collect();
    let list = Policy::allow(&list).unwrap();
    for (name, policy) in [
        ("block", &Policy::Blocked),
        ("allow 64", &list),
        ("open", &Policy::Open),
    ] {
        let times = numbers.iter().map(|number| {
            timed(&mut || {
                world
                    .runtime
                    .block_on(pool.set_policy(*number, policy))
                    .unwrap();
            })
        });
        println!("{name}: {}", median(times.collect()));
    }
    println!(
        "clear 100: {:?}",
        timed(&mut || world.shut_down(&pool, false))
    );

    let stock = NetworkConfig {
        ready: 8,
        ..world.configuration()
    };
    let pool = world.runtime.block_on(NetworkPool::open(stock)).unwrap();
    for rate in [20_u32, 50, 100] {
        std::thread::sleep(Duration::from_secs(1));
        let start = Instant::now();
        let mut times = Vec::new();
        for turn in 0..rate * 5 {
            let due = Duration::from_secs(1) / rate * turn;
            std::thread::sleep(due.saturating_sub(start.elapsed()));
            let mut number = 0;
            times.push(timed(&mut || {
                number = world.runtime.block_on(pool.acquire()).unwrap().number;
            }));
            world.runtime.block_on(pool.release(number));
        }
        let elapsed = start.elapsed();
        println!(
            "acquire and release at {rate}/s: {}, took {elapsed:?} of 5 s",
            median(times)
        );
    }
    world.shut_down(&pool, false);
}

#[test]
fn a_range_that_does_not_do_is_refused() {
    let world = World::new();
    for range in ["2001:db8::/32", "10.0.0.0/28"] {
        let configuration = NetworkConfig {
            transfer_range: range.parse().unwrap(),
            ..world.configuration()
        };
        assert!(matches!(
            world.runtime.block_on(NetworkPool::open(configuration)).unwrap_err(),
            RuntimeError::InvalidNetwork { network } if network == range
        ));
    }
    assert_eq!(interfaces(), BTreeSet::new());
}
