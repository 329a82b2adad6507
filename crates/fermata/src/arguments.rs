//! The command line's grammar: what can be said, and nothing of what it does.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use fermata_engine::PortNumber;

use crate::config::LogFormat;
use crate::duration::Period;
use crate::size::ByteSize;

/// Hold running sandboxes, and play any number of new ones on from there.
#[derive(Debug, Parser)]
#[command(name = "fermata", version, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: GlobalFlags,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command knows.
#[derive(Debug, Args)]
pub(crate) struct GlobalFlags {
    /// Print data as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// The server's data directory [default: /var/lib/fermata]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server
    Serve(ServeFlags),
    /// Show the server's configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the exports that point the Beam client at this server
    Env,
    /// Check what this machine has and what it lacks
    Doctor,
    /// Make a sandbox, run a command in it, and remove it; without a command, print its id and keep it
    Run(RunFlags),
    /// Run a command in a sandbox
    Exec(ExecFlags),
    /// List sandboxes, or the processes of one
    Ps(PsFlags),
    /// Print the output of a process
    Logs(LogsFlags),
    /// Expose a port of a sandbox and print its URL, or list the exposed ports
    Port(PortFlags),
    /// Copy files and directories into and out of a sandbox
    #[command(after_help = "A path in a sandbox is written SANDBOX:/path; - is stdin or stdout.")]
    Cp {
        /// What to copy
        source: String,
        /// Where to
        destination: String,
    },
    /// End sandboxes
    Stop {
        /// Their ids, or the beginnings of them
        #[arg(required = true)]
        sandboxes: Vec<String>,
    },
    /// Remove sandboxes from the list
    Rm {
        /// Their ids, or the beginnings of them
        #[arg(required = true)]
        sandboxes: Vec<String>,
        /// End those that run
        #[arg(short, long)]
        force: bool,
    },
    /// Images that sandboxes start from
    #[command(subcommand)]
    Image(ImageCommand),
    /// Snapshots of running sandboxes
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Play a running sandbox on as new ones beside it, from one instant, and print their ids
    Fork(ForkFlags),
    /// Play a memory snapshot on as new sandboxes, and print their ids
    Restore(RestoreFlags),
    /// Print a completion script
    Completions {
        /// For which shell
        shell: Shell,
    },
    /// Print the versions of this program and of the server
    Version,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print each setting's value and where it comes from
    Show(ServeFlags),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// List images
    Ls,
    /// Remove images
    Rm {
        /// Their ids, or the beginnings of them
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Print everything about an image
    Inspect {
        /// Its id, or the beginning of it
        image: String,
    },
    /// Build an image: first packages, then shell commands
    Build(BuildFlags),
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Hold the filesystem of a running sandbox as a new image, and print the image's id; with --memory, hold its processes
    /// and memory too, and print the snapshot's id
    Create {
        /// Hold processes, memory and open ports as well
        #[arg(long)]
        memory: bool,
        /// End the sandbox at the instant that is held
        #[arg(long, requires = "memory")]
        stop: bool,
        /// Its id, or the beginning of it
        sandbox: String,
    },
    /// List memory snapshots
    Ls,
    /// Print everything about a memory snapshot
    Inspect {
        /// Its id, or the beginning of it
        snapshot: String,
    },
    /// Remove memory snapshots
    Rm {
        /// Their ids, or the beginnings of them
        #[arg(required = true)]
        snapshots: Vec<String>,
        /// Leave the filesystem halves as images
        #[arg(long)]
        keep_image: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ForkFlags {
    /// The sandbox's id, or the beginning of it
    pub(crate) sandbox: String,
    /// How many
    #[arg(short = 'n', long, default_value_t = 1, value_name = "N")]
    pub(crate) count: usize,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreFlags {
    /// The memory snapshot's id, or the beginning of it
    pub(crate) snapshot: String,
    /// How many
    #[arg(short = 'n', long, default_value_t = 1, value_name = "N")]
    pub(crate) count: usize,
}

/// Settings of the server; each wins over its environment variable, which wins over the file.
#[derive(Debug, Args, Default)]
pub(crate) struct ServeFlags {
    /// Configuration file [default: /etc/fermata/config.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Address for the Beam client [default: 127.0.0.1:1993]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) grpc: Option<std::net::SocketAddr>,
    /// Address for HTTP [default: 127.0.0.1:1994]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) http: Option<std::net::SocketAddr>,
    /// End the sandboxes when the server ends, instead of leaving them for the next one
    #[arg(long)]
    pub(crate) stop_sandboxes: bool,
    /// How to write logs [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
}

/// How a process is started.
#[derive(Debug, Args)]
pub(crate) struct ProcessFlags {
    /// Pass stdin on even if it is a terminal
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the process a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Start it in this directory
    #[arg(short, long, value_name = "DIR", default_value = "")]
    pub(crate) workdir: String,
}

#[derive(Debug, Args)]
pub(crate) struct RunFlags {
    #[command(flatten)]
    pub(crate) process: ProcessFlags,
    /// Image to start from, by id or the beginning of it [default: the base image]
    #[arg(long, value_name = "ID")]
    pub(crate) image: Option<String>,
    /// Limit of CPU time, in cores [default: none]
    #[arg(long, value_name = "CORES", value_parser = millicores)]
    pub(crate) cpu: Option<u64>,
    /// Memory to reserve
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<ByteSize>,
    /// Variable for every process of the sandbox; without a value, the one set here
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    /// Let it talk to nothing outside
    #[arg(long, conflicts_with = "allow")]
    pub(crate) block_network: bool,
    /// Let it talk to this network only; may be repeated
    #[arg(long, value_name = "CIDR")]
    pub(crate) allow: Vec<String>,
    /// Expose this port of it; may be repeated
    #[arg(short, long, value_name = "PORT", value_parser = port_number)]
    pub(crate) port: Vec<PortNumber>,
    /// Keep the sandbox when the command has ended
    #[arg(long)]
    pub(crate) keep: bool,
    /// Stop the sandbox after this long without use, as 90, 30s, 10m or 2h
    #[arg(long, value_name = "DURATION")]
    pub(crate) ttl: Option<Period>,
    /// What to run
    #[arg(last = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ExecFlags {
    #[command(flatten)]
    pub(crate) process: ProcessFlags,
    /// Variable for the process; without a value, the one set here
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    /// The sandbox's id, or the beginning of it
    pub(crate) sandbox: String,
    /// What to run
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PsFlags {
    /// Also list sandboxes that have ended
    #[arg(short, long, conflicts_with = "sandbox")]
    pub(crate) all: bool,
    /// List the processes of this one
    pub(crate) sandbox: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PortFlags {
    /// Its URL is to lead nowhere any more
    #[arg(long, requires = "port")]
    pub(crate) close: bool,
    /// The sandbox's id, or the beginning of it
    pub(crate) sandbox: String,
    /// The port inside; without one, all are listed
    #[arg(value_parser = port_number)]
    pub(crate) port: Option<PortNumber>,
}

#[derive(Debug, Args)]
pub(crate) struct LogsFlags {
    /// Go on until the process ends
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// The sandbox's id, or the beginning of it
    pub(crate) sandbox: String,
    /// The process, as `fermata ps SANDBOX` lists it
    pub(crate) pid: i32,
}

#[derive(Debug, Args)]
pub(crate) struct BuildFlags {
    /// Image to start from, by id or the beginning of it [default: the base image]
    #[arg(long, value_name = "ID")]
    pub(crate) from: Option<String>,
    /// Python package to install; may be repeated
    #[arg(long, value_name = "REQUIREMENT")]
    pub(crate) pip: Vec<String>,
    /// Shell command to run; may be repeated
    #[arg(long, value_name = "COMMAND")]
    pub(crate) run: Vec<String>,
    /// Variable for the commands and for every sandbox from the image
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, value.to_owned()),
        None => (
            text,
            std::env::var(text).map_err(|error| format!("no value given, and here: {error}"))?,
        ),
    };
    if name.is_empty() {
        return Err("the name is empty".to_owned());
    }
    Ok((name.to_owned(), value))
}

fn port_number(text: &str) -> Result<PortNumber, String> {
    let number: i64 = text.parse().map_err(|_digits| "not a number".to_owned())?;
    PortNumber::try_from(number).map_err(|error| error.to_string())
}

/// Cores with up to three digits after the point, in thousandths.
fn millicores(text: &str) -> Result<u64, String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let wrong = || "not a number of cores: write 2 or 0.5".to_owned();
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if text.is_empty() || text == "." || fraction.len() > 3 || !digits(whole) || !digits(fraction) {
        return Err(wrong());
    }
    let number = |text: &str| {
        if text.is_empty() {
            Ok(0)
        } else {
            text.parse::<u64>()
        }
    };
    let whole = number(whole).map_err(|_overflow| wrong())?;
    let thousandths = number(&format!("{fraction:0<3}")).map_err(|_overflow| wrong())?;
    whole
        .checked_mul(1000)
        .and_then(|cores| cores.checked_add(thousandths))
        .filter(|cores| *cores > 0)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_grammar_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn cores_are_exact_thousandths() {
        for (text, expected) in [
            ("1", 1000),
            ("0.5", 500),
            ("2.125", 2125),
            (".25", 250),
            ("3.", 3000),
        ] {
            assert_eq!(millicores(text), Ok(expected), "{text}");
        }
        for wrong in [
            "",
            ".",
            "0",
            "-1",
            "1.0001",
            "1e3",
            "x",
            "99999999999999999999",
        ] {
            millicores(wrong).unwrap_err();
        }
    }

    #[test]
    fn a_variable_may_have_an_empty_value_but_no_empty_name() {
        assert_eq!(variable("A="), Ok(("A".to_owned(), String::new())));
        assert_eq!(variable("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        variable("=x").unwrap_err();
        variable("FERMATA_TEST_NOT_SET").unwrap_err();
    }

    #[test]
    fn ports_are_what_tcp_has() {
        assert_eq!(port_number("8000").unwrap().get(), 8000);
        for wrong in ["", "0", "65536", "-1", "http"] {
            port_number(wrong).unwrap_err();
        }
    }

    #[test]
    fn everything_after_the_dashes_is_the_command() {
        let arguments = Arguments::try_parse_from([
            "fermata", "exec", "-it", "abc", "--", "ls", "--json", "-l",
        ])
        .unwrap();
        let Command::Exec(flags) = arguments.command else {
            panic!("not exec")
        };
        assert_eq!(flags.command, ["ls", "--json", "-l"]);
        assert!(flags.process.interactive && flags.process.tty);
        assert!(!arguments.global.json);
    }
}
