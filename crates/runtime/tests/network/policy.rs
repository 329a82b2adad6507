//! What policies allow, and that a change holds at once.

use std::io::ErrorKind;
use std::net::Ipv4Addr;

use fermata_runtime::RuntimeError;
use fermata_runtime::network::{INSIDE_ADDRESS, Policy};

use crate::world::{
    FAR, METADATA, NEAR, OTHER, PORT, PRIVATE, World, eventually, output, serve_everywhere,
};

fn allow(networks: &[&str]) -> Policy {
    Policy::allow(networks).unwrap()
}

#[test]
fn blocked_reaches_nothing_but_itself() {
    let world = World::new();
    let pool = world.open();
    let (sandbox, other) = (world.acquire(&pool), world.acquire(&pool));
    sandbox.inside(|| serve_everywhere(9000));
    world.set_policy(&pool, &sandbox, &Policy::Blocked);
    for address in [NEAR, FAR, OTHER, PRIVATE, METADATA] {
        assert_eq!(
            sandbox.caller_at(address, PORT).unwrap_err().kind(),
            ErrorKind::ConnectionRefused
        );
        assert!(!sandbox.reaches_by_udp(address, PORT));
    }
    assert!(!sandbox.reaches_by_udp(OTHER, 53), "no name server either");
    assert!(sandbox.caller_at(Ipv4Addr::LOCALHOST, 9000).is_ok());
    assert!(sandbox.caller_at(INSIDE_ADDRESS, 9000).is_ok());
    assert!(other.reaches(FAR), "others are not concerned");
    world.set_policy(&pool, &sandbox, &Policy::Open);
    assert!(sandbox.reaches(FAR));
    world.shut_down(&pool, false);
}

#[test]
fn an_allow_list_allows_only_what_it_names() {
    let world = World::new();
    let pool = world.open();
    let sandbox = world.acquire(&pool);
    let list = allow(&[
        "203.0.113.1",
        "192.168.0.0/16",
        "192.168.7.0/24",
        "2001:db8::/32",
        "169.254.0.0/16",
    ]);
    world.set_policy(&pool, &sandbox, &list);
    assert!(sandbox.reaches(FAR));
    assert!(sandbox.reaches_by_udp(FAR, PORT));
    assert!(sandbox.reaches(PRIVATE));
    assert!(!sandbox.reaches(OTHER));
    assert!(!sandbox.reaches_by_udp(OTHER, PORT));
    assert!(!sandbox.reaches(NEAR));
    assert!(!sandbox.reaches(METADATA), "no list allows that");
    world.set_policy(&pool, &sandbox, &allow(&["203.0.113.2/32"]));
    assert!(sandbox.reaches(OTHER));
    assert!(!sandbox.reaches(FAR), "the list is replaced, not added to");
    world.set_policy(&pool, &sandbox, &allow(&["2001:db8::/32"]));
    assert!(!sandbox.reaches(OTHER), "a list of nothing reachable");
    world.shut_down(&pool, false);
}

#[test]
fn an_allow_list_keeps_the_name_servers() {
    let world = World::new();
    let pool = world.open();
    let sandbox = world.acquire(&pool);
    // The host's own configuration decides which; one of the test's addresses is it only if that has none.
    let configuration = pool.resolver_configuration();
    let server: Ipv4Addr = configuration
        .lines()
        .find_map(|line| line.strip_prefix("nameserver "))
        .and_then(|address| address.parse().ok())
        .unwrap();
    crate::world::inside(&world.internet, || {
        if server != OTHER {
            crate::world::run(&format!("ip address add {server}/32 dev lo"));
            crate::world::serve(server, PORT);
            crate::world::serve(server, 53);
        }
    });
    world.set_policy(&pool, &sandbox, &allow(&["203.0.113.1"]));
    assert!(
        world.acquire(&pool).reaches_by_udp(server, PORT),
        "there is a server"
    );
    assert!(sandbox.reaches_by_udp(server, 53));
    assert!(sandbox.caller_at(server, 53).is_ok());
    assert!(!sandbox.reaches_by_udp(server, PORT), "port 53 only");
    assert!(!sandbox.reaches_by_udp(NEAR, 53), "only those name servers");
    world.shut_down(&pool, false);
}

#[test]
fn a_change_ends_connections() {
    let world = World::new();
    let pool = world.open();
    let sandbox = world.acquire(&pool);
    let (mut kept, mut cut, mut quiet) = (
        sandbox.connect(FAR),
        sandbox.connect(OTHER),
        sandbox.connect(OTHER),
    );
    kept.echo().unwrap();
    cut.echo().unwrap();
    world.set_policy(&pool, &sandbox, &allow(&["203.0.113.1"]));
    kept.echo().unwrap();
    assert_eq!(cut.echo().unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(!quiet.hears());
    world.set_policy(&pool, &sandbox, &Policy::Blocked);
    assert_eq!(kept.echo().unwrap_err().kind(), ErrorKind::ConnectionReset);
    world.shut_down(&pool, false);
}

#[test]
fn connections_from_inside_to_inside_outlive_a_block() {
    let world = World::new();
    let pool = world.open();
    let sandbox = world.acquire(&pool);
    sandbox.inside(|| serve_everywhere(PORT));
    // As a port of a sandbox is reached: by a socket made in its namespace.
    let (mut local, mut own) = (
        sandbox.connect(Ipv4Addr::LOCALHOST),
        sandbox.connect(INSIDE_ADDRESS),
    );
    world.set_policy(&pool, &sandbox, &Policy::Blocked);
    local.echo().unwrap();
    own.echo().unwrap();
    world.shut_down(&pool, false);
}

#[test]
fn nonsense_and_strangers_are_refused() {
    let world = World::new();
    let pool = world.open();
    let sandbox = world.acquire(&pool);
    let number = sandbox.slot.number;
    assert!(matches!(
        world
            .runtime
            .block_on(pool.set_policy(number + 1000, &Policy::Blocked))
            .unwrap_err(),
        RuntimeError::UnknownSlot { .. }
    ));
    world.runtime.block_on(pool.release(number));
    assert!(matches!(
        world
            .runtime
            .block_on(pool.set_policy(number, &Policy::Blocked))
            .unwrap_err(),
        RuntimeError::UnknownSlot { .. }
    ));
    world.shut_down(&pool, false);
}

#[test]
fn a_policy_does_not_outlive_its_sandbox() {
    let world = World::new();
    let pool = world.open();
    let sandbox = world.acquire(&pool);
    let chain = format!("outbound_{} ", sandbox.slot.number);
    world.set_policy(&pool, &sandbox, &Policy::Blocked);
    assert!(output("nft list ruleset").contains(&chain));
    world.runtime.block_on(pool.release(sandbox.slot.number));
    eventually("the rules go", || {
        !output("nft list ruleset").contains(&chain)
    });
    world.shut_down(&pool, false);
}

#[test]
fn many_policies_side_by_side() {
    let world = World::new();
    let pool = world.open();
    let list: Vec<String> = (0..64)
        .map(|n| format!("172.16.{n}.0/25"))
        .chain([])
        .collect();
    let sandboxes: Vec<_> = (0..20).map(|_| world.acquire(&pool)).collect();
    for sandbox in &sandboxes {
        world.set_policy(&pool, sandbox, &Policy::allow(&list).unwrap());
    }
    let last = sandboxes.last().unwrap();
    world.set_policy(&pool, last, &allow(&["203.0.113.1"]));
    assert!(last.reaches(FAR));
    assert!(!sandboxes[0].reaches(FAR));
    world.shut_down(&pool, false);
}
