//! The rules. Everything that keeps a sandbox in is enforced on the host's side of the wire: a process with `CAP_NET_RAW`
//! (which Docker's default gives) can send frames past every rule in its own namespace.
//!
//! ```text
//! sandbox ─► [snat to the transfer address] ═ eth0 ══ fermataI-N ═►
//!   arrival   raw      not IPv4, not from its own address: dropped; to this host or a refused network: refused
//!   outbound  forward  to another sandbox: refused; then the slot's policy ─► masqueraded on the way out
//!   inbound   forward  answers only; then the slot's policy
//! ```
//!
//! One table an instance. Rules know sandboxes by interface name and by the route to their address, so that a new one needs no
//! change here; only a policy other than open adds two chains and two map elements. Policies look at every packet, not only at
//! the first of a connection: a change also holds for connections that are there.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, flock};

use super::cidr::{Cidr, disjoint_ipv4};
use super::instance::Instance;
use super::namespace::{file, system};
use super::policy::Policy;
use super::{INSIDE_ADDRESS, INSIDE_PREFIX, INTERFACE_PREFIX};
use crate::RuntimeError;

/// Never reachable. Metadata services give out credentials: of most clouds (link-local, so all of it), and of Alibaba. The
/// rest has no meaning outside one host. IPv6 is dropped as a whole.
const ALWAYS_REFUSED: [&str; 5] = [
    "169.254.0.0/16",
    "100.100.100.200",
    "0.0.0.0/8",
    "127.0.0.0/8",
    "224.0.0.0/3",
];

/// Connections that one sandbox may have open through the host, whose table of them all share: 262,144 by default.
const CONNECTION_LIMIT: u32 = 16_384;

/// What the rules of an instance follow from.
#[derive(Debug)]
pub(super) struct Rules<'a> {
    pub(super) instance: &'a Instance,
    pub(super) refused: &'a [Cidr],
    pub(super) name_servers: &'a [Ipv4Addr],
}

