use fermata_engine::{Sandbox, SandboxStatus};

use crate::client::Client;
use crate::failure::{Explain, Failure};
use crate::printer::Printer;

/// Removing would end it.
#[derive(Debug, thiserror::Error)]
#[error("sandbox {id} is running")]
struct StillRunning {
    id: String,
}

impl Explain for StillRunning {
    fn hint(&self) -> Option<String> {
        Some("`fermata stop` it first, or add --force".to_owned())
    }
}

/// Some of several did not work; each was told about.
#[derive(Debug, thiserror::Error)]
#[error("{failed} of {all} failed")]
struct SomeFailed {
    failed: usize,
    all: usize,
}

impl Explain for SomeFailed {}

/// `fermata stop`
pub(super) async fn stop(
    client: &Client,
    sandboxes: &[String],
    printer: Printer,
) -> Result<(), Failure> {
    each(sandboxes, printer, async |prefix| {
        let sandbox = client.sandbox(prefix).await?;
        Ok(client.stop_sandbox(&sandbox.id).await?)
    })
    .await
}

/// `fermata rm`
pub(super) async fn remove(
    client: &Client,
    sandboxes: &[String],
    force: bool,
    printer: Printer,
) -> Result<(), Failure> {
    each(sandboxes, printer, async |prefix| {
        let sandbox = client.sandbox(prefix).await?;
        let ended = matches!(
            sandbox.status,
            SandboxStatus::Stopped | SandboxStatus::Failed
        );
        if !ended && !force {
            return Err(StillRunning {
                id: sandbox.id.to_string(),
            }
            .into());
        }
        Ok(client.remove_sandbox(&sandbox.id).await?)
    })
    .await
}

/// Tries all, whatever becomes of the ones before; prints the ids of those that went well.
async fn each(
    names: &[String],
    printer: Printer,
    mut action: impl AsyncFnMut(&str) -> Result<Sandbox, Failure>,
) -> Result<(), Failure> {
    let mut done = Vec::new();
    let mut failures = Vec::new();
    for name in names {
        match action(name).await {
            Ok(sandbox) => {
                if !printer.json() {
                    printer.line(sandbox.id.as_str())?;
                }
                done.push(sandbox);
            }
            Err(failure) => failures.push(failure),
        }
    }
    if printer.json() {
        printer.document(&done)?;
    }
    if failures.len() == 1 {
        return Err(failures.remove(0));
    }
    for failure in &failures {
        printer.failure(failure);
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(SomeFailed {
            failed: failures.len(),
            all: names.len(),
        }
        .into())
    }
}
