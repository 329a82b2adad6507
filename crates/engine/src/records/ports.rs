//! One row an exposed port.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Records, failed, undecodable};
use crate::Result;
use crate::model::{PortNumber, SandboxId};

impl Records {
    /// Records where a port is to be found on the host, instead of where it was before.
    pub(crate) async fn set_port(
        &self,
        sandbox: &SandboxId,
        port: PortNumber,
        host_port: u16,
    ) -> Result<()> {
        sqlx::query("INSERT OR REPLACE INTO ports (sandbox, port, host_port) VALUES (?, ?, ?)")
            .bind(sandbox.as_str())
            .bind(port.get())
            .bind(host_port)
            .execute(&self.fast)
            .await
            .map_err(failed("record an exposed port"))?;
        Ok(())
    }

    pub(crate) async fn ports(&self, sandbox: &SandboxId) -> Result<Vec<(PortNumber, u16)>> {
        sqlx::query("SELECT port, host_port FROM ports WHERE sandbox = ? ORDER BY port")
            .bind(sandbox.as_str())
            .try_map(|row| port_record(&row))
            .fetch_all(&self.fast)
            .await
            .map_err(failed("look up exposed ports"))
    }

    pub(crate) async fn delete_port(&self, sandbox: &SandboxId, port: PortNumber) -> Result<()> {
        sqlx::query("DELETE FROM ports WHERE sandbox = ? AND port = ?")
            .bind(sandbox.as_str())
            .bind(port.get())
            .execute(&self.fast)
            .await
            .map_err(failed("forget an exposed port"))?;
        Ok(())
    }

    pub(crate) async fn delete_ports(&self, sandbox: &SandboxId) -> Result<()> {
        sqlx::query("DELETE FROM ports WHERE sandbox = ?")
            .bind(sandbox.as_str())
            .execute(&self.fast)
            .await
            .map_err(failed("forget exposed ports"))?;
        Ok(())
    }

    /// Forgets the ports of sandboxes that have ended or are not known: what an interrupted end has left.
    pub(crate) async fn delete_stale_ports(&self) -> Result<()> {
        sqlx::query(
            "DELETE FROM ports WHERE sandbox NOT IN (SELECT id FROM sandboxes WHERE stopped_at IS NULL)",
        )
        .execute(&self.fast)
        .await
        .map_err(failed("forget exposed ports"))?;
        Ok(())
    }
}

fn port_record(row: &SqliteRow) -> sqlx::Result<(PortNumber, u16)> {
    let port = PortNumber::try_from(row.try_get::<i64, _>("port")?)
        .map_err(|error| undecodable("port", error))?;
    Ok((port, row.try_get("host_port")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_has_one_place_and_goes_with_its_sandbox() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(&directory.path().join("records.sqlite"))
            .await
            .unwrap();
        let sandbox: SandboxId = "sb-1".parse().unwrap();
        let [web, echo] = [8000, 65_535].map(|port| PortNumber::try_from(port).unwrap());
        for (port, host_port) in [(echo, 65_535), (web, 40_000), (web, 40_001)] {
            records.set_port(&sandbox, port, host_port).await.unwrap();
        }
        let found = records.ports(&sandbox).await.unwrap();
        assert_eq!(found, [(web, 40_001), (echo, 65_535)]);
        records.delete_port(&sandbox, web).await.unwrap();
        assert_eq!(records.ports(&sandbox).await.unwrap(), [(echo, 65_535)]);
        let other: SandboxId = "sb-2".parse().unwrap();
        records.set_port(&other, echo, 40_002).await.unwrap();
        records.delete_ports(&other).await.unwrap();
        assert_eq!(records.ports(&other).await.unwrap(), []);
        assert_eq!(records.ports(&sandbox).await.unwrap().len(), 1);
        records.delete_stale_ports().await.unwrap();
        assert_eq!(records.ports(&sandbox).await.unwrap(), []);
    }
}
