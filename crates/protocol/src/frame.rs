//! Length-prefixed frames over a byte stream.

use std::io::{self, Read, Write};

use prost::Message;
use prost::bytes::Bytes;

/// The largest frame either side accepts. File chunks and output chunks are kept well below it.
pub const MAX_FRAME_BYTES: usize = 24 << 20;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream failed or ended inside a frame.
    #[error("cannot transfer a frame")]
    Transfer(#[source] io::Error),
    /// The peer announced a frame larger than [`MAX_FRAME_BYTES`].
    #[error("frame of {bytes} bytes is larger than allowed")]
    TooLarge {
        /// The announced length.
        bytes: usize,
    },
    /// The bytes are not the expected message.
    #[error("cannot decode a frame")]
    Decode(#[source] prost::DecodeError),
}

/// A message with its length before it, ready to be sent in one write.
///
/// # Errors
/// [`FrameError::TooLarge`] when the peer would refuse it.
pub fn encode(message: &impl Message) -> Result<Vec<u8>, FrameError> {
    let bytes = message.encoded_len();
    let length = u32::try_from(bytes)
        .ok()
        .filter(|_| bytes <= MAX_FRAME_BYTES)
        .ok_or(FrameError::TooLarge { bytes })?;
    let mut frame = Vec::with_capacity(bytes + 4);
    frame.extend_from_slice(&length.to_le_bytes());
    message.encode_raw(&mut frame);
    Ok(frame)
}

/// Checks an announced length and turns it into a buffer size.
///
/// # Errors
/// [`FrameError::TooLarge`]
pub fn body_length(prefix: [u8; 4]) -> Result<usize, FrameError> {
    let bytes = u32::from_le_bytes(prefix) as usize;
    if bytes > MAX_FRAME_BYTES {
        return Err(FrameError::TooLarge { bytes });
    }
    Ok(bytes)
}

/// Writes one message.
///
/// # Errors
/// [`FrameError::TooLarge`], [`FrameError::Transfer`]
pub fn write(stream: &mut impl Write, message: &impl Message) -> Result<(), FrameError> {
    stream
        .write_all(&encode(message)?)
        .map_err(FrameError::Transfer)
}

/// Reads one message; `None` when the peer closed the stream between frames.
///
/// # Errors
/// Any [`FrameError`].
pub fn read<M: Message + Default>(stream: &mut impl Read) -> Result<Option<M>, FrameError> {
    let mut prefix = [0; 4];
    let mut filled = 0;
    while filled < prefix.len() {
        match stream.read(&mut prefix[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => {
                return Err(FrameError::Transfer(io::ErrorKind::UnexpectedEof.into()));
            }
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(FrameError::Transfer(error)),
        }
    }
    let mut body = vec![0; body_length(prefix)?];
    stream.read_exact(&mut body).map_err(FrameError::Transfer)?;
    M::decode(Bytes::from(body))
        .map(Some)
        .map_err(FrameError::Decode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{Request, request::Call};

    #[test]
    fn a_message_comes_back_as_it_was() {
        let message = Request {
            call: Some(Call::Hello(crate::agent::Hello {})),
        };
        let mut stream = Vec::new();
        write(&mut stream, &message).unwrap();
        let mut reader = stream.as_slice();
        assert_eq!(read::<Request>(&mut reader).unwrap(), Some(message));
        assert_eq!(read::<Request>(&mut reader).unwrap(), None);
    }

    #[test]
    fn a_hostile_length_is_refused_before_anything_is_allocated() {
        let mut reader: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0];
        assert!(matches!(
            read::<Request>(&mut reader),
            Err(FrameError::TooLarge { .. })
        ));
    }

    #[test]
    fn a_stream_that_ends_inside_a_frame_is_an_error() {
        let mut reader: &[u8] = &[4, 0, 0];
        assert!(matches!(
            read::<Request>(&mut reader),
            Err(FrameError::Transfer(_))
        ));
    }
}
