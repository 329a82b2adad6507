//! Processes on a terminal.

use fermata_protocol::agent::failure::Kind;
use fermata_protocol::agent::{Stream, Terminal};
use fermata_runtime::{OutputFrom, StartRequest};

use crate::support::{Agent, LONG, refusal, request};

fn on_terminal(script: &str) -> StartRequest {
    StartRequest {
        terminal: Some(Terminal {
            rows: 31,
            columns: 97,
        }),
        ..request(&["sh", "-c", script])
    }
}

/// Reads until the output holds these words.
async fn read_until(agent: &Agent, pid: i32, words: &str) -> String {
    let mut all = String::new();
    while !all.contains(words) {
        let from = OutputFrom::Offset(u64::try_from(all.len()).unwrap());
        let chunk = agent
            .client
            .read_output(pid, Stream::Stdout, from, 0, LONG)
            .await
            .unwrap();
        assert!(
            !chunk.data.is_empty(),
            "{words:?} did not come after {all:?}"
        );
        all.push_str(std::str::from_utf8(&chunk.data).unwrap());
    }
    all
}

#[tokio::test]
async fn a_terminal_has_a_size_takes_another_and_tells_of_it() {
    let agent = Agent::spawn();
    let script = "trap 'stty size; exit 5' WINCH; stty size; tty; while :; do sleep 0.01; done";
    let pid = agent.client.start(on_terminal(script)).await.unwrap();
    read_until(&agent, pid, "31 97\r\n/dev/pts/").await;
    let size = Terminal {
        rows: 11,
        columns: 22,
    };
    agent.client.resize(pid, size).await.unwrap();
    assert_eq!(agent.wait(pid).await.exit_code, 5);
    let all = agent.stdout(pid).await;
    assert!(all.ends_with("11 22\r\n"), "{all:?}");
    assert_eq!(agent.output(pid, Stream::Stderr).await, b"");
}

#[tokio::test]
async fn all_that_was_written_to_a_terminal_is_there_at_the_end() {
    let agent = Agent::spawn();
    for _ in 0..20 {
        let pid = agent.client.start(on_terminal("seq 1 2000")).await.unwrap();
        agent.wait(pid).await;
        let from = OutputFrom::Offset(0);
        let none = std::time::Duration::ZERO;
        let chunk = agent
            .client
            .read_output(pid, Stream::Stdout, from, 0, none)
            .await
            .unwrap();
        assert!(chunk.data.ends_with(b"\r\n2000\r\n") && chunk.end);
    }
}

#[tokio::test]
async fn typing_reaches_the_process_and_control_characters_do_what_they_do() {
    let agent = Agent::spawn();
    let pid = agent
        .client
        .start(on_terminal("read line; echo got $line; cat; echo over"))
        .await
        .unwrap();
    agent
        .client
        .write_input(pid, b"hello\n".to_vec(), false)
        .await
        .unwrap();
    read_until(&agent, pid, "got hello\r\n").await;
    // Closing is ^D: the end of cat's input.
    agent
        .client
        .write_input(pid, Vec::new(), true)
        .await
        .unwrap();
    assert_eq!(agent.wait(pid).await.exit_code, 0);
    assert!(agent.stdout(pid).await.ends_with("over\r\n"));

    let pid = agent
        .client
        .start(on_terminal("echo ready; exec sleep 1000"))
        .await
        .unwrap();
    read_until(&agent, pid, "ready").await;
    agent.client.write_input(pid, vec![3], false).await.unwrap();
    assert_eq!(agent.wait(pid).await.exit_code, 130);
}

#[tokio::test]
async fn a_process_without_a_terminal_has_none_to_resize() {
    let agent = Agent::spawn();
    let pid = agent.start(&["sleep", "1000"]).await;
    let size = Terminal {
        rows: 1,
        columns: 1,
    };
    assert_eq!(
        refusal(agent.client.resize(pid, size).await).0,
        Kind::FailedPrecondition
    );
}
