use std::path::PathBuf;

use fermata_gateway::rest::VERSION;

use crate::client::Client;
use crate::failure::Failure;
use crate::printer::Printer;

/// `fermata version`. This program's version is an answer also where no server is.
pub(crate) async fn version(data_dir: Option<PathBuf>, printer: Printer) -> Result<(), Failure> {
    let server = server_version(data_dir).await;
    let known = server.as_ref().ok();
    let document = serde_json::json!({ "client": VERSION, "server": known });
    printer.either(&document, || match known {
        Some(server) => format!("client {VERSION}\nserver {server}"),
        None => format!("client {VERSION}"),
    })?;
    if let Err(failure) = server {
        printer.talk(&format!("no server: {}", failure.line()));
    }
    Ok(())
}

async fn server_version(data_dir: Option<PathBuf>) -> Result<String, Failure> {
    Ok(Client::find(data_dir)?.version().await?)
}