impl Rules<'_> {
    /// The whole table, replacing whatever is there in one transaction.
    pub(super) fn table(&self, policies: &BTreeMap<u32, Policy>) -> String {
        let table = self.instance.table();
        let ours = format!("\"{}*\"", self.instance.interface_prefix());
        let all = format!("\"{INTERFACE_PREFIX}*\"");
        let range = self.instance.range();
        let refused = list(&disjoint_ipv4(&self.all_refused()));
        let mut text = format!(
            r"add table inet {table}
delete table inet {table}
table inet {table} {{
  map outbound_policies {{ type ifname : verdict; }}
  map inbound_policies {{ type ifname : verdict; }}
  set connections {{ type ipv4_addr; size 4096; flags dynamic; }}
  chain refuse {{
    meta l4proto tcp reject with tcp reset
    reject with icmpx admin-prohibited
  }}
  chain arrival {{
    type filter hook prerouting priority raw; policy accept;
    iifname != {ours} accept
    meta nfproto != ipv4 drop
    ip saddr != {range} drop
    fib saddr . iif oif missing drop
    fib daddr type != unicast goto refuse
    ip daddr {refused} goto refuse
  }}
  chain to_host {{
    type filter hook input priority filter - 10; policy accept;
    iifname {ours} drop
  }}
  chain through {{
    type filter hook forward priority filter - 10; policy accept;
    iifname {ours} goto outbound
    oifname {ours} goto inbound
  }}
  chain outbound {{
    oifname {all} goto refuse
    ct state new add @connections {{ ip saddr ct count over {CONNECTION_LIMIT} }} drop
    iifname vmap @outbound_policies
  }}
  chain inbound {{
    ct state != {{ established, related }} drop
    oifname vmap @inbound_policies
  }}
  chain leave {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {range} oifname != {all} masquerade
  }}
}}
"
        );
        for (slot, policy) in policies {
            text.push_str(&self.policy(*slot, policy));
        }
        text
    }

    fn all_refused(&self) -> Vec<Cidr> {
        let always = ALWAYS_REFUSED
            .iter()
            .filter_map(|network| network.parse().ok());
        let inside = Cidr::new(INSIDE_ADDRESS.into(), INSIDE_PREFIX);
        always
            .chain([inside])
            .chain(self.refused.iter().copied())
            .collect()
    }

    /// Puts a slot's policy in force, whatever was before, in one transaction.
    pub(super) fn policy(&self, slot: u32, policy: &Policy) -> String {
        let (outbound, inbound) = match policy {
            Policy::Open => return self.no_policy([slot]),
            Policy::Blocked => (String::new(), String::new()),
            Policy::Allow(networks) => self.allowed(networks),
        };
        let table = self.instance.table();
        let mut text = self.anchor(slot);
        for (direction, accepted, end) in [
            ("outbound", outbound, "goto refuse"),
            ("inbound", inbound, "drop"),
        ] {
            let chain = format!("inet {table} {direction}_{slot}");
            _ = writeln!(text, "flush chain {chain}");
            for rule in accepted.lines().chain([end]) {
                _ = writeln!(text, "add rule {chain} {rule}");
            }
        }
        text
    }

    /// One rule a line, for the two directions.
    fn allowed(&self, networks: &[Cidr]) -> (String, String) {
        let (mut outbound, mut inbound) = (String::new(), String::new());
        let networks = disjoint_ipv4(networks);
        if !networks.is_empty() {
            let networks = list(&networks);
            _ = writeln!(outbound, "ip daddr {networks} accept");
            _ = writeln!(inbound, "ip saddr {networks} accept");
        }
        if !self.name_servers.is_empty() {
            let servers: Vec<Cidr> = self.name_servers.iter().copied().map(Cidr::from).collect();
            let servers = list(&disjoint_ipv4(&servers));
            _ = writeln!(
                outbound,
                "ip daddr {servers} meta l4proto {{ tcp, udp }} th dport 53 accept"
            );
            _ = writeln!(
                inbound,
                "ip saddr {servers} meta l4proto {{ tcp, udp }} th sport 53 accept"
            );
        }
        // What a router on the way has to say of an allowed connection, such as that packets are too long.
        inbound.push_str("ct state related meta l4proto icmp accept\n");
        (outbound, inbound)
    }

    /// Takes the policies of slots away, of which there may be none.
    pub(super) fn no_policy(&self, slots: impl IntoIterator<Item = u32>) -> String {
        let table = self.instance.table();
        let mut text = String::new();
        for slot in slots {
            // Deleting what is not there is an error, adding what is there is none.
            text.push_str(&self.anchor(slot));
            let interface = self.instance.interface(slot);
            for direction in ["outbound", "inbound"] {
                _ = write!(
                    text,
                    "delete element inet {table} {direction}_policies {{ \"{interface}\" }}\n\
                     flush chain inet {table} {direction}_{slot}\n\
                     delete chain inet {table} {direction}_{slot}\n"
                );
            }
        }
        text
    }

    /// Adds a slot's chains and the way to them.
    fn anchor(&self, slot: u32) -> String {
        let table = self.instance.table();
        let interface = self.instance.interface(slot);
        let mut text = String::new();
        for direction in ["outbound", "inbound"] {
            _ = write!(
                text,
                "add chain inet {table} {direction}_{slot}\n\
                 add element inet {table} {direction}_policies {{ \"{interface}\" : goto {direction}_{slot} }}\n"
            );
        }
        text
    }
}

/// Removes an instance's table, of which there may be none.
pub(super) fn no_table(instance: &Instance) -> String {
    let table = instance.table();
    format!("add table inet {table}\ndelete table inet {table}\n")
}

fn list(networks: &[Cidr]) -> String {
    let networks: Vec<String> = networks.iter().map(Cidr::to_string).collect();
    format!("{{ {} }}", networks.join(", "))
}

/// Changes the host's rules. Its lock is inherited by each `nft` (as standard output, to which that has nothing to say): one
/// that outlives a killed server is waited for by the next, and cannot undo what that does.
#[derive(Debug)]
pub(super) struct RuleWriter {
    lock: File,
}

impl RuleWriter {
    /// For the one server that has the claim; waits for `nft` processes of an earlier one.
    pub(super) fn open(path: &Path) -> Result<Self, RuntimeError> {
        let lock = File::create(path).map_err(file("make", path))?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(|errno| file("lock", path)(errno.into()))?;
        Ok(Self { lock })
    }

    /// Applies rules in the namespace of the calling thread.
    pub(super) fn apply(&self, rules: &str) -> Result<(), RuntimeError> {
        let lock = self
            .lock
            .try_clone()
            .map_err(system("duplicate a descriptor"))?;
        nft(rules, lock)
    }
}

/// Gives `nft` one transaction: all of it holds afterwards, or nothing.
fn nft(rules: &str, output: File) -> Result<(), RuntimeError> {
    let failed = |source| RuntimeError::Spawn {
        program: "nft",
        source,
    };
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(output)
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // It reads all of its input before it says anything, so this cannot block for good; and when it has died early,
        // its exit code and its words tell more than the broken pipe.
        _ = stdin.write_all(rules.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    Err(RuntimeError::Program {
        program: "nft",
        output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
