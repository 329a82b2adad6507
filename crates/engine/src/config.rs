//! How a server is set up.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// Where things are and what limits hold.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Everything the server keeps is under here.
    pub data_directory: PathBuf,
    /// The shim program.
    pub shim_program: PathBuf,
    /// The agent program; copied into a layer, so that a later upgrade does not change what runs.
    pub agent_program: PathBuf,
    /// Which storage driver to use; found out when absent.
    pub pool_driver: fermata_pool::DriverChoice,
    /// Size of the pool's own file system; chosen from the free space when absent.
    pub pool_size_bytes: Option<u64>,
    /// A sandbox cannot use more memory than this, whatever it asked for; protects the host. 0 for no limit.
    pub memory_cap_bytes: u64,
    /// A sandbox cannot have more processes and threads than this.
    pub process_cap: u64,
    /// Name servers for sandboxes when the host has none that can be reached from inside.
    pub name_servers: Vec<String>,
    /// Environment of image builds only (package mirrors and the like); never in an image.
    pub build_environment: BTreeMap<String, String>,
    /// Certificate authorities to be trusted in the base image besides Debian's.
    pub extra_certificates: Vec<PathBuf>,
    /// Ready-made network namespaces to keep in stock.
    pub ready_networks: usize,
    /// How long a sandbox may take to stand still for a snapshot.
    pub freeze_limit: Duration,
    /// What captures and restores processes.
    pub checkpointer: CheckpointerChoice,
    /// How exposed ports of sandboxes are reached.
    pub ports: PortConfig,
}

/// What captures processes; snapshots are played on by what has made them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CheckpointerChoice {
    /// The native engine; CRIU for what that cannot hold, where it is to be had.
    #[default]
    Auto,
    /// Only the native engine.
    Native,
    /// Only CRIU.
    Criu,
}

/// How exposed ports of sandboxes are reached.
#[derive(Debug, Clone)]
pub struct PortConfig {
    /// The host's address to listen on.
    pub address: IpAddr,
    /// The host's name in URLs; the address when absent.
    pub host_name: Option<String>,
    /// The host's ports to use; when absent, the system chooses.
    pub range: Option<RangeInclusive<u16>>,
    /// How long a connection waits for a server in the sandbox that does not listen yet.
    pub wait: Duration,
}

impl Default for PortConfig {
    fn default() -> Self {
        Self {
            address: Ipv4Addr::LOCALHOST.into(),
            host_name: None,
            range: None,
            wait: Duration::from_secs(2),
        }
    }
}

impl EngineConfig {
    /// The defaults for a data directory and the two programs.
    #[must_use]
    pub fn new(data_directory: PathBuf, shim_program: PathBuf, agent_program: PathBuf) -> Self {
        Self {
            data_directory,
            shim_program,
            agent_program,
            pool_driver: fermata_pool::DriverChoice::Auto,
            pool_size_bytes: None,
            memory_cap_bytes: host_memory_bytes() / 4 * 3,
            process_cap: 4096,
            name_servers: Vec::new(),
            build_environment: BTreeMap::new(),
            extra_certificates: Vec::new(),
            ready_networks: 6,
            freeze_limit: Duration::from_secs(10),
            checkpointer: CheckpointerChoice::default(),
            ports: PortConfig::default(),
        }
    }
}

/// Physical memory of this machine; 0, which means no cap, when the kernel does not tell.
fn host_memory_bytes() -> u64 {
    std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
            line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .map_or(0, |kib| kib * 1024)
}
