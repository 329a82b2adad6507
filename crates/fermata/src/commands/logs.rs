use fermata_engine::SandboxId;
use fermata_gateway::rest::attach_frame::{OutputStream, ServerFrame};

use super::session::{self, Sink};
use crate::arguments::LogsFlags;
use crate::client::Client;
use crate::failure::Failure;
use crate::printer::Printer;

/// `fermata logs`
pub(super) async fn logs(
    client: &Client,
    flags: &LogsFlags,
    printer: Printer,
) -> Result<(), Failure> {
    let sandbox = client.sandbox(&flags.sandbox).await?.id;
    if flags.follow {
        return follow(client, &sandbox, flags.pid, printer).await;
    }
    let stdout = read(client, &sandbox, flags.pid, OutputStream::Stdout, printer).await?;
    let stderr = read(client, &sandbox, flags.pid, OutputStream::Stderr, printer).await?;
    if printer.json() {
        printer.document(&serde_json::json!({
            "stdout": String::from_utf8_lossy(&stdout),
            "stderr": String::from_utf8_lossy(&stderr),
        }))?;
    }
    Ok(())
}

/// As it comes; JSON has no place for an end that is not known yet, so the bytes go out as they are.
async fn follow(
    client: &Client,
    sandbox: &SandboxId,
    pid: i32,
    printer: Printer,
) -> Result<(), Failure> {
    let (_input, mut output) = client.attach(sandbox, pid).await?;
    let mut sink = Sink::Passed(printer);
    while let Some(frame) = output.next().await? {
        if sink.take(frame)?.is_some() {
            break;
        }
    }
    Ok(())
}

/// All that is there now: printed at once, or returned for the document.
async fn read(
    client: &Client,
    sandbox: &SandboxId,
    pid: i32,
    stream: OutputStream,
    printer: Printer,
) -> Result<Vec<u8>, Failure> {
    let mut kept = Vec::new();
    let mut sink = Sink::Passed(printer);
    let mut offset = 0;
    loop {
        let output = client.output(sandbox, pid, stream, offset).await?;
        offset = output.next_offset;
        if output.dropped > 0 {
            printer.warning(&session::dropped(stream, output.dropped));
        }
        let done = output.end || output.data.is_empty();
        if printer.json() {
            kept.extend(output.data);
        } else {
            sink.take(ServerFrame::Output(stream, output.data))?;
        }
        if done {
            return Ok(kept);
        }
    }
}
