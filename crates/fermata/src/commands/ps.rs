use fermata_engine::{Sandbox, SandboxStatus};
use jiff::Timestamp;

use super::table::table;
use crate::client::Client;
use crate::duration::rough;
use crate::failure::Failure;
use crate::printer::Printer;

/// `fermata ps`
pub(super) async fn sandboxes(client: &Client, all: bool, printer: Printer) -> Result<(), Failure> {
    let mut sandboxes = client.sandboxes().await?;
    sandboxes.retain(|sandbox| all || is_alive(sandbox.status));
    sandboxes.sort_by_key(|sandbox| std::cmp::Reverse(sandbox.created_at));
    let now = Timestamp::now();
    printer.either(&sandboxes, || {
        let rows = sandboxes.iter().map(|sandbox| row(sandbox, now));
        table(["ID", "IMAGE", "STATUS", "CREATED", "EXPIRES"], rows)
    })?;
    Ok(())
}

fn is_alive(status: SandboxStatus) -> bool {
    match status {
        SandboxStatus::Creating | SandboxStatus::Running | SandboxStatus::Stopping => true,
        SandboxStatus::Stopped | SandboxStatus::Failed => false,
    }
}

fn row(sandbox: &Sandbox, now: Timestamp) -> [String; 5] {
    let away = |time: Timestamp| rough(time.as_second() - now.as_second());
    let expires = sandbox.expires_at.filter(|_| is_alive(sandbox.status));
    [
        sandbox.id.to_string(),
        sandbox.image.to_string(),
        status(sandbox),
        format!("{} ago", away(sandbox.created_at)),
        expires.map_or_else(|| "-".to_owned(), |time| format!("in {}", away(time))),
    ]
}

fn status(sandbox: &Sandbox) -> String {
    let name = match sandbox.status {
        SandboxStatus::Creating => "creating",
        SandboxStatus::Running => "running",
        SandboxStatus::Stopping => "stopping",
        SandboxStatus::Stopped => "stopped",
        SandboxStatus::Failed => "failed",
    };
    match (&sandbox.failure, sandbox.exit_code) {
        (Some(failure), _) => format!("{name}: {failure}"),
        (None, Some(code)) => format!("{name} ({code})"),
        (None, None) => name.to_owned(),
    }
}

/// `fermata ps SANDBOX`
pub(super) async fn processes(
    client: &Client,
    sandbox: &str,
    printer: Printer,
) -> Result<(), Failure> {
    let sandbox = client.sandbox(sandbox).await?;
    let processes = client.processes(&sandbox.id).await?;
    printer.either(&processes, || {
        let rows = processes.iter().map(|process| {
            let status = process
                .exit_code
                .map_or_else(|| "running".to_owned(), |code| format!("ended ({code})"));
            [process.pid.to_string(), status, command_line(&process.argv)]
        });
        table(["PID", "STATUS", "COMMAND"], rows)
    })?;
    Ok(())
}

fn command_line(argv: &[String]) -> String {
    shlex::try_join(argv.iter().map(String::as_str)).unwrap_or_else(|_nul| argv.join(" "))
}
