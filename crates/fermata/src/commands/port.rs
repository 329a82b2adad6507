use fermata_engine::SandboxId;

use super::table::table;
use crate::arguments::PortFlags;
use crate::client::Client;
use crate::failure::Failure;
use crate::printer::Printer;

/// `fermata port`
pub(super) async fn port(
    client: &Client,
    flags: &PortFlags,
    printer: Printer,
) -> Result<(), Failure> {
    let sandbox = client.sandbox(&flags.sandbox).await?.id;
    match flags.port {
        None => {
            let ports = client.ports(&sandbox).await?;
            printer.either(&ports, || {
                let rows = ports
                    .iter()
                    .map(|exposed| [exposed.port.to_string(), exposed.url.clone()]);
                table(["PORT", "URL"], rows)
            })?;
        }
        Some(port) if flags.close => {
            client.close_port(&sandbox, port).await?;
            printer.either(&serde_json::json!({ "closed": port }), || port.to_string())?;
        }
        Some(port) => {
            let exposed = client.expose_port(&sandbox, port).await?;
            printer.either(&exposed, || exposed.url.clone())?;
        }
    }
    Ok(())
}

/// For `fermata run -p`: stdout is the command's, so this is talk.
pub(super) async fn tell(client: &Client, sandbox: &SandboxId, printer: Printer) {
    match client.ports(sandbox).await {
        Ok(ports) => {
            for exposed in ports {
                printer.talk(&format!("port {} at {}", exposed.port, exposed.url));
            }
        }
        // The sandbox is there, and what is to be run in it counts.
        Err(error) => printer.warning(&Failure::from(error).line()),
    }
}
