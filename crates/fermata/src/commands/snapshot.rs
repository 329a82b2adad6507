use fermata_engine::{MemorySnapshot, SandboxId};
use jiff::Timestamp;

use super::table::table;
use crate::arguments::SnapshotCommand;
use crate::client::Client;
use crate::duration::rough;
use crate::failure::Failure;
use crate::printer::Printer;
use crate::size::ByteSize;

/// `fermata snapshot`
pub(super) async fn snapshot(
    client: &Client,
    command: SnapshotCommand,
    printer: Printer,
) -> Result<(), Failure> {
    match command {
        SnapshotCommand::Create {
            memory,
            stop,
            sandbox,
        } => {
            let sandbox = client.sandbox(&sandbox).await?.id;
            if memory {
                hold(client, &sandbox, stop, printer).await
            } else {
                hold_filesystem(client, &sandbox, printer).await
            }
        }
        SnapshotCommand::Ls => list(client, printer).await,
        SnapshotCommand::Inspect { snapshot } => {
            Ok(printer.document(&client.memory_snapshot(&snapshot).await?)?)
        }
        SnapshotCommand::Rm {
            snapshots,
            keep_image,
        } => remove(client, &snapshots, keep_image, printer).await,
    }
}

async fn hold_filesystem(
    client: &Client,
    sandbox: &SandboxId,
    printer: Printer,
) -> Result<(), Failure> {
    let snapshot = client.snapshot_filesystem(sandbox).await?;
    if !printer.json() {
        printer.talk(&format!(
            "paused {:.1} ms, took {:.1} ms, holds {}",
            snapshot.paused_ms,
            snapshot.total_ms,
            ByteSize(snapshot.upper_bytes.unwrap_or_default())
        ));
    }
    printer.either(&snapshot, || snapshot.image.to_string())?;
    Ok(())
}

async fn hold(
    client: &Client,
    sandbox: &SandboxId,
    stop: bool,
    printer: Printer,
) -> Result<(), Failure> {
    let snapshot = client.snapshot_memory(sandbox, stop).await?;
    if !printer.json() {
        printer.talk(&format!(
            "paused {:.1} ms, took {:.1} ms, holds {} of memory",
            snapshot.paused_ms,
            snapshot.total_ms,
            ByteSize(snapshot.memory_bytes)
        ));
    }
    printer.either(&snapshot, || snapshot.id.to_string())?;
    Ok(())
}

async fn list(client: &Client, printer: Printer) -> Result<(), Failure> {
    let mut snapshots = client.memory_snapshots().await?;
    snapshots.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.created_at));
    let now = Timestamp::now();
    printer.either(&snapshots, || {
        let rows = snapshots.iter().map(|snapshot| row(snapshot, now));
        table(
            [
                "ID",
                "OF SANDBOX",
                "IMAGE",
                "MEMORY",
                "CREATED",
                "SANDBOXES",
            ],
            rows,
        )
    })?;
    Ok(())
}

fn row(snapshot: &MemorySnapshot, now: Timestamp) -> [String; 6] {
    [
        snapshot.id.to_string(),
        snapshot.sandbox.to_string(),
        snapshot.image.to_string(),
        ByteSize(snapshot.memory_bytes).to_string(),
        format!(
            "{} ago",
            rough(now.as_second() - snapshot.created_at.as_second())
        ),
        snapshot.sandboxes.to_string(),
    ]
}

async fn remove(
    client: &Client,
    snapshots: &[String],
    keep_image: bool,
    printer: Printer,
) -> Result<(), Failure> {
    let mut removed = Vec::new();
    for prefix in snapshots {
        let snapshot = client.memory_snapshot(prefix).await?;
        client
            .remove_memory_snapshot(&snapshot.id, keep_image)
            .await?;
        if !printer.json() {
            printer.line(snapshot.id.as_str())?;
        }
        removed.push(snapshot);
    }
    if printer.json() {
        printer.document(&removed)?;
    }
    Ok(())
}
