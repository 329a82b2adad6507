//! Every environment variable that is read.

/// The configuration file of the server.
pub(crate) const CONFIG: &str = "FERMATA_CONFIG";
/// Where the server keeps everything.
pub(crate) const DATA_DIR: &str = "FERMATA_DATA_DIR";
/// Address of the gRPC listener.
pub(crate) const GRPC: &str = "FERMATA_GRPC";
/// Address of the HTTP listener.
pub(crate) const HTTP: &str = "FERMATA_HTTP";
/// Whether the end of the server ends its sandboxes.
pub(crate) const STOP_SANDBOXES: &str = "FERMATA_STOP_SANDBOXES";
/// `text` or `json`.
pub(crate) const LOG_FORMAT: &str = "FERMATA_LOG_FORMAT";
/// The most memory that one sandbox may use.
pub(crate) const MEMORY_CAP: &str = "FERMATA_MEMORY_CAP";
/// The most processes and threads that one sandbox may have.
pub(crate) const PROCESS_CAP: &str = "FERMATA_PROCESS_CAP";
/// What captures processes.
pub(crate) const CHECKPOINTER: &str = "FERMATA_CHECKPOINTER";
/// Size of the storage pool.
pub(crate) const POOL_SIZE: &str = "FERMATA_POOL_SIZE";
/// Name servers for sandboxes.
pub(crate) const NAME_SERVERS: &str = "FERMATA_NAME_SERVERS";
/// Files with certificate authorities that the base image is to trust.
pub(crate) const EXTRA_CERTIFICATES: &str = "FERMATA_EXTRA_CERTIFICATES";
/// The host's address on which exposed ports of sandboxes are reached.
pub(crate) const PORT_ADDRESS: &str = "FERMATA_PORT_ADDRESS";
/// The host's name in the URLs of exposed ports.
pub(crate) const PORT_HOST: &str = "FERMATA_PORT_HOST";
/// The host's ports that sandboxes may be reached by.
pub(crate) const PORT_RANGE: &str = "FERMATA_PORT_RANGE";
/// How long a connection waits for a server in a sandbox to listen.
pub(crate) const PORT_WAIT: &str = "FERMATA_PORT_WAIT";
/// Environment of image builds.
pub(crate) const BUILD_ENVIRONMENT: &str = "FERMATA_BUILD_ENVIRONMENT";
/// The server's token, for the server itself and for its clients.
pub(crate) const TOKEN: &str = "FERMATA_TOKEN";
/// Where the command line finds the server.
pub(crate) const URL: &str = "FERMATA_URL";

/// The value of a variable; one that is set to nothing counts as not set.
pub(crate) fn read(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
