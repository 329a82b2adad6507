use std::process::ExitCode;

use fermata_engine::{NetworkPolicy, SandboxSpec};

use super::{port, session};
use crate::arguments::RunFlags;
use crate::client::Client;
use crate::failure::Failure;
use crate::printer::Printer;

/// `fermata run`
pub(super) async fn run(
    client: &Client,
    flags: RunFlags,
    printer: Printer,
) -> Result<ExitCode, Failure> {
    let spec = spec(client, &flags).await?;
    let sandbox = client.create_sandbox(&spec).await?;
    if !flags.port.is_empty() {
        port::tell(client, &sandbox.id, printer).await;
    }
    if flags.command.is_empty() {
        printer.either(&sandbox, || sandbox.id.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    if flags.keep {
        printer.talk(&format!("sandbox {}", sandbox.id));
    }
    let ended = session::run(
        client,
        &sandbox.id,
        &flags.process,
        Vec::new(),
        flags.command,
        printer,
    )
    .await;
    if !flags.keep
        && let Err(error) = client.remove_sandbox(&sandbox.id).await
    {
        // What the command did counts for the exit code.
        printer.warning(&format!(
            "sandbox {} was not removed: {}",
            sandbox.id,
            Failure::from(error).line()
        ));
    }
    ended
}

async fn spec(client: &Client, flags: &RunFlags) -> Result<SandboxSpec, Failure> {
    let image = match &flags.image {
        Some(prefix) => Some(client.image(prefix).await?.id),
        None => None,
    };
    Ok(SandboxSpec {
        image,
        cpu_millicores: flags.cpu.unwrap_or(0),
        memory_bytes: flags.memory.map_or(0, |size| size.0),
        environment: flags.env.iter().cloned().collect(),
        network: network(flags),
        ports: flags.port.iter().copied().collect(),
        idle_timeout_seconds: flags.ttl.map(|period| period.seconds),
        ..SandboxSpec::default()
    })
}

fn network(flags: &RunFlags) -> NetworkPolicy {
    if flags.block_network {
        NetworkPolicy::Blocked
    } else if flags.allow.is_empty() {
        NetworkPolicy::Open
    } else {
        NetworkPolicy::Allow(flags.allow.clone())
    }
}
