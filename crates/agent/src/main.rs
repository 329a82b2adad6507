//! Process 1 of a sandbox: starts the user's processes, keeps their output, and reads and writes files, as the daemon asks.
//!
//! ```text
//! main thread ── epoll ─┬─ listener: accept, one thread a connection
//!                       ├─ signalfd: reap children, take what they had written
//!                       ├─ pipes and terminals: output into buffers
//!                       └─ connections: wake the thread whose caller has hung up
//! connection threads ── one request at a time; wait on a process, read and write files
//! ```
//!
//! Gigabytes of files never delay the bookkeeping of processes, and once the daemon has hung up only the main thread is
//! left, with nothing open but epoll, signalfd, pipes, terminals and a listening unix socket: all of it can be held in a
//! memory snapshot. Process 1 may never end: panics are caught, and running out of anything is answered, not suffered.

mod agent;
mod arguments;
mod connection;
mod dispatch;
mod failure;
mod files;
mod process;
mod server;

use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let problem = match arguments::parse(std::env::args_os().skip(1)) {
        Ok(options) => match server::run(&options) {
            Err(error) => fermata_protocol::error_chain(&error),
        },
        Err(error) => fermata_protocol::error_chain(&error),
    };
    // Nothing can be done when stderr is gone too.
    let _ = writeln!(std::io::stderr(), "fermata-agent: {problem}");
    ExitCode::FAILURE
}
