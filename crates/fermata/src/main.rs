//! The `fermata` program: the server and the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    fermata::main()
}
