//! Speaks to a server over its own HTTP interface, as anybody could.

mod attach;
mod error;
mod files;
mod images;
mod ports;
mod processes;
mod sandboxes;
mod snapshots;

use std::path::PathBuf;

use fermata_gateway::rest::model::ErrorBody;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use attach::AttachmentInput;
pub(crate) use error::ClientError;

use crate::endpoint;
use crate::environment;
use crate::failure::Failure;
use crate::variables;

type Result<T, E = ClientError> = std::result::Result<T, E>;

/// A server and the right to use it.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    /// `http://HOST:PORT`, without a slash at the end.
    url: String,
    authorization: HeaderValue,
}

impl Client {
    /// The server that the environment names, else the one that runs with this data directory.
    pub(crate) fn find(data_dir: Option<PathBuf>) -> Result<Self, Failure> {
        if let Some(url) = variables::read(variables::URL) {
            let token = variables::read(variables::TOKEN).ok_or(ClientError::TokenMissing)?;
            return Ok(Self::new(&url, &token)?);
        }
        let directory = endpoint::data_directory(data_dir);
        let http = environment::reachable(endpoint::endpoints(&directory)?.http);
        let token = endpoint::token(&directory)?;
        Ok(Self::new(&format!("http://{http}"), &token)?)
    }

    fn new(url: &str, token: &str) -> Result<Self> {
        let wrong = || ClientError::Url {
            url: url.to_owned(),
        };
        let parsed = reqwest::Url::parse(url).map_err(|_unparsable| wrong())?;
        if parsed.scheme() != "http" || parsed.host().is_none() {
            return Err(wrong());
        }
        let mut authorization = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_unprintable| ClientError::Token)?;
        authorization.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, authorization.clone());
        let http = reqwest::Client::builder()
            .default_headers(headers)
            // The server is on this machine or one of the user's own.
            .no_proxy()
            .build()
            .map_err(ClientError::Prepare)?;
        Ok(Self {
            http,
            url: url.trim_end_matches('/').to_owned(),
            authorization,
        })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    /// Any answer but an error.
    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let response = request
            .send()
            .await
            .map_err(|source| ClientError::Unreachable {
                url: self.url.clone(),
                source: source.without_url(),
            })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.map_err(ClientError::BrokenOff)?;
        Err(serde_json::from_slice::<ErrorBody>(&body)
            .map_or(ClientError::Unexplained { status }, |body| {
                ClientError::Refused { detail: body.error }
            }))
    }

    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let body = self
            .send(request)
            .await?
            .bytes()
            .await
            .map_err(ClientError::BrokenOff)?;
        serde_json::from_slice(&body).map_err(ClientError::Answer)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.answer(self.request(Method::GET, path)).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.answer(self.request(Method::POST, path).json(body))
            .await
    }

    /// The server's version.
    pub(crate) async fn version(&self) -> Result<String> {
        let version: fermata_gateway::rest::model::Version = self.get("/version").await?;
        Ok(version.version)
    }
}

/// The shortest beginning of an id that may stand for it.
const SHORTEST_PREFIX: usize = 3;

/// Finds the one id that is meant. What kind it is, up to the first dash, need not be written.
fn resolve<Id: AsRef<str>>(
    what: &'static str,
    prefix: &str,
    ids: impl IntoIterator<Item = Id>,
) -> Result<Id> {
    let mut candidates = Vec::new();
    for id in ids {
        let text = id.as_ref();
        if text == prefix {
            return Ok(id);
        }
        let short = text.split_once('-').map_or(text, |(_kind, rest)| rest);
        if prefix.len() >= SHORTEST_PREFIX
            && (text.starts_with(prefix) || short.starts_with(prefix))
        {
            candidates.push(id);
        }
    }
    match candidates.len() {
        0 => Err(ClientError::Unknown {
            what,
            prefix: prefix.to_owned(),
        }),
        1 => Ok(candidates.remove(0)),
        _ => Err(ClientError::Ambiguous {
            prefix: prefix.to_owned(),
            candidates: candidates.iter().map(|id| id.as_ref().to_owned()).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: [&str; 4] = ["sandbox-abc1", "sandbox-abd2", "abc", "other"];

    #[test]
    fn a_beginning_that_fits_one_id_stands_for_it() {
        assert_eq!(resolve("sandbox", "oth", IDS).unwrap(), "other");
        assert_eq!(resolve("sandbox", "abd", IDS).unwrap(), "sandbox-abd2");
        assert_eq!(
            resolve("sandbox", "sandbox-abc", IDS).unwrap(),
            "sandbox-abc1"
        );
    }

    #[test]
    fn an_exact_id_wins_over_longer_ones() {
        assert_eq!(resolve("sandbox", "abc", IDS).unwrap(), "abc");
    }

    #[test]
    fn short_unknown_and_ambiguous_beginnings_are_refused() {
        for prefix in ["ot", "", "xyz"] {
            assert!(
                matches!(
                    resolve("sandbox", prefix, IDS),
                    Err(ClientError::Unknown { .. })
                ),
                "{prefix}"
            );
        }
        let Err(ClientError::Ambiguous { candidates, .. }) = resolve("sandbox", "sandbox-ab", IDS)
        else {
            panic!("not ambiguous");
        };
        assert_eq!(candidates, ["sandbox-abc1", "sandbox-abd2"]);
    }

    #[test]
    fn only_plain_http_addresses_are_taken() {
        Client::new("http://127.0.0.1:1/", "t").unwrap();
        for wrong in ["https://a:1", "127.0.0.1:1", "", "http://"] {
            assert!(
                matches!(Client::new(wrong, "t"), Err(ClientError::Url { .. })),
                "{wrong}"
            );
        }
    }
}
