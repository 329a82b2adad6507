use bytes::Bytes;
use fermata_engine::SandboxId;
use fermata_gateway::rest::attach_frame::OutputStream;
use fermata_gateway::rest::model::{Process, Signal, StartProcess, Started, output_headers};
use reqwest::{Method, Response};

use super::{Client, ClientError, Result};

/// A piece of a process's output.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    pub(crate) data: Bytes,
    pub(crate) next_offset: u64,
    pub(crate) dropped: u64,
    pub(crate) end: bool,
}

impl Client {
    pub(crate) async fn start(&self, id: &SandboxId, process: &StartProcess) -> Result<i32> {
        let started: Started = self
            .post(&format!("/v1/sandboxes/{id}/processes"), process)
            .await?;
        Ok(started.pid)
    }

    pub(crate) async fn processes(&self, id: &SandboxId) -> Result<Vec<Process>> {
        self.get(&format!("/v1/sandboxes/{id}/processes")).await
    }

    pub(crate) async fn wait(&self, id: &SandboxId, pid: i32, wait_ms: u64) -> Result<Process> {
        self.get(&format!(
            "/v1/sandboxes/{id}/processes/{pid}?wait_ms={wait_ms}"
        ))
        .await
    }

    pub(crate) async fn signal(&self, id: &SandboxId, pid: i32, signal: i32) -> Result<()> {
        let path = format!("/v1/sandboxes/{id}/processes/{pid}/signal");
        self.send(self.request(Method::POST, &path).json(&Signal { signal }))
            .await?;
        Ok(())
    }

    /// What is there from `offset` on.
    pub(crate) async fn output(
        &self,
        id: &SandboxId,
        pid: i32,
        stream: OutputStream,
        offset: u64,
    ) -> Result<Output> {
        let stream = match stream {
            OutputStream::Stdout => "stdout",
            OutputStream::Stderr => "stderr",
        };
        let path =
            format!("/v1/sandboxes/{id}/processes/{pid}/output?stream={stream}&offset={offset}");
        let response = self.send(self.request(Method::GET, &path)).await?;
        let next_offset = number(&response, output_headers::NEXT_OFFSET)?;
        let dropped = number(&response, output_headers::DROPPED)?;
        let end = header(&response, output_headers::END)? == "true";
        let data = response.bytes().await.map_err(ClientError::BrokenOff)?;
        Ok(Output {
            data,
            next_offset,
            dropped,
            end,
        })
    }
}

fn number(response: &Response, name: &'static str) -> Result<u64> {
    header(response, name)?
        .parse()
        .map_err(|_not_a_number| ClientError::HeaderMissing { name })
}

fn header<'a>(response: &'a Response, name: &'static str) -> Result<&'a str> {
    response
        .headers()
        .get(name)
        .and_then(|value| value.to_str().ok())
        .ok_or(ClientError::HeaderMissing { name })
}
