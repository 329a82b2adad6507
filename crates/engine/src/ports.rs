//! Exposed ports: which ones there are, and that they outlive the daemon. The connections are the runtime's.
//!
//! ```text
//! expose ─► listen on the host ─► record ─► take connections        restart ─► listen at the recorded port again
//! close  ─► forget ─► stop listening, cut connections
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fermata_runtime::RuntimeError;
use tracing::{info, warn};

use crate::config::PortConfig;
use crate::create::runtime;
use crate::live::{Inner, Live};
use crate::model::{ExposedPort, PortNumber, SandboxId};
use crate::{Engine, EngineError, Result};

/// The most that one sandbox may expose: each is a port of the host.
pub(crate) const PORT_LIMIT: usize = 64;

impl Engine {
    /// Makes a port of a sandbox reachable from the host, whether or not anything listens there yet. A port that is exposed
    /// already keeps its URL.
    ///
    /// # Errors
    /// `SandboxNotFound`, `NotRunning`, `TooManyPorts`, `Runtime` (also when no port of the host is free), `Database`
    pub async fn expose_port(&self, id: &SandboxId, port: PortNumber) -> Result<ExposedPort> {
        self.inner.refuse_when_closing()?;
        let live = self.inner.running(id).await?;
        live.activity.touch();
        expose(&self.inner, &live, port).await
    }

    /// Undoes [`Self::expose_port`]; connections through it are cut.
    ///
    /// # Errors
    /// `SandboxNotFound`, `NotRunning`, `PortNotExposed`, `Database`
    pub async fn close_port(&self, id: &SandboxId, port: PortNumber) -> Result<()> {
        let live = self.inner.running(id).await?;
        let _one_at_a_time = live.exposing.lock().await;
        if live.ports.host_port(port.into()).is_none() {
            return Err(EngineError::PortNotExposed {
                id: id.clone(),
                port,
            });
        }
        self.inner.records.delete_port(id, port).await?;
        live.ports.close(port.into()).await;
        info!(sandbox = %id, %port, "port closed");
        Ok(())
    }

    /// The exposed ports of a running sandbox, in order.
    ///
    /// # Errors
    /// `SandboxNotFound`, `NotRunning`
    pub async fn ports(&self, id: &SandboxId) -> Result<Vec<ExposedPort>> {
        let live = self.inner.running(id).await?;
        Ok(list(&self.inner, &live))
    }
}

/// The exposed ports of a sandbox, in order.
pub(crate) fn list(inner: &Inner, live: &Live) -> Vec<ExposedPort> {
    let exposed = live.ports.list().into_iter();
    exposed
        .map(|(port, host_port)| inner.config.ports.exposed(port.into(), host_port))
        .collect()
}

/// Exposes each of these ports.
pub(crate) async fn expose_all(
    inner: &Inner,
    live: &Live,
    ports: impl IntoIterator<Item = PortNumber>,
) -> Result<()> {
    for port in ports {
        expose(inner, live, port).await?;
    }
    Ok(())
}

async fn expose(inner: &Inner, live: &Live, port: PortNumber) -> Result<ExposedPort> {
    let _one_at_a_time = live.exposing.lock().await;
    let address = |host_port| inner.config.ports.exposed(port, host_port);
    if let Some(host_port) = live.ports.host_port(port.into()) {
        return Ok(address(host_port));
    }
    if live.ports.list().len() >= PORT_LIMIT {
        return Err(EngineError::TooManyPorts {
            id: live.id.clone(),
            limit: PORT_LIMIT,
        });
    }
    let listener = inner
        .host_ports
        .listen()
        .map_err(runtime("expose a port of", &live.id))?;
    let host_port = listener.port();
    inner.records.set_port(&live.id, port, host_port).await?;
    if live.ports.expose(port.into(), listener).is_err() {
        // It has ended meanwhile; what forgets its ports may have been before us.
        inner.records.delete_port(&live.id, port).await?;
        return Err(EngineError::NotRunning {
            id: live.id.clone(),
            status: live.state.borrow().status,
        });
    }
    let exposed = address(host_port);
    info!(sandbox = %live.id, %port, url = exposed.url, "port exposed");
    Ok(exposed)
}

/// Closes and forgets all ports of a sandbox that has ended. When it returns, nobody uses its network through them.
pub(crate) async fn close_all(inner: &Inner, live: &Live) {
    let is_recorded = !live.ports.list().is_empty();
    live.ports.close_all().await;
    if is_recorded && let Err(error) = inner.records.delete_ports(&live.id).await {
        warn!(sandbox = %live.id, error = error.chain(), "cannot forget the ports of an ended sandbox");
    }
}

/// Listens again for a sandbox that an earlier daemon has left running: at the same ports of the host if they are still free.
pub(crate) async fn expose_again(inner: &Inner, live: &Live) -> Result<()> {
    for (port, before) in inner.records.ports(&live.id).await? {
        let listener = match inner.host_ports.listen_at(before) {
            Err(error) if error.is_address_in_use() => {
                let other = inner.host_ports.listen();
                if let Ok(listener) = &other {
                    let now = listener.port();
                    warn!(sandbox = %live.id, %port, before, now, "the port of the host was taken by somebody else: a URL has changed");
                    inner.records.set_port(&live.id, port, now).await?;
                }
                other
            }
            result => result,
        };
        match listener {
            Ok(listener) => {
                // It is not closed before its end is noticed, which is after this.
                let _ = live.ports.expose(port.into(), listener);
            }
            Err(error) => lost(live, port, &error),
        }
    }
    Ok(())
}

/// The sandbox is worth more than its port, and the next start may have more luck.
fn lost(live: &Live, port: PortNumber, error: &RuntimeError) {
    let error = fermata_runtime::error_chain(error);
    warn!(sandbox = %live.id, %port, error, "cannot expose a port again");
}

impl PortConfig {
    fn exposed(&self, port: PortNumber, host_port: u16) -> ExposedPort {
        ExposedPort {
            port,
            url: format!("http://{}:{host_port}", self.url_host()),
        }
    }

    /// The name of this host in URLs.
    fn url_host(&self) -> String {
        match (&self.host_name, self.address) {
            (Some(name), _) => name.clone(),
            (None, IpAddr::V4(address)) if address.is_unspecified() => {
                Ipv4Addr::LOCALHOST.to_string()
            }
            (None, IpAddr::V4(address)) => address.to_string(),
            (None, IpAddr::V6(address)) if address.is_unspecified() => {
                format!("[{}]", Ipv6Addr::LOCALHOST)
            }
            (None, IpAddr::V6(address)) => format!("[{address}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_the_host_as_configured_or_as_it_can_be_reached() {
        let port = PortNumber::try_from(8000).unwrap();
        for (address, name, url) in [
            ("127.0.0.1", None, "http://127.0.0.1:4000"),
            ("0.0.0.0", None, "http://127.0.0.1:4000"),
            ("::1", None, "http://[::1]:4000"),
            ("::", None, "http://[::1]:4000"),
            ("192.0.2.7", None, "http://192.0.2.7:4000"),
            ("0.0.0.0", Some("box.example"), "http://box.example:4000"),
        ] {
            let config = PortConfig {
                address: address.parse().unwrap(),
                host_name: name.map(str::to_owned),
                ..PortConfig::default()
            };
            assert_eq!(config.exposed(port, 4000).url, url);
        }
    }
}
