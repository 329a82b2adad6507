//! Commands against a server that is not there, or that answers with errors.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::thread::JoinHandle;

use crate::fermata::{Ended, Fermata};

/// Answers one request with this status and body; gives the request's head.
fn answer_once(status: &'static str, body: &'static str) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let head: Vec<_> = BufReader::new(&connection)
            .lines()
            .map(Result::unwrap)
            .take_while(|line| !line.is_empty())
            .collect();
        write!(
            connection,
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        head.join("\n")
    });
    (url, server)
}

fn ps(url: &str) -> Ended {
    Fermata::new(&["ps"])
        .variable("FERMATA_URL", url)
        .variable("FERMATA_TOKEN", "the-token")
        .run()
}

#[test]
fn an_empty_list_is_a_table_of_titles() {
    let (url, server) = answer_once("200 OK", "[]");
    let ended = ps(&url);
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    assert_eq!(
        ended.stdout.split_whitespace().collect::<Vec<_>>(),
        ["ID", "IMAGE", "STATUS", "CREATED", "EXPIRES"]
    );
    let head = server.join().unwrap();
    assert!(head.starts_with("GET /v1/sandboxes "), "{head}");
    assert!(head.contains("Bearer the-token"), "{head}");
}

#[test]
fn the_servers_words_are_passed_on_and_a_refusal_is_code_1() {
    let (url, server) = answer_once(
        "507 Insufficient Storage",
        r#"{"error": {"kind": "resource_exhausted", "message": "the pool is full"}}"#,
    );
    let ended = ps(&url);
    server.join().unwrap();
    assert_eq!(ended.code, 1);
    assert_eq!(
        ended.stderr,
        "error: the pool is full\nhint: stop sandboxes or remove images to make room\n"
    );
}

#[test]
fn a_refused_token_is_code_2() {
    let (url, server) = answer_once(
        "401 Unauthorized",
        r#"{"error": {"kind": "unauthenticated", "message": "invalid or missing token"}}"#,
    );
    let ended = ps(&url);
    server.join().unwrap();
    assert_eq!(ended.code, 2);
    assert!(
        ended.stderr.contains("hint: FERMATA_TOKEN"),
        "{}",
        ended.stderr
    );
}

#[test]
fn something_else_that_answers_is_not_taken_for_a_server() {
    for (status, body) in [("200 OK", "<html>"), ("404 Not Found", "<html>")] {
        let (url, server) = answer_once(status, body);
        let ended = ps(&url);
        server.join().unwrap();
        assert_eq!(ended.code, 2, "{}", ended.stderr);
        assert_eq!(ended.stdout, "");
    }
}

#[test]
fn a_server_that_is_not_there_is_code_2_with_a_hint() {
    // Bound and let go again: nobody listens there.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let ended = ps(&format!("http://{address}"));
    assert_eq!(ended.code, 2);
    assert!(
        ended.stderr.starts_with("error: cannot reach the server"),
        "{}",
        ended.stderr
    );
    assert!(
        ended.stderr.contains("hint: is `fermata serve` running"),
        "{}",
        ended.stderr
    );
}

#[test]
fn an_address_without_token_and_a_wrong_address_are_told_apart() {
    let ended = Fermata::new(&["ps"])
        .variable("FERMATA_URL", "http://127.0.0.1:1")
        .run();
    assert_eq!(ended.code, 2);
    assert!(
        ended.stderr.contains("FERMATA_TOKEN is not"),
        "{}",
        ended.stderr
    );
    let ended = ps("https://127.0.0.1:1");
    assert_eq!(ended.code, 2);
    assert!(
        ended.stderr.contains("http://HOST:PORT"),
        "{}",
        ended.stderr
    );
}
