//! What a sandbox reaches, and what it does not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};

use fermata_runtime::network::{INSIDE_ADDRESS, NetworkConfig, NetworkPool};

use crate::world::{
    Connection, FAR, HOST, METADATA, NEAR, OTHER, PORT, PRIVATE, World, add_wire, eventually,
    inside, new_namespace, output, run, serve, serve_everywhere,
};

#[test]
fn the_way_out_is_translated_to_the_host() {
    let world = World::new();
    let pool = world.open();
    let sandbox = world.acquire(&pool);
    for address in [NEAR, FAR, PRIVATE] {
        assert_eq!(sandbox.caller_at(address, PORT).unwrap(), IpAddr::V4(HOST));
        assert!(sandbox.reaches_by_udp(address, PORT));
    }
    world.shut_down(&pool, false);
}

#[test]
fn the_same_inside_for_every_sandbox() {
    let world = World::new();
    let pool = world.open();
    let look = || {
        ["ip -o address", "ip route", "cat /sys/class/net/lo/ifindex"]
            .map(output)
            .join("")
            + output("ip -o link show eth0")
                .split("link/ether")
                .nth(1)
                .unwrap()
                .split(' ')
                .nth(1)
                .unwrap()
    };
    let looks: Vec<String> = (0..4).map(|_| world.acquire(&pool).inside(look)).collect();
    assert!(
        looks[0].contains("2: eth0    inet 10.254.254.2/30"),
        "{}",
        looks[0]
    );
    assert!(
        looks[0].contains("127.0.0.1/8") && looks[0].contains("::1/128"),
        "{}",
        looks[0]
    );
    assert!(!looks[0].contains("fe80:"), "no IPv6 on eth0: {}", looks[0]);
    assert!(looks.iter().all(|look| *look == looks[0]), "{looks:?}");
    world.shut_down(&pool, false);
}

#[test]
fn cloud_metadata_is_out_of_reach() {
    let world = World::new();
    let pool = world.open();
    let sandbox = world.acquire(&pool);
    let from_host = Connection::open((METADATA, PORT).into()).unwrap();
    assert_eq!(
        from_host.caller,
        IpAddr::V4(HOST),
        "the test's own server answers the host"
    );
    let refusal = sandbox.caller_at(METADATA, PORT).unwrap_err();
    assert_eq!(
        refusal.kind(),
        std::io::ErrorKind::ConnectionRefused,
        "at once, not after a timeout"
    );
    assert!(!sandbox.reaches_by_udp(METADATA, PORT));
    assert!(!sandbox.reaches(Ipv4Addr::new(100, 100, 100, 200)));
    let amazon = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    assert!(sandbox.caller_at(amazon, PORT).is_err());
    world.shut_down(&pool, false);
}

#[test]
fn refused_networks_are_out_of_reach() {
    let world = World::new();
    let pool = world
        .runtime
        .block_on(NetworkPool::open(NetworkConfig {
            refused_networks: vec![
                "192.168.0.0/16".parse().unwrap(),
                "192.168.7.0/24".parse().unwrap(),
            ],
            ..world.configuration()
        }))
        .unwrap();
    let sandbox = world.acquire(&pool);
    assert!(!sandbox.reaches(PRIVATE));
    assert!(sandbox.reaches(FAR));
    world.shut_down(&pool, false);
}

#[test]
fn sandboxes_do_not_reach_each_other() {
    let world = World::new();
    let pool = world.open();
    let (one, two) = (world.acquire(&pool), world.acquire(&pool));
    two.inside(|| serve_everywhere(PORT));
    for address in [Ipv4Addr::LOCALHOST, INSIDE_ADDRESS] {
        assert!(
            two.reaches(address),
            "the server in it answers itself at {address}"
        );
        assert!(
            !one.reaches(address),
            "in the other, {address} is the other's own"
        );
    }
    let transfer = Ipv4Addr::new(10, 201, 0, u8::try_from(two.slot.number).unwrap());
    assert!(!one.reaches(transfer));
    assert!(!one.reaches_by_udp(transfer, PORT));
    assert!(
        !one.reaches(Ipv4Addr::new(10, 254, 254, 1)),
        "the gateway is nobody"
    );
    assert!(
        Connection::open((transfer, PORT).into()).is_err(),
        "nor does the host reach it by the wire"
    );
    world.shut_down(&pool, false);
}

