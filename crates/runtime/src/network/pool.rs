//! The pool of namespaces.
//!
//! Two threads of its own work in the background: one makes namespaces, one clears them away. Nothing is written down: what
//! is in the kernel and not in [`NetworkConfig::in_use`] at the next start is a remain, so a kill at any instant needs no log.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tracing::{info, warn};

use super::cidr::Cidr;
use super::firewall::{self, Rules};
use super::instance::Instance;
use super::namespace::{self, file, system, within};
use super::netlink::Socket;
use super::policy::Policy;
use super::resolver::{self, Resolvers};
use super::stock::Stock;
use super::{NetworkConfig, Slot, conntrack, link};
use crate::{RuntimeError, error_chain};

/// Below the server's own threads: a create that is under way goes before a stock for later ones.
const BACKGROUND_NICE: i32 = 5;
/// Between attempts to make a namespace when that fails.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Ready-made namespaces, and the policies of those in use. Lives in the network namespace of the thread that opened it.
///
/// Dropping it leaves everything as a crash would; [`NetworkPool::shut_down`] clears up.
#[derive(Debug)]
pub struct NetworkPool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    refused_networks: Vec<Cidr>,
    fallback_name_servers: Vec<String>,
    instance: Instance,
    host: OwnedFd,
    stock: Mutex<Stock>,
    changed: Condvar,
    /// One change of the table at a time, and memory and kernel change together.
    table: Mutex<()>,
}

impl NetworkPool {
    /// Claims an instance, clears away what an earlier server left unused, puts the rules in force, and starts the threads.
    ///
    /// # Errors
    /// [`RuntimeError::NetworkInUse`] when a server with the same run directory is alive, [`RuntimeError::NoFreeInstance`],
    /// [`RuntimeError::InvalidNetwork`] for a transfer range that does not do, or what the kernel or `nft` says.
    pub async fn open(config: NetworkConfig) -> Result<Self, RuntimeError> {
        // Of the calling thread, not of whichever thread will do the work.
        let host = namespace::current()?;
        blocking(move || Self::open_in(host, config)).await
    }

    fn open_in(host: OwnedFd, config: NetworkConfig) -> Result<Self, RuntimeError> {
        let range = config.transfer_range;
        if !range.address().is_ipv4() || range.prefix() > 24 {
            return Err(RuntimeError::InvalidNetwork { network: range.to_string() });
        }
        let directory = config.run_directory.join("netns");
        namespace::prepare_directory(&directory)?;
        let instance = Instance::claim(&config.claims_directory, &config.run_directory, range)?;
        let mut shared = Shared {
            directory,
            refused_networks: config.refused_networks,
            fallback_name_servers: config.name_servers,
            stock: Mutex::new(Stock::new(instance.slots(), BTreeMap::new(), 0)),
            instance,
            host,
            changed: Condvar::new(),
            table: Mutex::new(()),
        };
        let in_use = shared.recover(config.in_use)?;
        shared.stock = Mutex::new(Stock::new(shared.instance.slots(), in_use, config.ready));
        let shared = Arc::new(shared);
        let threads = vec![
            shared.start("network-make", Shared::keep_ready)?,
            shared.start("network-clear", Shared::keep_clearing)?,
        ];
        Ok(Self { shared, threads: Mutex::new(threads) })
    }

    /// A namespace nobody has used, with an open policy. At once when one is ready (so for as many in a row as are kept), else
    /// it is made now.
    ///
    /// # Errors
    /// [`RuntimeError::NoFreeSlot`], or why none could be made.
    pub async fn acquire(&self) -> Result<Slot, RuntimeError> {
        let ready = self.shared.stock().take_ready();
        self.shared.changed.notify_all();
        let number = match ready {
            Some(number) => number,
            None => {
                let shared = self.shared.clone();
                blocking(move || shared.make_for_use()).await?
            }
        };
        Ok(self.shared.slot(number))
    }

    /// A slot in use, also one of an earlier server.
    #[must_use]
    pub fn slot(&self, number: u32) -> Option<Slot> {
        self.shared.stock().is_in_use(number).then(|| self.shared.slot(number))
    }

    /// Gives a slot back, to be cleared away in the background. Nothing happens when it is not in use.
    #[expect(clippy::unused_async, reason = "that it need not wait is of no concern to callers")]
    pub async fn release(&self, number: u32) {
        if self.shared.stock().retire(number) {
            self.shared.changed.notify_all();
        }
    }

    /// Puts a policy in force for a slot, in one step: no packet sees something between. Connections that it does not allow
    /// end: their next packet out is answered with a reset, and none comes in.
    ///
    /// # Errors
    /// [`RuntimeError::UnknownSlot`], or what `nft` says; then the policy before holds.
    pub async fn set_policy(&self, number: u32, policy: &Policy) -> Result<(), RuntimeError> {
        let shared = self.shared.clone();
        let policy = policy.clone();
        blocking(move || shared.set_policy(number, policy)).await
    }

