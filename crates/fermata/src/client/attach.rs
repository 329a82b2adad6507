use bytes::Bytes;
use fermata_engine::SandboxId;
use fermata_gateway::rest::attach_frame::{ClientFrame, ServerFrame};
use fermata_gateway::rest::model::ErrorBody;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use reqwest::header::AUTHORIZATION;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::{Client, ClientError, Result};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What a process says.
#[derive(Debug)]
pub(crate) struct Attachment(SplitStream<Socket>);

/// What a process is told.
#[derive(Debug)]
pub(crate) struct AttachmentInput(SplitSink<Socket, Message>);

impl Client {
    /// Opens a session with a process, from the beginning of its output.
    pub(crate) async fn attach(
        &self,
        id: &SandboxId,
        pid: i32,
    ) -> Result<(AttachmentInput, Attachment)> {
        let address = self.url.replacen("http://", "ws://", 1);
        let mut request = format!("{address}/v1/sandboxes/{id}/processes/{pid}/attach")
            .into_client_request()
            .map_err(session)?;
        request
            .headers_mut()
            .insert(AUTHORIZATION, self.authorization.clone());
        // Keystrokes are small and must not wait for more of them.
        let connected = tokio_tungstenite::connect_async_with_config(request, None, true).await;
        let (socket, _response) = connected.map_err(refusal)?;
        let (input, output) = socket.split();
        Ok((AttachmentInput(input), Attachment(output)))
    }
}

impl Attachment {
    /// The next message; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<ServerFrame>> {
        loop {
            let message = match self.0.next().await {
                None | Some(Ok(Message::Close(_))) => return Ok(None),
                Some(message) => message.map_err(session)?,
            };
            if let Message::Binary(bytes) = message {
                return ServerFrame::decode(bytes).map(Some).map_err(|error| {
                    ClientError::SessionEnded {
                        reason: error.to_string(),
                    }
                });
            }
        }
    }
}

impl AttachmentInput {
    pub(crate) async fn send(&mut self, frame: &ClientFrame) -> Result<()> {
        self.0
            .send(Message::Binary(frame.encode()))
            .await
            .map_err(session)
    }

    /// The end of the input.
    pub(crate) async fn end(&mut self) -> Result<()> {
        self.send(&ClientFrame::Input(Bytes::new())).await
    }
}

fn session(error: Error) -> ClientError {
    ClientError::Session(Box::new(error))
}

/// The server may have said why it does not attach.
fn refusal(error: Error) -> ClientError {
    if let Error::Http(response) = &error
        && let Some(body) = response.body()
        && let Ok(body) = serde_json::from_slice::<ErrorBody>(body)
    {
        return ClientError::Refused { detail: body.error };
    }
    session(error)
}
