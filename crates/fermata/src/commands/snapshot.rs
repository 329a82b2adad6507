use crate::arguments::SnapshotCommand;
use crate::client::Client;
use crate::failure::Failure;
use crate::printer::Printer;
use crate::size::ByteSize;

/// `fermata snapshot`
pub(super) async fn snapshot(
    client: &Client,
    command: SnapshotCommand,
    printer: Printer,
) -> Result<(), Failure> {
    let SnapshotCommand::Create { sandbox } = command;
    let sandbox = client.sandbox(&sandbox).await?;
    let snapshot = client.snapshot_filesystem(&sandbox.id).await?;
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
