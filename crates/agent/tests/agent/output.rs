//! Output: many readers, much of it, held by others, of any bytes.

use std::time::Duration;

use fermata_protocol::agent::Stream;
use fermata_runtime::OutputFrom;

use crate::support::{Agent, LONG};

fn cursor(name: &str, request_id: &str) -> OutputFrom {
    OutputFrom::Cursor {
        name: name.to_owned(),
        request_id: request_id.to_owned(),
    }
}

#[tokio::test]
async fn bytes_that_are_no_text_come_through_as_they_are() {
    let agent = Agent::spawn();
    let pid = agent.sh(r"printf '\377\376\000\n\303'").await;
    assert_eq!(agent.output(pid, Stream::Stdout).await, b"\xff\xfe\0\n\xc3");
}

#[tokio::test]
async fn a_flood_of_output_is_bounded_in_memory_and_its_end_is_kept() {
    const WRITTEN: u64 = 200 << 20;
    let agent = Agent::spawn();
    let pid = agent.sh("head -c 209715197 /dev/zero; printf end").await;
    agent.wait(pid).await;
    assert!(
        agent.memory_kib("VmHWM") < 40 << 10,
        "peak of {} KiB",
        agent.memory_kib("VmHWM")
    );
    let from = OutputFrom::Offset(0);
    let first = agent
        .client
        .read_output(pid, Stream::Stdout, from, 10, LONG)
        .await
        .unwrap();
    assert_eq!(first.offset, first.dropped_bytes);
    assert!(WRITTEN - first.offset <= 16 << 20);
    let from = OutputFrom::Offset(WRITTEN - 3);
    let last = agent
        .client
        .read_output(pid, Stream::Stdout, from, 10, LONG)
        .await
        .unwrap();
    assert_eq!((&last.data[..], last.end), (&b"end"[..], true));
}

#[tokio::test]
async fn a_reader_that_keeps_up_gets_every_byte_of_a_flood() {
    let agent = Agent::spawn();
    let pid = agent.sh("seq 1 300000").await;
    let expected: String = (1..=300_000).map(|number| format!("{number}\n")).collect();
    assert!(agent.stdout(pid).await == expected);
}

#[tokio::test]
async fn a_grandchild_that_holds_the_pipes_delays_nobody_and_is_heard_later() {
    let agent = Agent::spawn();
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("go");
    let script = format!(
        "mkfifo {0}; (read line <{0}; echo late; echo late >&2) & echo early",
        fifo.display()
    );
    let pid = agent.sh(&script).await;
    assert_eq!(agent.wait(pid).await.exit_code, 0);
    let from = OutputFrom::Offset(0);
    let chunk = agent
        .client
        .read_output(pid, Stream::Stdout, from, 0, Duration::ZERO)
        .await
        .unwrap();
    assert_eq!((&chunk.data[..], chunk.end), (&b"early\n"[..], false));
    tokio::task::spawn_blocking(move || std::fs::write(fifo, "\n").unwrap())
        .await
        .unwrap();
    assert_eq!(agent.stdout(pid).await, "early\nlate\n");
    assert_eq!(agent.output(pid, Stream::Stderr).await, b"late\n");
}

#[tokio::test]
async fn a_grandchild_that_never_stops_writing_does_not_keep_its_parent_alive() {
    let agent = Agent::spawn();
    let pid = agent.sh("yes & exit 7").await;
    assert_eq!(agent.wait(pid).await.exit_code, 7);
    // The group outlives its leader, and a signal still reaches it.
    agent.client.signal(pid, 9).await.unwrap();
    let mut offset = 0;
    loop {
        let from = OutputFrom::Offset(offset);
        let chunk = agent
            .client
            .read_output(pid, Stream::Stdout, from, 0, LONG)
            .await
            .unwrap();
        offset = chunk.offset + u64::try_from(chunk.data.len()).unwrap();
        if chunk.end {
            break;
        }
        assert!(!chunk.data.is_empty(), "the writer was not ended");
    }
}

#[tokio::test]
async fn two_readers_and_a_cursor_read_the_same() {
    let agent = Agent::spawn();
    let pid = agent.sh("for i in 1 2 3 4 5 6 7 8; do echo $i; done").await;
    let (client, other) = (agent.client.clone(), agent.another_client());
    let by_cursor = async {
        let mut all = Vec::new();
        for number in 0.. {
            let from = cursor("c", &number.to_string());
            let chunk = other
                .read_output(pid, Stream::Stdout, from, 3, LONG)
                .await
                .unwrap();
            all.extend_from_slice(&chunk.data);
            if chunk.end {
                break;
            }
        }
        all
    };
    let by_offset = async {
        let mut all = Vec::new();
        loop {
            let from = OutputFrom::Offset(u64::try_from(all.len()).unwrap());
            let chunk = client
                .read_output(pid, Stream::Stdout, from, 5, LONG)
                .await
                .unwrap();
            all.extend_from_slice(&chunk.data);
            if chunk.end {
                break all;
            }
        }
    };
    let (one, two) = tokio::join!(by_cursor, by_offset);
    assert_eq!(one, b"1\n2\n3\n4\n5\n6\n7\n8\n");
    assert_eq!(one, two);
}

#[tokio::test]
async fn a_repeated_read_gets_the_same_bytes_even_while_more_comes() {
    let agent = Agent::spawn();
    let pid = agent.start(&["cat"]).await;
    agent.wait(pid).await;
    let pid = agent
        .client
        .start(fermata_runtime::StartRequest {
            open_stdin: true,
            ..crate::support::request(&["cat"])
        })
        .await
        .unwrap();
    let read = |request_id: &'static str| {
        let client = &agent.client;
        async move {
            let chunk = client
                .read_output(pid, Stream::Stdout, cursor("c", request_id), 0, LONG)
                .await
                .unwrap();
            String::from_utf8(chunk.data.to_vec()).unwrap()
        }
    };
    agent
        .client
        .write_input(pid, b"one".to_vec(), false)
        .await
        .unwrap();
    assert_eq!(read("1").await, "one");
    agent
        .client
        .write_input(pid, b"two".to_vec(), true)
        .await
        .unwrap();
    agent.wait(pid).await;
    assert_eq!(read("1").await, "one");
    assert_eq!(read("2").await, "two");
    // Both are repeated at once, by clients that know nothing of each other.
    let other = agent.another_client();
    let again = other
        .read_output(pid, Stream::Stdout, cursor("c", "2"), 0, LONG)
        .await
        .unwrap();
    assert_eq!(&again.data[..], b"two");
    assert_eq!(read("3").await, "");
}
