//! Passing bytes on between two connections.
//!
//! ```text
//! caller ══ splice ══► pipe ══ splice ══► server        and the same the other way round
//! ```
//!
//! The kernel passes pages on (splice(2)), so that bytes are copied no more often than without us. Each direction takes
//! more only when what it has is gone: who reads slowly slows the other one down. The end of one direction is passed on as
//! such; an error, or being dropped, resets both connections, so that nobody takes a cut stream for a whole one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{Shutdown, shutdown, sockopt};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::coop::consume_budget;

/// What a new pipe holds (pipe(7)). Who fills it has more to come.
const PIPE_BYTES: usize = 64 << 10;

/// What a pipe holds for who has much to say: the most that pipe(7) lets anybody have. Each step wakes somebody up, and with
/// steps of 64 KiB a fifth of the throughput was lost.
const LARGE_PIPE_BYTES: usize = 1 << 20;

/// Passes bytes on until both sides have said their last.
pub(super) async fn relay(caller: TcpStream, server: TcpStream) -> io::Result<()> {
    caller.set_zero_linger()?;
    server.set_zero_linger()?;
    tokio::try_join!(pass_on(&caller, &server), pass_on(&server, &caller))?;
    for stream in [&caller, &server] {
        sockopt::set_socket_linger(stream, None)?;
    }
    Ok(())
}

async fn pass_on(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    // Not before there is something to pass: half of the connections of a web server have one direction idle.
    from.readable().await?;
    let (outlet, inlet) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let mut is_large = false;
    loop {
        let taken = take(from, &inlet).await?;
        if taken == 0 {
            return Ok(shutdown(to, Shutdown::Write)?);
        }
        give(to, &outlet, taken).await?;
        if taken >= PIPE_BYTES / 2 && !is_large {
            is_large = true;
            // Refused where pipes are scarce; then it stays slower.
            let _ = fcntl_setpipe_size(&inlet, LARGE_PIPE_BYTES);
        }
        consume_budget().await;
    }
}

/// Moves what there is into the empty pipe; 0 at the end.
async fn take(from: &TcpStream, inlet: &OwnedFd) -> io::Result<usize> {
    from.async_io(Interest::READABLE, || {
        move_bytes(from, inlet, LARGE_PIPE_BYTES)
    })
    .await
}

async fn give(to: &TcpStream, outlet: &OwnedFd, mut bytes: usize) -> io::Result<()> {
    while bytes > 0 {
        let given = to
            .async_io(Interest::WRITABLE, || move_bytes(outlet, to, bytes))
            .await?;
        if given == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = bytes.saturating_sub(given);
    }
    Ok(())
}

fn move_bytes(from: impl AsFd, to: impl AsFd, bytes: usize) -> io::Result<usize> {
    // Would it block, then it is the socket: the pipe is filled when empty and emptied when filled.
    Ok(splice(from, None, to, None, bytes, SpliceFlags::NONBLOCK)?)
}
