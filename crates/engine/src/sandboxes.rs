//! Looking at, reaching, changing and ending sandboxes.

use std::time::Duration;

use crate::create::{network_policy, runtime};
use crate::live::{Agent, Handle, describe, lock};
use crate::machine::Event;
use crate::model::{NetworkPolicy, Sandbox, SandboxId};
use crate::records::SandboxRecord;
use crate::{Engine, EngineError, Result};

impl Engine {
    /// A sandbox, running or ended.
    ///
    /// # Errors
    /// `SandboxNotFound`
    pub async fn sandbox(&self, id: &SandboxId) -> Result<Sandbox> {
        if let Some(live) = self.inner.find_live(id) {
            return Ok(live.describe());
        }
        self.record(id).await.map(|record| describe(record, None))
    }

    /// All sandboxes, oldest first, ended ones included as long as they are remembered.
    ///
    /// # Errors
    /// `Database`
    pub async fn sandboxes(&self) -> Result<Vec<Sandbox>> {
        let records = self.inner.records.sandboxes().await?;
        Ok(records
            .into_iter()
            .map(|record| match self.inner.find_live(&record.id) {
                Some(live) => live.describe(),
                None => describe(record, None),
            })
            .collect())
    }

    /// The way to a sandbox's processes and files; counts as use until its agent is dropped.
    ///
    /// # Errors
    /// `SandboxNotFound`; `NotRunning` when it cannot take commands.
    pub async fn handle(&self, id: &SandboxId) -> Result<Handle> {
        let live = self.inner.running(id).await?;
        Ok(Handle {
            agent: Agent {
                client: live.agent.clone(),
                _use: std::sync::Arc::new(live.activity.begin_use()),
            },
            environment: live.environment.clone(),
        })
    }

    /// Ends a sandbox; returns when nothing of it runs any more. Ending an ended one is fine.
    ///
    /// # Errors
    /// `SandboxNotFound`, `Database`
    pub async fn stop_sandbox(&self, id: &SandboxId) -> Result<Sandbox> {
        let Some(live) = self.inner.find_live(id) else {
            return self.record(id).await.map(|record| describe(record, None));
        };
        {
            let _operation = live.operation.lock().await;
            self.inner.apply(&live, Event::StopAsked).await?;
            // A shim that cannot be reached is dying or dead; its watcher ends the sandbox then.
            let _ = live.shim.kill().await;
        }
        live.ended().await;
        Ok(live.describe())
    }

    /// Forgets an ended sandbox.
    ///
    /// # Errors
    /// `SandboxNotFound`; `NotRunning` names the state of one that has not ended.
    pub async fn remove_sandbox(&self, id: &SandboxId) -> Result<()> {
        if self.inner.find_live(id).is_some() {
            return Err(EngineError::InvalidArgument {
                field: "sandbox",
                reason: format!("{id} has not ended: stop it first"),
            });
        }
        self.record(id).await?;
        self.inner.records.delete_sandbox(id).await
    }

    /// Sets the idle timeout and starts it anew; `None`: never.
    ///
    /// # Errors
    /// `SandboxNotFound`, `NotRunning`
    pub async fn set_idle_timeout(&self, id: &SandboxId, timeout: Option<Duration>) -> Result<()> {
        let live = self.inner.running(id).await?;
        let spec = {
            let mut spec = lock(&live.spec);
            spec.idle_timeout_seconds = timeout.map(|timeout| timeout.as_secs());
            spec.clone()
        };
        live.activity.touch();
        self.inner.records.set_sandbox_spec(id, &spec).await
    }

    /// Changes what a sandbox may talk to; connections that are no longer allowed end.
    ///
    /// # Errors
    /// `SandboxNotFound`, `NotRunning`, `InvalidArgument`
    pub async fn set_network(&self, id: &SandboxId, policy: NetworkPolicy) -> Result<()> {
        let wanted = network_policy(&policy)?;
        let live = self.inner.running(id).await?;
        let _operation = live.operation.lock().await;
        // Recorded first: a restart puts in force what the record says.
        let spec = {
            let mut spec = lock(&live.spec);
            spec.network = policy;
            spec.clone()
        };
        self.inner.records.set_sandbox_spec(id, &spec).await?;
        self.inner
            .network
            .set_policy(live.slot, &wanted)
            .await
            .map_err(runtime("limit the network of", id))
    }

    async fn record(&self, id: &SandboxId) -> Result<SandboxRecord> {
        self.inner
            .records
            .sandbox(id)
            .await?
            .ok_or_else(|| EngineError::SandboxNotFound { id: id.clone() })
    }
}
