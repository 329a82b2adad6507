//! The server's settings: flags win over the environment, that wins over the file, that wins over the defaults.

mod ports;
mod value;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::arguments::ServeFlags;
use crate::duration::Period;
use crate::failure::{Explain, Failure};
use crate::printer::Printer;
use crate::size::ByteSize;
use crate::variables;
use ports::{PortRange, Ports};
use value::{List, Variables};

pub(crate) use value::{Checkpointer, LogFormat};

/// Where everything is kept unless something else is said.
pub(crate) const DEFAULT_DATA_DIR: &str = "/var/lib/fermata";

/// Read if it is there and no other was named.
const DEFAULT_FILE: &str = "/etc/fermata/config.toml";

/// Authorities that this machine's administrator has added to Debian's (update-ca-certificates(8)). Behind a gateway that
/// inspects TLS, sandboxes reach no package index without them.
const LOCAL_AUTHORITIES: &str = "/usr/local/share/ca-certificates";

/// The certificates in a directory, in order of name; none when it cannot be read.
fn local_authorities(directory: &Path) -> Vec<String> {
    let mut found: Vec<String> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "crt"))
        .map(|path| path.display().to_string())
        .collect();
    found.sort();
    found
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
    pub(crate) limits: Limits,
    pub(crate) checkpointer: Setting<Checkpointer>,
    pub(crate) name_servers: Setting<List>,
    pub(crate) extra_certificates: Setting<List>,
    pub(crate) build_environment: Setting<Variables>,
    pub(crate) ports: Ports,
}

/// What protects the host; absent ones are chosen by the engine from what the machine has.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) memory_cap: Setting<Option<ByteSize>>,
    pub(crate) process_cap: Setting<Option<u64>>,
    pub(crate) pool_size: Setting<Option<ByteSize>>,
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

const KEYS: [&str; 16] = [
    "data_dir",
    "grpc",
    "http",
    "stop_sandboxes",
    "log_format",
    "memory_cap",
    "process_cap",
    "pool_size",
    "checkpointer",
    "name_servers",
    "extra_certificates",
    "build_environment",
    "port_address",
    "port_host",
    "port_range",
    "port_wait",
];

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    data_dir: Option<PathBuf>,
    grpc: Option<SocketAddr>,
    http: Option<SocketAddr>,
    stop_sandboxes: Option<bool>,
    log_format: Option<LogFormat>,
    memory_cap: Option<ByteSize>,
    process_cap: Option<u64>,
    pool_size: Option<ByteSize>,
    checkpointer: Option<Checkpointer>,
    name_servers: Option<List>,
    extra_certificates: Option<List>,
    build_environment: Option<Variables>,
    port_address: Option<IpAddr>,
    port_host: Option<String>,
    port_range: Option<PortRange>,
    port_wait: Option<Period>,
}

/// What settings may come from.
struct Sources<'a> {
    path: &'a Path,
    variable: &'a dyn Fn(&str) -> Option<String>,
}

impl Sources<'_> {
    /// The strongest source that says something.
    fn find<T: FromStr>(
        &self,
        flag: Option<(&'static str, T)>,
        variable: &'static str,
        file: Option<T>,
    ) -> Result<Option<Setting<T>>, ConfigError>
    where
        T::Err: fmt::Display,
    {
        if let Some((name, value)) = flag {
            return Ok(Some(Setting {
                value,
                origin: Origin::Flag(name),
            }));
        }
        if let Some(text) = (self.variable)(variable) {
            let value = text
                .parse()
                .map_err(|error: T::Err| ConfigError::Variable {
                    name: variable,
                    value: text.clone(),
                    reason: error.to_string(),
                })?;
            return Ok(Some(Setting {
                value,
                origin: Origin::Environment(variable),
            }));
        }
        Ok(file.map(|value| Setting {
            value,
            origin: Origin::File(self.path.to_owned()),
        }))
    }

    /// A setting of which only the engine knows the default.
    fn limit<T: FromStr>(
        &self,
        variable: &'static str,
        file: Option<T>,
    ) -> Result<Setting<Option<T>>, ConfigError>
    where
        T::Err: fmt::Display,
    {
        let found = self.find(None, variable, file)?;
        Ok(found.map_or(
            Setting {
                value: None,
                origin: Origin::Default,
            },
            |setting| Setting {
                value: Some(setting.value),
                origin: setting.origin,
            },
        ))
    }
}

impl<T> Setting<T> {
    fn or_default(found: Option<Self>, default: T) -> Self {
        found.unwrap_or(Self {
            value: default,
            origin: Origin::Default,
        })
    }
}

impl Config {
    /// Puts the settings of this process together.
    pub(crate) fn load(flags: &ServeFlags, data_dir: Option<PathBuf>) -> Result<Self, ConfigError> {
        Self::from_sources(flags, data_dir, &variables::read)
    }