    /// The text of `/etc/resolv.conf` for a sandbox: the host's, less the name servers that cannot be reached from inside
    /// (loopback, this host's own, link-local, IPv6); when none is left, the configured ones.
    #[must_use]
    pub fn resolver_configuration(&self) -> String {
        self.shared.resolvers().text()
    }

    /// Clears ready namespaces away, and with `keep_in_use` false the others too, and with the last of them the rules and the
    /// claim. Kept ones go on working without a server.
    ///
    /// # Errors
    /// What could not be cleared; the next [`NetworkPool::open`] will.
    pub async fn shut_down(&self, keep_in_use: bool) -> Result<(), RuntimeError> {
        self.shared.stock().close(!keep_in_use);
        self.shared.changed.notify_all();
        let threads = std::mem::take(&mut *lock(&self.threads));
        let shared = self.shared.clone();
        blocking(move || {
            join(threads);
            shared.finish()
        })
        .await
    }
}

impl Drop for NetworkPool {
    fn drop(&mut self) {
        self.shared.stock().stop();
        self.shared.changed.notify_all();
        join(std::mem::take(&mut *lock(&self.threads)));
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        if thread.join().is_err() {
            warn!("a thread of the network pool has panicked");
        }
    }
}

/// Runs work that waits for the kernel where it does not hold up other tasks.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static,
) -> Result<T, RuntimeError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(system("finish a change of the network")(io::Error::other(error))))
}

