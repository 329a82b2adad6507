//! The server's settings: flags win over the environment, that wins over the file, that wins over the defaults.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::arguments::ServeFlags;
use crate::failure::{Explain, Failure};
use crate::printer::Printer;
use crate::variables;

/// Where everything is kept unless something else is said.
pub(crate) const DEFAULT_DATA_DIR: &str = "/var/lib/fermata";

/// Read if it is there and no other was named.
const DEFAULT_FILE: &str = "/etc/fermata/config.toml";

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("not one of text, json"),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    Default,
    File(PathBuf),
    Environment(&'static str),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File(path) => write!(formatter, "{}", path.display()),
            Self::Environment(name) => write!(formatter, "${name}"),
            Self::Flag(name) => formatter.write_str(name),
        }
    }
}

/// A value and its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting<T> {
    pub(crate) value: T,
    pub(crate) origin: Origin,
}

/// All settings as they are in effect.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) data_dir: Setting<PathBuf>,
    pub(crate) grpc: Setting<SocketAddr>,
    pub(crate) http: Setting<SocketAddr>,
    pub(crate) stop_sandboxes: Setting<bool>,
    pub(crate) log_format: Setting<LogFormat>,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read the configuration file {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the configuration file {path} is wrong")]
    Parse {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("the environment variable {name} is wrong: {value:?}: {reason}")]
    Variable {
        name: &'static str,
        value: String,
        reason: String,
    },
}

impl Explain for ConfigError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Parse { .. } => Some(format!("known keys: {}", KEYS.join(", "))),
            Self::Read { .. } | Self::Variable { .. } => None,
        }
    }

    fn exit_code(&self) -> u8 {
        2
    }
}

const KEYS: [&str; 5] = ["data_dir", "grpc", "http", "stop_sandboxes", "log_format"];

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    data_dir: Option<PathBuf>,
    grpc: Option<SocketAddr>,
    http: Option<SocketAddr>,
    stop_sandboxes: Option<bool>,
    log_format: Option<LogFormat>,
}

/// What one setting may come from, strongest first.
struct Sources<'a> {
    path: &'a Path,
    variable: &'a dyn Fn(&str) -> Option<String>,
}

impl Sources<'_> {
    fn pick<T: FromStr>(
        &self,
        (flag_name, flag): (&'static str, Option<T>),
        variable: &'static str,
        file: Option<T>,
        default: T,
    ) -> Result<Setting<T>, ConfigError>
    where
        T::Err: fmt::Display,
    {
        if let Some(value) = flag {
            return Ok(Setting { value, origin: Origin::Flag(flag_name) });
        }
        if let Some(text) = (self.variable)(variable) {
            let value = text.parse().map_err(|error: T::Err| ConfigError::Variable {
                name: variable,
                value: text.clone(),
                reason: error.to_string(),
            })?;
            return Ok(Setting { value, origin: Origin::Environment(variable) });
        }
        Ok(file.map_or(
            Setting { value: default, origin: Origin::Default },
            |value| Setting { value, origin: Origin::File(self.path.to_owned()) },
        ))
    }
}

impl Config {
    /// Puts the settings of this process together.
    pub(crate) fn load(flags: &ServeFlags) -> Result<Self, ConfigError> {
        Self::from_sources(flags, &variables::read)
    }

    fn from_sources(
        flags: &ServeFlags,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let named = flags
            .config
            .clone()
            .or_else(|| variable(variables::CONFIG).map(PathBuf::from));
        let (path, file) = read_file(named)?;
        let sources = Sources { path: &path, variable };
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Ok(Self {
            data_dir: sources.pick(
                ("--data-dir", flags.data_dir.clone()),
                variables::DATA_DIR,
                file.data_dir,
                PathBuf::from(DEFAULT_DATA_DIR),
            )?,
            grpc: sources.pick(("--grpc", flags.grpc), variables::GRPC, file.grpc, loopback(1993))?,
            http: sources.pick(("--http", flags.http), variables::HTTP, file.http, loopback(1994))?,
            stop_sandboxes: sources.pick(
                ("--stop-sandboxes", flags.stop_sandboxes.then_some(true)),
                variables::STOP_SANDBOXES,
                file.stop_sandboxes,
                false,
            )?,
            log_format: sources.pick(
                ("--log-format", flags.log_format),
                variables::LOG_FORMAT,
                file.log_format,
                LogFormat::Text,
            )?,
        })
    }

