//! The server (`fermata serve`) and the command line that speaks to it.
//!
//! ```text
//! arguments ─► serve ───► engine, gateways          (one a machine, as root)
//!          ├─► env, config, doctor                  (look at this machine only)
//!          └─► run, exec, cp, … ─► client ─► REST   (anybody with the token, from anywhere)
//! ```
//!
//! Data goes to stdout, talk to stderr. Exit codes: 0; 1 when what was asked for failed; 2 when it could not be asked; or the
//! code of the process that was run.

mod arguments;
mod client;
mod commands;
mod config;
mod doctor;
mod duration;
mod endpoint;
mod environment;
mod failure;
mod printer;
mod serve;
mod size;
mod terminal;
mod variables;

use std::process::ExitCode;

use arguments::{Arguments, Command, ConfigCommand};
use clap::{CommandFactory as _, Parser as _};
use client::Client;
use failure::{Explain, Failure};
use printer::Printer;

/// Runs the program with the arguments and environment of this process.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let printer = Printer::new(arguments.global.json);
    match dispatch(arguments, printer) {
        Ok(code) => code,
        Err(failure) => {
            printer.failure(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn dispatch(arguments: Arguments, printer: Printer) -> Result<ExitCode, Failure> {
    let data_dir = arguments.global.data_dir;
    match arguments.command {
        Command::Serve(flags) => serve::serve(&flags, data_dir, printer)?,
        Command::Config(ConfigCommand::Show(flags)) => config::show(&flags, data_dir, printer)?,
        Command::Env => environment::print(data_dir, printer)?,
        Command::Doctor => return doctor::doctor(data_dir, printer),
        Command::Completions { shell } => completions(shell, printer)?,
        Command::Version => wait_for(commands::version::version(data_dir, printer))?,
        command => {
            let client = Client::find(data_dir)?;
            return wait_for(commands::run(&client, command, printer));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn completions(shell: clap_complete::Shell, printer: Printer) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "fermata", &mut script);
    Ok(printer.bytes(&script)?)
}

/// The kernel refused an event queue.
#[derive(Debug, thiserror::Error)]
#[error("cannot start")]
struct RuntimeError(#[source] std::io::Error);

impl Explain for RuntimeError {
    fn exit_code(&self) -> u8 {
        2
    }
}

/// One thread is enough for a command that waits for one server, and starts faster.
fn wait_for<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RuntimeError)?;
    let result = runtime.block_on(command);
    // A read of stdin that nobody waits for any more must not hold the program back.
    runtime.shutdown_background();
    result
}
