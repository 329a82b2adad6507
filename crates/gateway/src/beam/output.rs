//! Output as the Beam client reads it: what came since the last read, as text.

use std::time::Duration;

use fermata_engine::agent::{OutputChunk, Stream};
use fermata_engine::{AgentClient, OutputFrom};

use super::failure::BeamError;
use super::{Beam, wire::pod};

/// The agent's name for this reader.
const CURSOR: &str = "beam";
/// The client takes each line off the front of an answer by copying the rest: answers of megabytes would cost it minutes.
/// Smaller ones cost more calls, and tell the agent more often that somebody reads.
const MAX_BYTES: u64 = 32 << 10;
/// Of each stream of an ended process, at once.
const WHOLE_BYTES: u64 = 2 << 20;
const _: () = assert!(
    2 * WHOLE_BYTES * 3 < super::MAX_ANSWER_BYTES,
    "each invalid byte becomes a replacement character of three, and the client must take the answer"
);

pub(super) async fn stdout(
    beam: Beam,
    request: pod::PodSandboxStdoutRequest,
    request_id: String,
) -> Result<pod::PodSandboxStdoutResponse, BeamError> {
    let stdout = consume(
        &beam,
        &request.container_id,
        request.pid,
        Stream::Stdout,
        request_id,
    )
    .await?;
    Ok(pod::PodSandboxStdoutResponse {
        ok: true,
        stdout,
        ..Default::default()
    })
}

pub(super) async fn stderr(
    beam: Beam,
    request: pod::PodSandboxStderrRequest,
    request_id: String,
) -> Result<pod::PodSandboxStderrResponse, BeamError> {
    let stderr = consume(
        &beam,
        &request.container_id,
        request.pid,
        Stream::Stderr,
        request_id,
    )
    .await?;
    Ok(pod::PodSandboxStderrResponse {
        ok: true,
        stderr,
        ..Default::default()
    })
}

/// The agent never lets a cursor's answer end inside a character, and repeats the answer to a repeated request.
async fn consume(
    beam: &Beam,
    container_id: &str,
    pid: i32,
    stream: Stream,
    request_id: String,
) -> Result<String, BeamError> {
    let from = OutputFrom::TextCursor {
        name: CURSOR.to_owned(),
        request_id,
    };
    let agent = beam.handle(container_id).await?.agent;
    let chunk = agent
        .read_output(pid, stream, from, MAX_BYTES, Duration::ZERO)
        .await?;
    Ok(text(&chunk))
}

/// All output of an ended process, without consuming it; `None` when it does not fit one answer.
pub(super) async fn whole(
    agent: &AgentClient,
    pid: i32,
) -> Result<Option<(String, String)>, BeamError> {
    let mut streams = [String::new(), String::new()];
    for (stream, output) in [Stream::Stdout, Stream::Stderr]
        .into_iter()
        .zip(&mut streams)
    {
        let chunk = agent
            .read_output(
                pid,
                stream,
                OutputFrom::Offset(0),
                WHOLE_BYTES,
                Duration::ZERO,
            )
            .await?;
        if !chunk.end || chunk.dropped_bytes > 0 {
            return Ok(None);
        }
        *output = text(&chunk);
    }
    let [stdout, stderr] = streams;
    Ok(Some((stdout, stderr)))
}

fn text(chunk: &OutputChunk) -> String {
    let mut text = String::new();
    if chunk.dropped_bytes > 0 {
        text = format!(
            "[fermata: {} bytes of output were dropped]\n",
            chunk.dropped_bytes
        );
    }
    text.push_str(&String::from_utf8_lossy(&chunk.data));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        let chunk = OutputChunk {
            data: b"a\xffb\xc3".as_slice().into(),
            ..OutputChunk::default()
        };
        assert_eq!(text(&chunk), "a\u{fffd}b\u{fffd}");
    }

    #[test]
    fn what_was_dropped_is_said() {
        let chunk = OutputChunk {
            data: b"rest".as_slice().into(),
            dropped_bytes: 17,
            ..OutputChunk::default()
        };
        assert_eq!(
            text(&chunk),
            "[fermata: 17 bytes of output were dropped]\nrest"
        );
    }
}
