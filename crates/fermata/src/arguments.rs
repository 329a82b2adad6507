//! The command line's grammar.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::LogFormat;

/// Hold running sandboxes, and play any number of new ones on from there.
#[derive(Debug, Parser)]
#[command(name = "fermata", version, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    /// Print data as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server
    Serve(ServeFlags),
    /// Show the server's configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the exports that point the Beam client at this server
    Env(DataDirectory),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print each setting's value and where it comes from
    Show(ServeFlags),
}

/// Where a server on this machine keeps its files.
#[derive(Debug, Args)]
pub(crate) struct DataDirectory {
    /// The server's data directory [default: /var/lib/fermata]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// Settings of the server; each wins over its environment variable, which wins over the file.
#[derive(Debug, Args, Default)]
pub(crate) struct ServeFlags {
    /// Configuration file [default: /etc/fermata/config.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where everything is kept [default: /var/lib/fermata]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Address for the Beam client [default: 127.0.0.1:1993]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) grpc: Option<SocketAddr>,
    /// Address for HTTP [default: 127.0.0.1:1994]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) http: Option<SocketAddr>,
    /// End the sandboxes when the server ends, instead of leaving them for the next one
    #[arg(long)]
    pub(crate) stop_sandboxes: bool,
    /// How to write logs [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
}
