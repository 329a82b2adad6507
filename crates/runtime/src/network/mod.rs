//! The network of sandboxes: ready-made namespaces, their way out, and what they may not reach.
//!
//! ```text
//!   sandbox (netns)                          host
//!  ┌────────────────────────┐
//!  │ lo    127.0.0.1  ::1   │        fermata0-7 ── route to 10.201.0.7
//!  │ eth0  10.254.254.2/30  │ ═════════╝   │
//!  │       as 10.201.0.7 ►  │              ├─ table inet fermata_0: arrival, policy, masquerade ──► uplink
//!  └────────────────────────┘              └─ nothing to this host, other sandboxes, cloud metadata
//! ```
//!
//! Inside, everything that a program can hold on to is the same in every sandbox: address, gateway, hardware address and
//! interface index. Only the *transfer address*, by which the host tells slots apart, is not; rules inside translate to it,
//! and the host accepts nothing else from that interface.
//!
//! The only way in is a socket made inside the namespace. Nothing outside, the host's own programs included, can open a
//! connection to a sandbox through the wire.
//!
//! Should something flush the host's rules (`nft flush ruleset`, a restart of a firewall service), ours are put back at once.
//!
//! Decisions: private networks (the host's LAN) are reachable, as with Docker, unless
//! [`NetworkConfig::refused_networks`] names them. There is no outbound IPv6. With an allow-list, the name servers stay
//! reachable on port 53, or the names in it would be of no use; who needs more gives addresses and `refused_networks`.
//! What is not allowed is refused at once (TCP reset, ICMP), not dropped: programs should fail, not hang.

mod background;
mod check;
mod cidr;
mod clearing;
mod conntrack;
mod firewall;
mod guard;
mod instance;
mod link;
mod namespace;
mod netlink;
mod policy;
mod pool;
mod resolver;
mod stock;
mod translation;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

pub use check::{Finding, check};
pub use cidr::Cidr;
pub use policy::{ALLOW_LIST_LIMIT, Policy};
pub use pool::NetworkPool;

/// The address of `eth0` in every sandbox.
pub const INSIDE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 254, 254, 2);
/// The next hop in every sandbox. Nobody has this address; packets to it are refused.
const INSIDE_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 254, 254, 1);
/// Of the network of the two.
const INSIDE_PREFIX: u8 = 30;
/// Interfaces of sandboxes, of whatever instance, begin with this; nothing else on a host should.
const INTERFACE_PREFIX: &str = "fermata";

/// How the network of a server is set up.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Namespaces are pinned under `netns` in here. One server a directory.
    pub run_directory: PathBuf,
    /// Where the servers of this machine tell each other their numbers.
    pub claims_directory: PathBuf,
    /// How many ready-made namespaces to keep.
    pub ready: usize,
    /// Slots that sandboxes of an earlier server have, with the policies that must hold for them. All others are cleared away.
    pub in_use: BTreeMap<u32, Policy>,
    /// Name servers for sandboxes when the host has none that can be reached from inside.
    pub name_servers: Vec<String>,
    /// IPv4 addresses by which hosts tell slots apart: not used elsewhere in the host's network, at least a /24; the servers of a
    /// machine share it, a sixteenth each.
    pub transfer_range: Cidr,
    /// Out of reach for every sandbox, besides what always is.
    pub refused_networks: Vec<Cidr>,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            run_directory: PathBuf::from("/run/fermata"),
            claims_directory: PathBuf::from("/run/fermata/network"),
            ready: 6,
            in_use: BTreeMap::new(),
            name_servers: Vec::new(),
            transfer_range: Cidr::new(Ipv4Addr::new(10, 201, 0, 0).into(), 16),
            refused_networks: Vec::new(),
        }
    }
}

/// A network namespace that a sandbox may live in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its number in the pool.
    pub number: u32,
    /// Where it is mounted.
    pub namespace: PathBuf,
    /// The host's switch for packets that come from it; on.
    pub forwarding: PathBuf,
}
