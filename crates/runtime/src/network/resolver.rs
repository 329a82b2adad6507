//! Which name servers a sandbox is told of.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

/// The host's configuration.
const HOST: &str = "/etc/resolv.conf";
/// What systemd-resolved itself asks; the host's configuration then names only its listener on loopback.
const UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";
/// The C library reads no more (resolv.conf(5), `MAXNS`).
const MOST: usize = 3;

/// Name servers, and the other lines of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resolvers {
    pub(super) name_servers: Vec<Ipv4Addr>,
    others: Vec<String>,
}

impl Resolvers {
    /// As `/etc/resolv.conf`.
    pub(super) fn text(&self) -> String {
        let servers = self
            .name_servers
            .iter()
            .map(|server| format!("nameserver {server}\n"));
        let others = self.others.iter().map(|line| format!("{line}\n"));
        servers.chain(others).collect()
    }
}

/// What this host gives now; `fallback` when it has no name server that a sandbox can reach.
pub(super) fn resolvers(fallback: &[String]) -> Resolvers {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let mut found = parse(&read(HOST), is_own_address);
    if found.name_servers.is_empty() {
        found.name_servers = parse(&read(UPSTREAM), is_own_address).name_servers;
    }
    if found.name_servers.is_empty() {
        found.name_servers = fallback
            .iter()
            .filter_map(|server| server.parse().ok())
            .take(MOST)
            .collect();
    }
    found
}

/// The reachable name servers of a configuration, and its lines about searching and options.
fn parse(text: &str, is_own: impl Fn(Ipv4Addr) -> bool) -> Resolvers {
    let mut resolvers = Resolvers {
        name_servers: Vec::new(),
        others: Vec::new(),
    };
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") => {
                let address = words
                    .next()
                    .and_then(|address| address.parse::<IpAddr>().ok());
                if let Some(IpAddr::V4(address)) = address
                    && resolvers.name_servers.len() < MOST
                    && !(address.is_loopback()
                        || address.is_link_local()
                        || address.is_unspecified())
                    && !is_own(address)
                {
                    resolvers.name_servers.push(address);
                }
            }
            Some("search" | "domain" | "options" | "sortlist") => {
                resolvers.others.push(line.trim().to_owned());
            }
            _ => {}
        }
    }
    resolvers
}

/// Sandboxes cannot reach this host by any of its addresses. Only those can be bound.
fn is_own_address(address: Ipv4Addr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn others_only(address: Ipv4Addr) -> bool {
        address == Ipv4Addr::new(192, 0, 2, 2)
    }

    #[test]
    fn unreachable_name_servers_are_left_out() {
        let host = "# made by hand\nsearch a.example b.example\nnameserver 127.0.0.53\nnameserver ::1\n\
                    nameserver 2001:db8::53\nnameserver 169.254.169.254\nnameserver 192.0.2.2\nnameserver nonsense\n\
                    nameserver 198.51.100.53 # second\noptions ndots:2 edns0\n;nameserver 198.51.100.54\n";
        assert_eq!(
            parse(host, others_only).text(),
            "nameserver 198.51.100.53\nsearch a.example b.example\noptions ndots:2 edns0\n"
        );
    }

    #[test]
    fn no_more_than_the_library_reads() {
        let host =
            "nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\nnameserver 10.0.0.4\n";
        assert_eq!(parse(host, others_only).name_servers.len(), MOST);
    }

    #[test]
    fn loopback_is_an_own_address() {
        assert!(is_own_address(Ipv4Addr::LOCALHOST));
        assert!(!is_own_address(Ipv4Addr::new(198, 51, 100, 1)));
    }
}
