use fermata_gateway::rest::model::Child;

use crate::arguments::{ForkFlags, RestoreFlags};
use crate::client::Client;
use crate::failure::{Explain, Failure};
use crate::printer::Printer;

/// Some of several did not come to run; each was told about.
#[derive(Debug, thiserror::Error)]
#[error("{failed} of {all} sandboxes could not be played on")]
struct SomeFailed {
    failed: usize,
    all: usize,
}

impl Explain for SomeFailed {}

/// `fermata fork`
pub(super) async fn fork(
    client: &Client,
    flags: &ForkFlags,
    printer: Printer,
) -> Result<(), Failure> {
    let sandbox = client.sandbox(&flags.sandbox).await?;
    let forked = client.fork(&sandbox.id, flags.count).await?;
    if printer.json() {
        printer.document(&forked)?;
    } else {
        printer.talk(&format!("paused {:.1} ms", forked.paused_ms));
    }
    tell(&forked.children, printer)
}

/// `fermata restore`
pub(super) async fn restore(
    client: &Client,
    flags: &RestoreFlags,
    printer: Printer,
) -> Result<(), Failure> {
    let snapshot = client.memory_snapshot(&flags.snapshot).await?;
    let children = client.restore(&snapshot.id, flags.count).await?;
    if printer.json() {
        printer.document(&children)?;
    }
    tell(&children, printer)
}

fn tell(children: &[Child], printer: Printer) -> Result<(), Failure> {
    let mut failed = 0;
    for child in children {
        match child {
            Child::Sandbox(sandbox) if !printer.json() => printer.line(sandbox.id.as_str())?,
            Child::Sandbox(_) => {}
            Child::Error(error) => {
                failed += 1;
                printer.warning(&error.message);
            }
        }
    }
    if failed == 0 {
        return Ok(());
    }
    Err(SomeFailed {
        failed,
        all: children.len(),
    }
    .into())
}
