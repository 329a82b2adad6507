//! Clearing away: what an earlier server left, what is given back, and all at the end.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{info, warn};

use super::namespace::{self, file, system, within};
use super::netlink::Socket;
use super::policy::Policy;
use super::pool::{Shared, lock};
use super::{conntrack, firewall, link};
use crate::RuntimeError;

impl Shared {
    /// Makes the kernel's state that of a pool with nothing but these slots; those that are gone are left out of the answer.
    pub(super) fn recover(
        &self,
        wanted: BTreeMap<u32, Policy>,
    ) -> Result<BTreeMap<u32, Policy>, RuntimeError> {
        let pinned = self.pinned()?;
        let linked = within(&self.host, || self.linked())?;
        let (in_use, lost): (BTreeMap<_, _>, BTreeMap<_, _>) = wanted
            .into_iter()
            .partition(|(slot, _)| pinned.contains(slot) && linked.contains(slot));
        if !lost.is_empty() {
            warn!(slots = ?lost.keys(), "the networks of some sandboxes are gone");
        }
        // First the rules: they must be there before a packet of anybody passes.
        self.apply(|rules| rules.table(&in_use))?;
        within(&self.host, allow_forwarding)?;
        let remains: BTreeSet<u32> = pinned
            .union(&linked)
            .copied()
            .filter(|slot| !in_use.contains_key(slot))
            .collect();
        if !remains.is_empty() {
            info!(
                count = remains.len(),
                "clearing away unused networks of an earlier server"
            );
            self.clear(&remains)?;
            self.forget_connections(&remains)?;
        }
        Ok(in_use)
    }

    /// Slots that have a file.
    pub(super) fn pinned(&self) -> Result<BTreeSet<u32>, RuntimeError> {
        let entries = std::fs::read_dir(&self.directory).map_err(file("list", &self.directory))?;
        let mut pinned = BTreeSet::new();
        for entry in entries {
            let entry = entry.map_err(file("list", &self.directory))?;
            pinned.extend(
                entry
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse::<u32>().ok()),
            );
        }
        Ok(pinned)
    }

    /// Slots that have an interface in the namespace of the calling thread.
    pub(super) fn linked(&self) -> Result<BTreeSet<u32>, RuntimeError> {
        let prefix = self.instance.interface_prefix();
        let mut socket = Socket::route().map_err(system("open a netlink socket"))?;
        let links = link::links(&mut socket, &prefix).map_err(system("list network interfaces"))?;
        Ok(links
            .iter()
            .filter_map(|link| link.name.strip_prefix(&prefix)?.parse().ok())
            .collect())
    }

    /// Destroys slots, in whatever state they are.
    pub(super) fn clear(&self, slots: &BTreeSet<u32>) -> Result<(), RuntimeError> {
        within(&self.host, || {
            let mut socket = Socket::route().map_err(system("open a netlink socket"))?;
            let group = self.instance.retired_group();
            let prefix = self.instance.interface_prefix();
            let links =
                link::links(&mut socket, &prefix).map_err(system("list network interfaces"))?;
            let mut any = false;
            for link in links {
                let number = link
                    .name
                    .strip_prefix(&prefix)
                    .and_then(|number| number.parse().ok());
                if number.is_some_and(|number| slots.contains(&number)) {
                    link::set_group(&mut socket, link.index, group)
                        .map_err(system("retire a network interface"))?;
                    any = true;
                }
            }
            if any {
                link::delete_group(&mut socket, group)
                    .map_err(system("delete network interfaces"))?;
            }
            Ok(())
        })?;
        for slot in slots {
            namespace::remove(&self.slot(*slot).namespace)?;
        }
        Ok(())
    }

    /// Removes what the host remembers of the connections of slots that are cleared: they would be counted against the next
    /// user.
    pub(super) fn forget_connections(&self, slots: &BTreeSet<u32>) -> Result<(), RuntimeError> {
        let addresses = slots
            .iter()
            .map(|slot| self.instance.transfer_address(*slot))
            .collect();
        within(&self.host, || {
            conntrack::forget(&addresses).map_err(system("forget connections"))
        })
    }

    /// Clears what was released, with its policies.
    pub(super) fn clear_retired(
        &self,
        retired: &BTreeMap<u32, Policy>,
    ) -> Result<(), RuntimeError> {
        self.clear(&retired.keys().copied().collect())?;
        let with_policy: Vec<u32> = retired
            .iter()
            .filter(|(_, policy)| **policy != Policy::Open)
            .map(|(slot, _)| *slot)
            .collect();
        if with_policy.is_empty() {
            return Ok(());
        }
        let _one_at_a_time = lock(&self.table);
        self.apply(|rules| rules.no_policy(with_policy))
    }

    /// The end of an orderly shutdown, with the threads gone.
    pub(super) fn finish(&self) -> Result<(), RuntimeError> {
        let (retired, in_use) = {
            let mut stock = self.stock();
            (stock.take_retired(), stock.in_use())
        };
        self.clear_retired(&retired)?;
        let mut cleared = self.stock().take_cleared();
        cleared.extend(retired.into_keys());
        self.forget_connections(&cleared)?;
        if in_use > 0 {
            return Ok(());
        }
        within(&self.host, || {
            self.rules.apply(&firewall::no_table(&self.instance))
        })?;
        namespace::remove_directory(&self.directory)?;
        self.instance.release()
    }
}

/// Turns the host into a router, as Docker does. Not turned back at the end: something else may rely on it by then.
fn allow_forwarding() -> Result<(), RuntimeError> {
    const OPTION: &str = "net/ipv4/ip_forward";
    let path = namespace::option_path(OPTION);
    let present = std::fs::read_to_string(&path).map_err(file("read", &path))?;
    if present.trim() == "0" {
        info!("turning on net.ipv4.ip_forward, so that sandboxes reach the network");
        namespace::set_option(OPTION, "1")?;
    }
    Ok(())
}
