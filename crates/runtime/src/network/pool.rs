//! The pool of namespaces.
//!
//! Threads of its own work in the background: one makes namespaces, one clears them away, one guards the rules. Nothing is written down: what
//! is in the kernel and not in [`NetworkConfig::in_use`] at the next start is a remain, so a kill at any instant needs no log.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use tracing::warn;

use super::cidr::Cidr;
use super::firewall::{RuleWriter, Rules};
use super::instance::Instance;
use super::namespace::{self, system, within};
use super::policy::Policy;
use super::resolver::{self, Resolvers};
use super::stock::Stock;
use super::{NetworkConfig, Slot};
use crate::RuntimeError;

/// How long a sandbox waits for slots that are being cleared when there is no other.
const CLEARING_PATIENCE: Duration = Duration::from_secs(5);

/// Ready-made namespaces, and the policies of those in use. Lives in the network namespace of the thread that opened it.
///
/// Dropping it leaves everything as a crash would; [`NetworkPool::shut_down`] clears up.
#[derive(Debug)]
pub struct NetworkPool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) directory: PathBuf,
    pub(super) refused_networks: Vec<Cidr>,
    pub(super) fallback_name_servers: Vec<String>,
    pub(super) instance: Instance,
    pub(super) rules: RuleWriter,
    pub(super) host: OwnedFd,
    pub(super) stock: Mutex<Stock>,
    pub(super) changed: Condvar,
    /// Readable when the pool closes, for the thread that waits for the kernel.
    pub(super) closed: OwnedFd,
    /// One change of the table at a time, and memory and kernel change together.
    pub(super) table: Mutex<()>,
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
            return Err(RuntimeError::InvalidNetwork {
                network: range.to_string(),
            });
        }
        let directory = config.run_directory.join("netns");
        namespace::prepare_directory(&directory)?;
        let instance = Instance::claim(&config.claims_directory, &config.run_directory, range)?;
        let mut shared = Shared {
            directory,
            refused_networks: config.refused_networks,
            fallback_name_servers: config.name_servers,
            stock: Mutex::new(Stock::new(instance.slots(), BTreeMap::new(), 0)),
            rules: RuleWriter::open(&config.run_directory.join("rules.lock"))?,
            instance,
            host,
            changed: Condvar::new(),
            closed: eventfd(0, EventfdFlags::CLOEXEC)
                .map_err(|errno| system("make an event counter")(errno.into()))?,
            table: Mutex::new(()),
        };
        let in_use = shared.recover(config.in_use)?;
        shared.stock = Mutex::new(Stock::new(shared.instance.slots(), in_use, config.ready));
        let shared = Arc::new(shared);
        let threads = vec![
            shared.start("network-make", Shared::keep_ready)?,
            shared.start("network-clear", Shared::keep_clearing)?,
            shared.start("network-guard", Shared::keep_rules)?,
        ];
        Ok(Self {
            shared,
            threads: Mutex::new(threads),
        })
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
        self.shared
            .stock()
            .is_in_use(number)
            .then(|| self.shared.slot(number))
    }

    /// Gives a slot back, to be cleared away in the background. Nothing happens when it is not in use.
    #[expect(
        clippy::unused_async,
        reason = "that it need not wait is of no concern to callers"
    )]
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
        self.shared.wake();
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
        self.shared.wake();
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
        .unwrap_or_else(|error| {
            Err(system("finish a change of the network")(io::Error::other(
                error,
            )))
        })
}

/// Every critical section leaves the data whole, so a panic elsewhere does not spoil it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Tells all threads that the pool closes.
    fn wake(&self) {
        self.changed.notify_all();
        if let Err(error) = rustix::io::write(&self.closed, &1_u64.to_ne_bytes()) {
            warn!(%error, "cannot tell a thread that the network pool closes");
        }
    }

    pub(super) fn stock(&self) -> MutexGuard<'_, Stock> {
        lock(&self.stock)
    }

    pub(super) fn slot(&self, number: u32) -> Slot {
        Slot {
            number,
            namespace: self.directory.join(number.to_string()),
            forwarding: namespace::forwarding(&self.instance.interface(number)),
        }
    }

    fn resolvers(&self) -> Resolvers {
        resolver::resolvers(&self.fallback_name_servers)
    }

    /// Runs rules that `write` makes, in the host's namespace.
    pub(super) fn apply(
        &self,
        write: impl FnOnce(&Rules<'_>) -> String,
    ) -> Result<(), RuntimeError> {
        let resolvers = self.resolvers();
        let text = write(&Rules {
            instance: &self.instance,
            refused: &self.refused_networks,
            name_servers: &resolvers.name_servers,
        });
        within(&self.host, || self.rules.apply(&text))
    }

    pub(super) fn make(&self, number: u32) -> Result<(), RuntimeError> {
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
            // What was released just now is soon free again.
            let mut stock = self
                .changed
                .wait_timeout_while(self.stock(), CLEARING_PATIENCE, |stock| stock.may_get_one())
                .unwrap_or_else(PoisonError::into_inner)
                .0;
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
        let before = self
            .stock()
            .policy(number)
            .cloned()
            .ok_or(RuntimeError::UnknownSlot { number })?;
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
}