#[test]
fn the_host_is_out_of_reach() {
    let world = World::new();
    let pool = world.open();
    let sandbox = world.acquire(&pool);
    serve_everywhere(PORT);
    serve(Ipv4Addr::LOCALHOST, 8081);
    run("ip address add 192.0.2.77/32 dev lo");
    for address in [
        HOST,
        Ipv4Addr::new(192, 0, 2, 77),
        Ipv4Addr::new(10, 254, 254, 1),
    ] {
        let answers = Connection::open((address, PORT).into()).is_ok();
        assert_eq!(
            answers,
            address != Ipv4Addr::new(10, 254, 254, 1),
            "the host answers itself at {address}"
        );
        assert!(!sandbox.reaches(address), "{address}");
        assert!(!sandbox.reaches_by_udp(address, PORT), "{address}");
    }
    assert!(Connection::open((Ipv4Addr::LOCALHOST, 8081).into()).is_ok());
    assert!(sandbox.caller_at(Ipv4Addr::LOCALHOST, 8081).is_err());
    world.shut_down(&pool, false);
}

#[test]
fn published_ports_of_the_host_are_out_of_reach() {
    let world = World::new();
    let pool = world.open();
    let sandbox = world.acquire(&pool);
    // As a container engine publishes a port: connections to the host's address go on to a container.
    let container = new_namespace();
    add_wire("container", "eth0", &container);
    run("ip address add 192.0.2.1/24 dev container");
    run("ip link set container up");
    inside(&container, || {
        run("ip address add 192.0.2.9/24 dev eth0");
        run("ip link set eth0 up");
        run("ip route add default via 192.0.2.1");
        serve_everywhere(PORT);
    });
    eventually("the wire carries", || {
        output("ip -o link show container").contains("state UP")
    });
    run("nft add table ip published");
    run("nft add chain ip published in { type nat hook prerouting priority dstnat ; }");
    run("nft add rule ip published in ip daddr 198.51.100.2 tcp dport 9000 dnat to 192.0.2.9:8080");
    let published = inside(&world.internet, || {
        Connection::open((HOST, 9000).into()).is_ok()
    });
    assert!(published, "the rule works for others");
    assert!(sandbox.caller_at(HOST, 9000).is_err());
    world.shut_down(&pool, false);
}

#[test]
fn the_host_is_out_of_reach_by_ipv6() {
    let world = World::new();
    let pool = world.open();
    let sandbox = world.acquire(&pool);
    let address: Ipv6Addr = "2001:db8::2".parse().unwrap();
    let listener = TcpListener::bind((address, PORT)).unwrap();
    // As strong as a sandbox can never be: with IPv6 turned on, an address, a route and the neighbour set by hand.
    sandbox.inside(|| {
        std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "0").unwrap();
        for command in [
            "ip -6 address add 2001:db8:1::1/64 dev eth0 nodad",
            "ip -6 route add 2001:db8::/64 dev eth0",
        ] {
            run(command);
        }
    });
    run("ip -6 route add 2001:db8:1::/64 dev uplink");
    listener.set_nonblocking(true).unwrap();
    let attempt = sandbox.inside(|| {
        std::net::TcpStream::connect_timeout(&(address, PORT).into(), crate::world::SHORT)
    });
    assert!(attempt.is_err());
    assert_eq!(
        listener.accept().unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock
    );
    world.shut_down(&pool, false);
}

#[test]
fn forged_senders_are_dropped() {
    let world = World::new();
    let pool = world.open();
    let (one, two) = (world.acquire(&pool), world.acquire(&pool));
    let own = Ipv4Addr::new(10, 201, 0, u8::try_from(one.slot.number).unwrap());
    let others = Ipv4Addr::new(10, 201, 0, u8::try_from(two.slot.number).unwrap());
    let sink = inside(&world.internet, || crate::frame::sink(9001));
    // Frames that no rule inside the namespace sees. The one from the transfer address proves that the way is open.
    for (sender, number) in [
        (FAR, 1_u8),
        (others, 2),
        (INSIDE_ADDRESS, 3),
        (HOST, 4),
        (Ipv4Addr::LOCALHOST, 5),
        (own, 6),
    ] {
        one.inside(|| crate::frame::send_udp(sender, OTHER, 9001, number));
    }
    assert_eq!(
        sink.recv().unwrap(),
        (IpAddr::V4(HOST), 6),
        "only the own address passes"
    );
    // Below all rules of the namespace, metadata and a blocked network stay out of reach.
    one.inside(|| crate::frame::send_udp(own, METADATA, 9001, 7));
    world.set_policy(&pool, &one, &fermata_runtime::network::Policy::Blocked);
    one.inside(|| crate::frame::send_udp(own, OTHER, 9001, 8));
    world.set_policy(&pool, &one, &fermata_runtime::network::Policy::Open);
    one.inside(|| crate::frame::send_udp(own, OTHER, 9001, 9));
    assert_eq!(sink.recv().unwrap(), (IpAddr::V4(HOST), 9));
    world.shut_down(&pool, false);
}
