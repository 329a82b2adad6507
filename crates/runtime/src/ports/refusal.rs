//! What a caller gets when nothing listens inside.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A caller that speaks HTTP speaks first, and has mostly done so by now.
const FIRST_WORD_LIMIT: Duration = Duration::from_millis(500);
/// How long to take what the caller still sends: closing before would reset the connection, and the answer might be lost.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);
/// Enough for the first line of any sensible request.
const FIRST_LINE_BYTES: usize = 4096;

/// Answers with a 502 if the caller speaks HTTP, and closes.
pub(super) async fn refuse(mut caller: TcpStream, port: u16, reason: &io::Error) {
    let mut first = vec![0; FIRST_LINE_BYTES];
    let Ok(Ok(length)) = timeout(FIRST_WORD_LIMIT, caller.peek(&mut first)).await else {
        return;
    };
    let first = first.get(..length).unwrap_or_default();
    if !is_http_request(first) {
        return;
    }
    let answer = answer(port, reason, first.starts_with(b"HEAD "));
    let farewell = async {
        caller.write_all(answer.as_bytes()).await?;
        caller.shutdown().await?;
        let mut ignored = vec![0; 16 << 10];
        while caller.read(&mut ignored).await? > 0 {}
        io::Result::Ok(())
    };
    // The caller may be gone, or go on for ever: neither is worth more than the wait.
    let _ = timeout(FAREWELL_LIMIT, farewell).await;
}

fn answer(port: u16, reason: &io::Error, is_head: bool) -> String {
    let body = match reason.kind() {
        io::ErrorKind::ConnectionRefused => {
            format!("nothing listens on port {port} of the sandbox\n")
        }
        io::ErrorKind::TimedOut => {
            format!("the server on port {port} of the sandbox takes no connections\n")
        }
        _ => format!("cannot connect to port {port} of the sandbox: {reason}\n"),
    };
    let head = format!(
        "HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    if is_head { head } else { head + &body }
}

/// Whether these first bytes look like an HTTP/1 request: a method, a space, and a line that ends with the version, as far
/// as it has come.
fn is_http_request(first: &[u8]) -> bool {
    let Some(method) = first.iter().position(|byte| *byte == b' ') else {
        return false;
    };
    let is_method =
        (3..=16).contains(&method) && first[..method].iter().all(|byte| byte.is_ascii_uppercase());
    let line = first.iter().position(|byte| *byte == b'\n');
    is_method
        && line.is_none_or(|end| {
            let line = first[..end].trim_ascii_end();
            line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_http_are_told_from_other_protocols() {
        for request in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"GET /?q=a%20b HTTP/1.0\n",
            b"PROPFIND /x HTTP/1.1\r\n",
            b"POST /a-very-long-path-that-has-not-come-to-its-end",
        ] {
            assert!(is_http_request(request), "{:?}", request.escape_ascii());
        }
        for other in [
            &b""[..],
            b"GET",
            b"get / HTTP/1.1\r\n",
            b"GET key\r\n",
            b"EHLO example.org\r\n",
            b"*1\r\n$4\r\nPING\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"\x16\x03\x01\x02\x00 ",
            b"PRI * HTTP/2.0\r\n",
        ] {
            assert!(!is_http_request(other), "{:?}", other.escape_ascii());
        }
    }

    #[test]
    fn the_answer_is_whole_and_says_which_port() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let text = answer(8000, &refused, false);
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 502 Bad Gateway\r\n"));
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())));
        assert_eq!(body, "nothing listens on port 8000 of the sandbox\n");
        assert!(answer(8000, &refused, true).ends_with("\r\n\r\n"));
    }
}
