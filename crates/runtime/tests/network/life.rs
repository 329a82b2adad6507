//! Making, giving back, starting again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use fermata_runtime::RuntimeError;
use fermata_runtime::network::{NetworkConfig, NetworkPool, Policy};

use crate::world::{FAR, PORT, Sandbox, World, eventually, output};

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
        .map(|entries| entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
        .unwrap_or_default()
}

#[test]
fn an_orderly_end_leaves_nothing() {
    let world = World::new();
    let pool = world.open();
    let sandbox = world.acquire(&pool);
    world.set_policy(&pool, &sandbox, &Policy::Blocked);
    world.shut_down(&pool, false);
    assert_eq!(interfaces(), BTreeSet::new());
    assert_eq!(output("nft list tables"), "");
    assert_eq!(pinned(&world), BTreeSet::new());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(world.directory.path().to_str().unwrap()));
}

#[test]
fn sandboxes_outlive_the_server() {
    for orderly in [true, false] {
        let world = World::new();
        let pool = world.open();
        let (open, blocked, gone) = (world.acquire(&pool), world.acquire(&pool), world.acquire(&pool));
        world.set_policy(&pool, &blocked, &Policy::Blocked);
        let mut connection = open.connect(FAR);
        if orderly {
            world.shut_down(&pool, true);
        }
        drop(pool);
        connection.echo().unwrap();
        assert!(open.reaches(FAR), "without a server");
        assert!(!blocked.reaches(FAR));

        let policies =
            BTreeMap::from([(open.slot.number, Policy::Open), (blocked.slot.number, Policy::Blocked), (4000, Policy::Open)]);
        let pool = world.open_with(policies);
        connection.echo().unwrap();
        assert!(open.reaches(FAR));
        assert!(!blocked.reaches(FAR));
        assert_eq!(pool.slot(open.slot.number), Some(open.slot.clone()));
        assert_eq!(pool.slot(4000), None, "it does not exist");
        assert_eq!(pool.slot(gone.slot.number), None, "nobody claimed it");
        eventually("what nobody claimed goes", || !pinned(&world).contains(&gone.slot.number.to_string()));
        assert!(!gone.reaches(FAR), "even for a process that is still in it");
        let next = world.acquire(&pool);
        assert!(![open.slot.number, blocked.slot.number].contains(&next.slot.number));
        assert!(next.reaches(FAR));
        world.shut_down(&pool, false);
        assert_eq!(interfaces(), BTreeSet::new());
    }
}

#[test]
fn a_released_namespace_is_cut_off_and_its_connections_forgotten() {
    let world = World::new();
    let pool = world.open();
    let sandbox = world.acquire(&pool);
    let mut connection = sandbox.connect(FAR);
    let transfer = format!("src=10.201.0.{} ", sandbox.slot.number);
    let known = || std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").ok();
    if let Some(known) = known() {
        assert!(known.contains(&transfer), "{known}");
    }
    world.runtime.block_on(pool.release(sandbox.slot.number));
    world.runtime.block_on(pool.release(sandbox.slot.number));
    eventually("the file goes", || !sandbox.slot.namespace.exists());
    assert!(!connection.hears());
    assert!(!sandbox.reaches(FAR));
    if let Some(known) = known() {
        assert!(!known.contains(&transfer), "{known}");
    }
    world.shut_down(&pool, false);
}

#[test]
fn servers_side_by_side_do_not_meet() {
    let world = World::new();
    let one = world.open();
    let second = NetworkConfig { run_directory: world.directory.path().join("second"), ..world.configuration() };
    let two = world.runtime.block_on(NetworkPool::open(second)).unwrap();
    assert!(matches!(
        world.runtime.block_on(NetworkPool::open(world.configuration())).unwrap_err(),
        RuntimeError::NetworkInUse { .. }
    ));
    let (first, other) = (world.acquire(&one), world.acquire(&two));
    assert!(first.reaches(FAR) && other.reaches(FAR));
    other.inside(|| crate::world::serve_everywhere(PORT));
    assert!(!first.reaches(std::net::Ipv4Addr::new(10, 201, 16, u8::try_from(other.slot.number).unwrap())));
    world.shut_down(&one, false);
    assert!(other.reaches(FAR), "the end of one is not the end of the other");
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
    let pool = world.runtime.block_on(NetworkPool::open(configuration)).unwrap();
    let sandboxes: Vec<Sandbox> = (0..14).map(|_| world.acquire(&pool)).collect();
    assert!(matches!(
        world.runtime.block_on(pool.acquire()).unwrap_err(),
        RuntimeError::NoFreeSlot { in_use: 14 }
    ));
    assert!(sandboxes.iter().all(|sandbox| sandbox.reaches(FAR)));
    world.runtime.block_on(pool.release(sandboxes[3].slot.number));
    eventually("a slot comes back", || world.runtime.block_on(pool.acquire()).is_ok());
    world.shut_down(&pool, false);
}

#[test]
fn a_hundred_one_after_another() {
    let world = World::new();
    let configuration = NetworkConfig { ready: 6, ..world.configuration() };
    let pool = world.runtime.block_on(NetworkPool::open(configuration)).unwrap();
    let mut times = Vec::new();
    let start = Instant::now();
    let sandboxes: Vec<Sandbox> = (0..100)
        .map(|_| {
            let begun = Instant::now();
            let slot = world.runtime.block_on(pool.acquire()).unwrap();
            times.push(begun.elapsed());
            Sandbox::new(slot)
        })
        .collect();
    let total = start.elapsed();
    times.sort_unstable();
    println!("100 at once in {total:?}: median {:?}, last {:?}, first {:?}", times[50], times[99], times[0]);
    let numbers: BTreeSet<u32> = sandboxes.iter().map(|sandbox| sandbox.slot.number).collect();
    assert_eq!(numbers.len(), 100);
    assert!(sandboxes.iter().all(|sandbox| sandbox.reaches(FAR)));
    let start = Instant::now();
    world.shut_down(&pool, false);
    println!("cleared in {:?}", start.elapsed());
    assert_eq!(interfaces(), BTreeSet::new());
    assert!(total < Duration::from_secs(20), "{total:?}");
}

/// Claims are files; an unreadable world says so instead of guessing.
#[test]
fn a_range_that_does_not_do_is_refused() {
    let world = World::new();
    for range in ["2001:db8::/32", "10.0.0.0/28"] {
        let configuration = NetworkConfig { transfer_range: range.parse().unwrap(), ..world.configuration() };
        assert!(matches!(
            world.runtime.block_on(NetworkPool::open(configuration)).unwrap_err(),
            RuntimeError::InvalidNetwork { network } if network == range
        ));
    }
    assert!(!Path::new("/proc/sys/net/ipv4/conf/fermata0-1").exists());
}