    fn from_sources(
        flags: &ServeFlags,
        data_dir: Option<PathBuf>,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let named = flags
            .config
            .clone()
            .or_else(|| variable(variables::CONFIG).map(PathBuf::from));
        let (path, file) = read_file(named)?;
        let sources = Sources {
            path: &path,
            variable,
        };
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let data_dir = data_dir.map(|value| ("--data-dir", value));
        let grpc = flags.grpc.map(|value| ("--grpc", value));
        let http = flags.http.map(|value| ("--http", value));
        let stop = flags.stop_sandboxes.then_some(("--stop-sandboxes", true));
        let log_format = flags.log_format.map(|value| ("--log-format", value));
        let ports = Ports::find(&sources, &file)?;
        Ok(Self {
            data_dir: Setting::or_default(
                sources.find(data_dir, variables::DATA_DIR, file.data_dir)?,
                PathBuf::from(DEFAULT_DATA_DIR),
            ),
            grpc: Setting::or_default(
                sources.find(grpc, variables::GRPC, file.grpc)?,
                loopback(1993),
            ),
            http: Setting::or_default(
                sources.find(http, variables::HTTP, file.http)?,
                loopback(1994),
            ),
            stop_sandboxes: Setting::or_default(
                sources.find(stop, variables::STOP_SANDBOXES, file.stop_sandboxes)?,
                false,
            ),
            log_format: Setting::or_default(
                sources.find(log_format, variables::LOG_FORMAT, file.log_format)?,
                LogFormat::Text,
            ),
            limits: Limits {
                memory_cap: sources.limit(variables::MEMORY_CAP, file.memory_cap)?,
                process_cap: sources.limit(variables::PROCESS_CAP, file.process_cap)?,
                pool_size: sources.limit(variables::POOL_SIZE, file.pool_size)?,
            },
            checkpointer: Setting::or_default(
                sources.find(None, variables::CHECKPOINTER, file.checkpointer)?,
                Checkpointer::Auto,
            ),
            name_servers: Setting::or_default(
                sources.find(None, variables::NAME_SERVERS, file.name_servers)?,
                List::default(),
            ),
            extra_certificates: Setting::or_default(
                sources.find(None, variables::EXTRA_CERTIFICATES, file.extra_certificates)?,
                List(local_authorities(Path::new(LOCAL_AUTHORITIES))),
            ),
            build_environment: Setting::or_default(
                sources.find(None, variables::BUILD_ENVIRONMENT, file.build_environment)?,
                Variables::default(),
            ),
            ports,
        })
    }

    /// Name, value, origin.
    fn rows(&self) -> Vec<[String; 3]> {
        let Self {
            data_dir,
            grpc,
            http,
            stop_sandboxes,
            log_format,
            limits:
                Limits {
                    memory_cap,
                    process_cap,
                    pool_size,
                },
            checkpointer,
            name_servers,
            extra_certificates,
            build_environment,
            ports,
        } = self;
        fn optional<T: fmt::Display>(value: Option<T>) -> String {
            value.map_or_else(|| "auto".to_owned(), |value| value.to_string())
        }
        let values = [
            (data_dir.value.display().to_string(), &data_dir.origin),
            (grpc.value.to_string(), &grpc.origin),
            (http.value.to_string(), &http.origin),
            (stop_sandboxes.value.to_string(), &stop_sandboxes.origin),
            (log_format.value.to_string(), &log_format.origin),
            (optional(memory_cap.value), &memory_cap.origin),
            (optional(process_cap.value), &process_cap.origin),
            (optional(pool_size.value), &pool_size.origin),
            (checkpointer.value.to_string(), &checkpointer.origin),
            (name_servers.value.to_string(), &name_servers.origin),
            (
                extra_certificates.value.to_string(),
                &extra_certificates.origin,
            ),
            (
                build_environment.value.to_string(),
                &build_environment.origin,
            ),
            (ports.address.value.to_string(), &ports.address.origin),
            (optional(ports.host.value.clone()), &ports.host.origin),
            (optional(ports.range.value), &ports.range.origin),
            (ports.wait.value.to_string(), &ports.wait.origin),
        ];
        KEYS.into_iter()
            .zip(values)
            .map(|(name, (value, origin))| [name.to_owned(), value, origin.to_string()])
            .collect()
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
        Err(source) => Err(ConfigError::Parse {
            path,
            source: Box::new(source),
        }),
    }
}

/// `fermata config show`
pub(crate) fn show(
    flags: &ServeFlags,
    data_dir: Option<PathBuf>,
    printer: Printer,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Row {
        value: String,
        origin: String,
    }
    let rows = Config::load(flags, data_dir)?.rows();
    if printer.json() {
        let document: serde_json::Map<_, _> = rows
            .into_iter()
            .map(|[name, value, origin]| (name, serde_json::json!(Row { value, origin })))
            .collect();
        printer.document(&document)?;
    } else {
        for [name, value, origin] in rows {
            printer.line(&format!("{name:<18} {value:<24} # {origin}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(flags: &ServeFlags, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_sources(flags, None, &|name| {
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
        std::fs::write(
            &path,
            "grpc = \"127.0.0.1:1\"\nhttp = \"127.0.0.1:2\"\nstop_sandboxes = true\n",
        )
        .unwrap();
        let flags = ServeFlags {
            config: Some(path.clone()),
            grpc: Some("127.0.0.1:5".parse().unwrap()),
            ..ServeFlags::default()
        };
        let config = load(
            &flags,
            &[
                (variables::GRPC, "127.0.0.1:3"),
                (variables::HTTP, "127.0.0.1:4"),
            ],
        )
        .unwrap();
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
        let flags = ServeFlags {
            config: Some(path.clone()),
            ..ServeFlags::default()
        };
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
