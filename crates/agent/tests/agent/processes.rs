//! Starting, waiting, output, signals.

use std::time::{Duration, Instant};

use fermata_protocol::agent::Stream;
use fermata_protocol::agent::failure::Kind;
use fermata_runtime::{OutputFrom, StartRequest};

use crate::support::{Agent, LONG, refusal, request};

#[tokio::test]
async fn a_process_runs_with_just_the_given_environment_and_directory() {
    let agent = Agent::spawn();
    assert_eq!(
        agent.client.hello().await.unwrap().version,
        env!("CARGO_PKG_VERSION")
    );
    let pid = agent
        .client
        .start(StartRequest {
            working_directory: b"/usr".to_vec(),
            ..request(&[
                "sh",
                "-c",
                "env | grep -v -e ^PWD= -e ^_= -e ^SHLVL=; pwd; umask; echo e >&2; exit 3",
            ])
        })
        .await
        .unwrap();
    assert_eq!(agent.wait(pid).await.exit_code, 3);
    assert_eq!(agent.stdout(pid).await, "PATH=/usr/bin:/bin\n/usr\n0022\n");
    assert_eq!(agent.output(pid, Stream::Stderr).await, b"e\n");
}

#[tokio::test]
async fn all_output_is_readable_when_the_process_is_reported_as_ended() {
    let agent = Agent::spawn();
    for _ in 0..50 {
        let pid = agent.sh("printf 1; printf 2 >&2; exec printf 34").await;
        agent.wait(pid).await;
        for (stream, text) in [(Stream::Stdout, "134"), (Stream::Stderr, "2")] {
            let chunk = agent
                .client
                .read_output(pid, stream, OutputFrom::Offset(0), 0, Duration::ZERO)
                .await
                .unwrap();
            assert_eq!((&chunk.data[..], chunk.end), (text.as_bytes(), true));
        }
    }
}

#[tokio::test]
async fn signals_reach_the_whole_group_and_give_128_plus_n() {
    let agent = Agent::spawn();
    let pid = agent.sh("sleep 1000 & echo started; wait").await;
    let chunk = agent
        .client
        .read_output(pid, Stream::Stdout, OutputFrom::Offset(0), 0, LONG)
        .await
        .unwrap();
    assert_eq!(&chunk.data[..], b"started\n");
    agent.client.signal(pid, 9).await.unwrap();
    assert_eq!(agent.wait(pid).await.exit_code, 137);
    // The background process held the pipe: its end shows that it was hit too.
    assert_eq!(agent.stdout(pid).await, "started\n");
    agent.client.signal(pid, 9).await.unwrap();
    assert_eq!(refusal(agent.client.signal(1, 9).await).0, Kind::NotFound);
    assert_eq!(
        refusal(agent.client.signal(pid, 0).await).0,
        Kind::InvalidArgument
    );
    assert_eq!(
        refusal(agent.client.signal(pid, 65).await).0,
        Kind::InvalidArgument
    );
}

#[tokio::test]
async fn a_waiting_call_ends_with_its_process_or_its_time() {
    let agent = Agent::spawn();
    let pid = agent.start(&["sleep", "1000"]).await;
    let before = Instant::now();
    let state = agent
        .client
        .wait(pid, Duration::from_millis(50))
        .await
        .unwrap();
    assert!(state.running && before.elapsed() >= Duration::from_millis(50));
    let waiter = tokio::spawn({
        let client = agent.client.clone();
        async move { client.wait(pid, LONG).await.unwrap() }
    });
    agent.client.signal(pid, 15).await.unwrap();
    assert_eq!(waiter.await.unwrap().exit_code, 143);
}
