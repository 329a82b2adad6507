//! What each command does once it has a server to speak to. One file a command.

mod copy;
mod exec;
mod fork;
mod image;
mod logs;
mod port;
mod ps;
mod run;
mod session;
mod snapshot;
mod stop;
mod table;
pub(crate) mod version;

use std::process::ExitCode;

use crate::arguments::Command;
use crate::client::Client;
use crate::failure::Failure;
use crate::printer::Printer;

/// Runs a command that needs a server.
pub(crate) async fn run(
    client: &Client,
    command: Command,
    printer: Printer,
) -> Result<ExitCode, Failure> {
    match command {
        Command::Run(flags) => return run::run(client, flags, printer).await,
        Command::Exec(flags) => return exec::exec(client, flags, printer).await,
        Command::Ps(flags) => match flags.sandbox {
            Some(sandbox) => ps::processes(client, &sandbox, printer).await?,
            None => ps::sandboxes(client, flags.all, printer).await?,
        },
        Command::Logs(flags) => logs::logs(client, &flags, printer).await?,
        Command::Port(flags) => port::port(client, &flags, printer).await?,
        Command::Cp {
            source,
            destination,
        } => {
            copy::copy(client, &source, &destination, printer).await?;
        }
        Command::Stop { sandboxes } => stop::stop(client, &sandboxes, printer).await?,
        Command::Rm { sandboxes, force } => {
            stop::remove(client, &sandboxes, force, printer).await?;
        }
        Command::Image(command) => image::image(client, command, printer).await?,
        Command::Snapshot(command) => snapshot::snapshot(client, command, printer).await?,
        Command::Fork(flags) => fork::fork(client, &flags, printer).await?,
        Command::Restore(flags) => fork::restore(client, &flags, printer).await?,
        Command::Serve(_)
        | Command::Config(_)
        | Command::Env
        | Command::Doctor
        | Command::Version
        | Command::Completions { .. } => unreachable!("needs no server"),
    }
    Ok(ExitCode::SUCCESS)
}
