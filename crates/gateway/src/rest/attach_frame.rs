//! Binary messages of the `attach` WebSocket: one byte says what it is, the rest is the content.
//!
//! ```text
//! client ► server   0 input (empty: end of input)   3 terminal size (rows, columns as big-endian u16)
//! server ► client   1 stdout   2 stderr   4 exit code (big-endian i32)   5 failure (text)
//!                   6 output was dropped (stream as 1 or 2, bytes as big-endian u64)
//! ```

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::model::TerminalSize;

const INPUT: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const RESIZE: u8 = 3;
const EXIT: u8 = 4;
const FAILURE: u8 = 5;
const DROPPED: u8 = 6;

/// One of the two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum OutputStream {
    Stdout,
    Stderr,
}

impl OutputStream {
    const fn tag(self) -> u8 {
        match self {
            Self::Stdout => STDOUT,
            Self::Stderr => STDERR,
        }
    }

    const fn from_tag(tag: u8) -> Option<Self> {
        match tag {
            STDOUT => Some(Self::Stdout),
            STDERR => Some(Self::Stderr),
            _ => None,
        }
    }
}

/// What the client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientFrame {
    /// For stdin; empty for the end of it.
    Input(Bytes),
    /// The terminal's new size.
    Resize(TerminalSize),
}

/// What the server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerFrame {
    /// Output.
    Output(OutputStream, Bytes),
    /// The process has ended, and all its output was sent. The last message.
    Exit(i32),
    /// The session broke off. The last message.
    Failure(String),
    /// This many bytes were lost before the next output of the stream, because nobody had read them in time.
    Dropped(OutputStream, u64),
}

/// Not a message of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a message of the attach protocol")]
pub struct InvalidFrame;

impl ClientFrame {
    /// As a binary message.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Input(data) => tagged(INPUT, data),
            Self::Resize(size) => {
                let mut frame = BytesMut::with_capacity(5);
                frame.put_u8(RESIZE);
                frame.put_u16(size.rows);
                frame.put_u16(size.columns);
                frame.freeze()
            }
        }
    }

    /// From a binary message.
    ///
    /// # Errors
    /// [`InvalidFrame`]
    pub fn decode(mut message: Bytes) -> Result<Self, InvalidFrame> {
        match message.try_get_u8() {
            Ok(INPUT) => Ok(Self::Input(message)),
            Ok(RESIZE) if message.len() == 4 => Ok(Self::Resize(TerminalSize {
                rows: message.get_u16(),
                columns: message.get_u16(),
            })),
            _ => Err(InvalidFrame),
        }
    }
}

impl ServerFrame {
    /// As a binary message.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Output(stream, data) => tagged(stream.tag(), data),
            Self::Exit(code) => tagged(EXIT, &code.to_be_bytes()),
            Self::Failure(message) => tagged(FAILURE, message.as_bytes()),
            Self::Dropped(stream, count) => {
                let mut frame = BytesMut::with_capacity(10);
                frame.put_u8(DROPPED);
                frame.put_u8(stream.tag());
                frame.put_u64(*count);
                frame.freeze()
            }
        }
    }

    /// From a binary message.
    ///
    /// # Errors
    /// [`InvalidFrame`]
    pub fn decode(mut message: Bytes) -> Result<Self, InvalidFrame> {
        let tag = message.try_get_u8().map_err(|_end| InvalidFrame)?;
        match tag {
            STDOUT | STDERR => OutputStream::from_tag(tag)
                .map(|stream| Self::Output(stream, message))
                .ok_or(InvalidFrame),
            EXIT if message.len() == 4 => Ok(Self::Exit(message.get_i32())),
            FAILURE => Ok(Self::Failure(
                String::from_utf8_lossy(&message).into_owned(),
            )),
            DROPPED if message.len() == 9 => {
                let stream = OutputStream::from_tag(message.get_u8()).ok_or(InvalidFrame)?;
                Ok(Self::Dropped(stream, message.get_u64()))
            }
            _ => Err(InvalidFrame),
        }
    }
}

fn tagged(tag: u8, content: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(1 + content.len());
    frame.put_u8(tag);
    frame.put_slice(content);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_comes_back_as_it_was() {
        let size = TerminalSize {
            rows: 24,
            columns: 300,
        };
        for frame in [
            ClientFrame::Input(Bytes::from_static(b"a\0\xff")),
            ClientFrame::Input(Bytes::new()),
            ClientFrame::Resize(size),
        ] {
            assert_eq!(ClientFrame::decode(frame.encode()), Ok(frame));
        }
        for frame in [
            ServerFrame::Output(OutputStream::Stdout, Bytes::from_static(b"x")),
            ServerFrame::Output(OutputStream::Stderr, Bytes::new()),
            ServerFrame::Exit(-1),
            ServerFrame::Failure("gone".to_owned()),
            ServerFrame::Dropped(OutputStream::Stderr, u64::MAX),
        ] {
            assert_eq!(ServerFrame::decode(frame.encode()), Ok(frame));
        }
    }

    #[test]
    fn foreign_and_cut_messages_are_refused() {
        for wrong in [&b""[..], &[9], &[RESIZE, 0, 1], &[STDOUT, 1]] {
            ClientFrame::decode(Bytes::from_static(wrong)).unwrap_err();
        }
        for wrong in [
            &b""[..],
            &[INPUT, 1],
            &[EXIT, 0],
            &[DROPPED, 3, 0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            ServerFrame::decode(Bytes::from_static(wrong)).unwrap_err();
        }
    }
}