/// Every critical section leaves the data whole, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn stock(&self) -> MutexGuard<'_, Stock> {
        lock(&self.stock)
    }

    fn slot(&self, number: u32) -> Slot {
        Slot { number, namespace: self.directory.join(number.to_string()) }
    }

    fn resolvers(&self) -> Resolvers {
        resolver::resolvers(&self.fallback_name_servers)
    }

    /// Runs rules that `write` makes, in the host's namespace.
    fn apply(&self, write: impl FnOnce(&Rules<'_>) -> String) -> Result<(), RuntimeError> {
        let resolvers = self.resolvers();
        let text = write(&Rules {
            instance: &self.instance,
            refused: &self.refused_networks,
            name_servers: &resolvers.name_servers,
        });
        within(&self.host, || firewall::apply(&text))
    }

    /// Makes the kernel's state that of a pool with nothing but these slots; those that are gone are left out of the answer.
    fn recover(&self, wanted: BTreeMap<u32, Policy>) -> Result<BTreeMap<u32, Policy>, RuntimeError> {
        let pinned = self.pinned()?;
        let linked = within(&self.host, || self.linked())?;
        let (in_use, lost): (BTreeMap<_, _>, BTreeMap<_, _>) =
            wanted.into_iter().partition(|(slot, _)| pinned.contains(slot) && linked.contains(slot));
        if !lost.is_empty() {
            warn!(slots = ?lost.keys(), "the networks of some sandboxes are gone");
        }
        // First the rules: they must be there before a packet of anybody passes.
        self.apply(|rules| rules.table(&in_use))?;
        within(&self.host, allow_forwarding)?;
        let remains: BTreeSet<u32> =
            pinned.union(&linked).copied().filter(|slot| !in_use.contains_key(slot)).collect();
        if !remains.is_empty() {
            info!(count = remains.len(), "clearing away unused networks of an earlier server");
            self.clear(&remains)?;
        }
        Ok(in_use)
    }

    /// Slots that have a file.
    fn pinned(&self) -> Result<BTreeSet<u32>, RuntimeError> {
        let entries = std::fs::read_dir(&self.directory).map_err(file("list", &self.directory))?;
        let mut pinned = BTreeSet::new();
        for entry in entries {
            let entry = entry.map_err(file("list", &self.directory))?;
            pinned.extend(entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
        }
        Ok(pinned)
    }

    /// Slots that have an interface in the namespace of the calling thread.
    fn linked(&self) -> Result<BTreeSet<u32>, RuntimeError> {
        let prefix = self.instance.interface_prefix();
        let mut socket = Socket::route().map_err(system("open a netlink socket"))?;
        let links = link::links(&mut socket, &prefix).map_err(system("list network interfaces"))?;
        Ok(links.iter().filter_map(|link| link.name.strip_prefix(&prefix)?.parse().ok()).collect())
    }

    fn make(&self, number: u32) -> Result<(), RuntimeError> {
        namespace::make(
            &self.host,
            &namespace::Plan {
                path: self.slot(number).namespace,
                interface: self.instance.interface(number),
                transfer_address: self.instance.transfer_address(number),
            },
        )
    }

    fn make_for_use(&self) -> Result<u32, RuntimeError> {
        let number = {
            let mut stock = self.stock();
            // One may have become ready meanwhile.
            if let Some(number) = stock.take_ready() {
                return Ok(number);
            }
            let in_use = stock.in_use();
            stock.begin().ok_or(RuntimeError::NoFreeSlot { in_use })?
        };
        let made = self.make(number);
        let mut stock = self.stock();
        match made {
            Ok(()) => stock.made_for_use(number),
            Err(_) => stock.failed(number),
        }
        drop(stock);
        self.changed.notify_all();
        made.map(|()| number)
    }

    fn set_policy(&self, number: u32, policy: Policy) -> Result<(), RuntimeError> {
        let _one_at_a_time = lock(&self.table);
        let before = self.stock().policy(number).cloned().ok_or(RuntimeError::UnknownSlot { number })?;
        if before == Policy::Open && policy == Policy::Open {
            return Ok(());
        }
        // The stock must say "not open" for as long as there may be rules: a release at this moment goes by it.
        if before == Policy::Open {
            self.stock().set_policy(number, policy.clone());
        }
        let applied = self.apply(|rules| rules.policy(number, &policy));
        let holds = if applied.is_ok() { policy } else { before };
        self.stock().set_policy(number, holds);
        applied
    }

    /// Destroys slots, in whatever state they are.
    fn clear(&self, slots: &BTreeSet<u32>) -> Result<(), RuntimeError> {
        within(&self.host, || {
            let mut socket = Socket::route().map_err(system("open a netlink socket"))?;
            let group = self.instance.retired_group();
            let prefix = self.instance.interface_prefix();
            let links = link::links(&mut socket, &prefix).map_err(system("list network interfaces"))?;
            let mut any = false;
            for link in links {
                let number = link.name.strip_prefix(&prefix).and_then(|number| number.parse().ok());
                if number.is_some_and(|number| slots.contains(&number)) {
                    link::set_group(&mut socket, link.index, group).map_err(system("retire a network interface"))?;
                    any = true;
                }
            }
            if any {
                link::delete_group(&mut socket, group).map_err(system("delete network interfaces"))?;
            }
            let addresses = slots.iter().map(|slot| self.instance.transfer_address(*slot));
            conntrack::forget(addresses).map_err(system("forget connections"))
        })?;
        for slot in slots {
            namespace::remove(&self.slot(*slot).namespace)?;
        }
        Ok(())
    }

    /// Clears what was released, with its policies.
    fn clear_retired(&self, retired: &BTreeMap<u32, Policy>) -> Result<(), RuntimeError> {
        self.clear(&retired.keys().copied().collect())?;
        let with_policy: Vec<u32> =
            retired.iter().filter(|(_, policy)| **policy != Policy::Open).map(|(slot, _)| *slot).collect();
        if with_policy.is_empty() {
            return Ok(());
        }
        let _one_at_a_time = lock(&self.table);
        self.apply(|rules| rules.no_policy(with_policy))
    }

    fn start(self: &Arc<Self>, name: &str, work: fn(&Self)) -> Result<JoinHandle<()>, RuntimeError> {
        let shared = self.clone();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // On Linux this is the thread's own, and its children inherit it.
                let own = rustix::thread::gettid();
                if let Err(error) = rustix::process::setpriority_process(Some(own), BACKGROUND_NICE) {
                    warn!(%error, "cannot lower the priority of a background thread");
                }
                work(&shared);
            })
            .map_err(system("start a thread"))
    }

    /// The first thread: makes namespaces until there are enough.
    fn keep_ready(&self) {
        let mut stock = self.stock();
        while !stock.is_closing() {
            let Some(number) = stock.begin_if_short() else {
                stock = self.changed.wait(stock).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(stock);
            let made = self.make(number);
            stock = self.stock();
            match made {
                Ok(()) => stock.made_ready(number),
                Err(error) => {
                    warn!(slot = number, error = error_chain(&error), "cannot make a network namespace");
                    stock.failed(number);
                    self.changed.notify_all();
                    let closing = |stock: &mut Stock| !stock.is_closing();
                    stock = self
                        .changed
                        .wait_timeout_while(stock, PAUSE_AFTER_FAILURE, closing)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0;
                }
            }
        }
    }

    /// The second thread: clears away what was released, many at once when many were.
    fn keep_clearing(&self) {
        let mut stock = self.stock();
        while !stock.is_closing() {
            let retired = stock.take_retired();
            if retired.is_empty() {
                stock = self.changed.wait(stock).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            drop(stock);
            let cleared = self.clear_retired(&retired);
            stock = self.stock();
            match cleared {
                Ok(()) => stock.cleared(retired.into_keys()),
                // They are not used again, and the next start tries again.
                Err(error) => warn!(
                    slots = ?retired.keys(), error = error_chain(&error), "cannot clear away network namespaces"
                ),
            }
            self.changed.notify_all();
        }
    }

    /// The end of an orderly shutdown, with the threads gone.
    fn finish(&self) -> Result<(), RuntimeError> {
        let (retired, in_use) = {
            let mut stock = self.stock();
            (stock.take_retired(), stock.in_use())
        };
        self.clear_retired(&retired)?;
        if in_use > 0 {
            return Ok(());
        }
        within(&self.host, || firewall::apply(&firewall::no_table(&self.instance)))?;
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
