//! `fermata env`: the exports that point programs at this server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use crate::endpoint::{self, Endpoints};
use crate::failure::Failure;
use crate::printer::Printer;
use crate::variables;

/// Prints them for `eval "$(fermata env)"`, or as a document.
pub(crate) fn print(data_dir: Option<PathBuf>, printer: Printer) -> Result<(), Failure> {
    let directory = endpoint::data_directory(data_dir);
    let endpoints = endpoint::endpoints(&directory)?;
    let token = endpoint::token(&directory)?;
    let exports = exports(endpoints, &token);
    if printer.json() {
        let document: serde_json::Map<_, _> = exports
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        printer.document(&document)?;
    } else {
        for (name, value) in exports {
            printer.line(&format!("export {name}={}", quoted(&value)))?;
        }
    }
    Ok(())
}

/// Both names of the gateway's address are set: the client reads one pair for its gRPC channel and the other to decide that
/// the HTTP address below belongs to the same server. A `[default]` section in a configuration file would win over all of
/// these, so the client is pointed at a file that cannot exist.
fn exports(endpoints: Endpoints, token: &str) -> Vec<(&'static str, String)> {
    let grpc = reachable(endpoints.grpc);
    let http = reachable(endpoints.http);
    let url = format!("http://{http}");
    vec![
        (variables::URL, url.clone()),
        (variables::TOKEN, token.to_owned()),
        ("BETA9_GATEWAY_HOST", host(grpc)),
        ("BETA9_GATEWAY_PORT", grpc.port().to_string()),
        ("BETA9_API_URL", url),
        ("BETA9_TOKEN", token.to_owned()),
        ("BEAM_TOKEN", token.to_owned()),
        ("GATEWAY_HOST", host(grpc)),
        ("GATEWAY_PORT", grpc.port().to_string()),
        ("API_HOST", host(http)),
        ("API_PORT", http.port().to_string()),
        ("CONFIG_PATH", "/nonexistent/beam.ini".to_owned()),
    ]
}

/// A listener on every address is reached over loopback.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    };
    SocketAddr::new(ip, address.port())
}

/// As it stands before a `:port`.
fn host(address: SocketAddr) -> String {
    match address.ip() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

fn quoted(value: &str) -> String {
    // Only a NUL byte cannot be quoted, and no value here can hold one: all come from text files and the environment.
    shlex::try_quote(value).map_or_else(|_nul| "''".to_owned(), std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_listener_is_named_by_loopback() {
        let endpoints = Endpoints {
            grpc: "0.0.0.0:10".parse().unwrap(),
            http: "[::]:20".parse().unwrap(),
            pid: 1,
        };
        let exports: std::collections::BTreeMap<_, _> =
            exports(endpoints, "t").into_iter().collect();
        assert_eq!(exports["BETA9_GATEWAY_HOST"], "127.0.0.1");
        assert_eq!(exports["BETA9_GATEWAY_PORT"], "10");
        assert_eq!(exports["FERMATA_URL"], "http://[::1]:20");
        assert_eq!(exports["API_HOST"], "[::1]");
    }

    #[test]
    fn a_token_with_quotes_survives_the_shell() {
        assert_eq!(shlex::split(&quoted("a'b $c\"")).unwrap(), ["a'b $c\""]);
    }
}