    fn rows(&self) -> [(&'static str, String, String); 5] {
        let row = |name, value: String, origin: &Origin| (name, value, origin.to_string());
        let Self { data_dir, grpc, http, stop_sandboxes, log_format } = self;
        [
            row(KEYS[0], data_dir.value.display().to_string(), &data_dir.origin),
            row(KEYS[1], grpc.value.to_string(), &grpc.origin),
            row(KEYS[2], http.value.to_string(), &http.origin),
            row(KEYS[3], stop_sandboxes.value.to_string(), &stop_sandboxes.origin),
            row(KEYS[4], log_format.value.to_string(), &log_format.origin),
        ]
    }
}

fn read_file(named: Option<PathBuf>) -> Result<(PathBuf, File), ConfigError> {
    let must_exist = named.is_some();
    let path = named.unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => {
            return Ok((path, File::default()));
        }
        Err(source) => return Err(ConfigError::Read { path, source }),
    };
    match toml::from_str(&text) {
        Ok(file) => Ok((path, file)),
        Err(source) => Err(ConfigError::Parse { path, source: Box::new(source) }),
    }
}

/// `fermata config show`
pub(crate) fn show(flags: &ServeFlags, printer: &Printer) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Row {
        value: String,
        origin: String,
    }
    let rows = Config::load(flags)?.rows();
    if printer.json() {
        let document: serde_json::Map<_, _> = rows
            .into_iter()
            .map(|(name, value, origin)| (name.to_owned(), serde_json::json!(Row { value, origin })))
            .collect();
        printer.document(&document)?;
    } else {
        for (name, value, origin) in rows {
            printer.line(&format!("{name:<15} {value:<24} # {origin}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(
        flags: &ServeFlags,
        variables: &[(&str, &str)],
    ) -> Result<Config, ConfigError> {
        Config::from_sources(flags, &|name| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_stronger_source_wins_and_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        std::fs::write(&path, "grpc = \"127.0.0.1:1\"\nhttp = \"127.0.0.1:2\"\nstop_sandboxes = true\n").unwrap();
        let flags = ServeFlags {
            config: Some(path.clone()),
            grpc: Some("127.0.0.1:5".parse().unwrap()),
            ..ServeFlags::default()
        };
        let config = load(&flags, &[(variables::GRPC, "127.0.0.1:3"), (variables::HTTP, "127.0.0.1:4")]).unwrap();
        assert_eq!(config.grpc.value.port(), 5);
        assert_eq!(config.grpc.origin, Origin::Flag("--grpc"));
        assert_eq!(config.http.value.port(), 4);
        assert_eq!(config.http.origin, Origin::Environment(variables::HTTP));
        assert!(config.stop_sandboxes.value);
        assert_eq!(config.stop_sandboxes.origin, Origin::File(path));
        assert_eq!(config.log_format.origin, Origin::Default);
    }

    #[test]
    fn a_named_file_must_exist_and_every_key_must_be_known() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        let flags = ServeFlags { config: Some(path.clone()), ..ServeFlags::default() };
        assert!(matches!(load(&flags, &[]), Err(ConfigError::Read { .. })));
        std::fs::write(&path, "datadir = \"/x\"\n").unwrap();
        let error = load(&flags, &[]).unwrap_err();
        assert!(matches!(error, ConfigError::Parse { .. }));
        assert!(Failure::from(error).line().contains("datadir"));
    }

    #[test]
    fn a_wrong_variable_is_named() {
        let error = load(&ServeFlags::default(), &[(variables::HTTP, "here")]).unwrap_err();
        assert!(error.to_string().contains("FERMATA_HTTP"), "{error}");
    }
}
