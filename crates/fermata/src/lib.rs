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
mod config;
mod endpoint;
mod environment;
mod failure;
mod printer;
mod serve;
mod size;
mod variables;

use std::process::ExitCode;

use arguments::{Arguments, Command, ConfigCommand};
use clap::Parser as _;
use failure::Failure;
use printer::Printer;

/// Runs the program with the arguments and environment of this process.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let printer = Printer::new(arguments.json);
    match dispatch(arguments, &printer) {
        Ok(code) => code,
        Err(failure) => {
            printer.failure(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn dispatch(arguments: Arguments, printer: &Printer) -> Result<ExitCode, Failure> {
    match arguments.command {
        Command::Serve(flags) => serve::serve(&flags, printer)?,
        Command::Config(ConfigCommand::Show(flags)) => config::show(&flags, printer)?,
        Command::Env(flags) => environment::print(flags.data_dir, printer)?,
    }
    Ok(ExitCode::SUCCESS)
}
