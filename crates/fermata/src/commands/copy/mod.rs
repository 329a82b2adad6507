//! `fermata cp`: files and trees of them, into and out of a sandbox, in pieces and with their modes.

mod download;
mod error;
mod place;
mod upload;

use serde::Serialize;

use crate::client::Client;
use crate::failure::Failure;
use crate::printer::Printer;
use error::CopyError;
use place::Place;

/// What was done so far.
#[derive(Debug, Default)]
struct Tally {
    entries: u64,
    /// Devices, pipes and sockets have no content to copy.
    left_out: Vec<String>,
}

#[derive(Serialize)]
struct Copied {
    entries: u64,
}

pub(super) async fn copy(
    client: &Client,
    source: &str,
    destination: &str,
    printer: Printer,
) -> Result<(), Failure> {
    let (source, destination) = (Place::parse(source), Place::parse(destination));
    let to_stdout = destination == Place::Stream;
    let tally = match (source, destination) {
        (Place::Local(from), Place::Inside { sandbox, path }) => {
            let id = client.sandbox(&sandbox).await?.id;
            upload::tree(client, &id, &from, path).await?
        }
        (Place::Stream, Place::Inside { sandbox, path }) => {
            let id = client.sandbox(&sandbox).await?.id;
            upload::stdin(client, &id, &path).await?
        }
        (Place::Inside { sandbox, path }, Place::Local(to)) => {
            let id = client.sandbox(&sandbox).await?.id;
            download::tree(client, &id, path, &to).await?
        }
        (Place::Inside { sandbox, path }, Place::Stream) => {
            let id = client.sandbox(&sandbox).await?.id;
            download::stdout(client, &id, &path, printer).await?
        }
        (Place::Local(_) | Place::Stream, Place::Local(_) | Place::Stream)
        | (Place::Inside { .. }, Place::Inside { .. }) => return Err(CopyError::Sides.into()),
    };
    if !tally.left_out.is_empty() {
        return Err(CopyError::LeftOut {
            copied: tally.entries,
            left_out: tally.left_out,
        }
        .into());
    }
    if printer.json() && !to_stdout {
        printer.document(&Copied {
            entries: tally.entries,
        })?;
    }
    Ok(())
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
