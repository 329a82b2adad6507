//! Who is served, and what becomes of connections.

use std::io::{Read as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

use fermata_protocol::agent::{Failure, Request, Response, Stream, failure, response};
use fermata_protocol::frame;
use fermata_runtime::{AgentClient, OutputFrom, RuntimeError, StartRequest};

use crate::support::{Agent, LONG, own_network_namespace, request};

fn connect(agent: &Agent) -> UnixStream {
    let address = SocketAddr::from_abstract_name(&agent.socket_name).unwrap();
    UnixStream::connect_addr(&address).unwrap()
}

fn threads(agent: &Agent) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", agent.pid()))
        .unwrap()
        .count()
}

fn sockets(agent: &Agent) -> usize {
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap();
    descriptors
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}

#[tokio::test]
async fn peers_inside_the_sandbox_are_refused() {
    let agent = Agent::spawn_with(&[]);
    assert!(matches!(
        agent.client.hello().await,
        Err(RuntimeError::Call { .. })
    ));
    let mut stream = connect(&agent);
    // The agent has hung up without reading: an end, or a reset where it had not.
    let mut answer = Vec::new();
    assert!(!matches!(stream.read_to_end(&mut answer), Ok(1..)));
}

#[tokio::test]
async fn nobody_listening_is_told_from_a_broken_call() {
    let client =
        AgentClient::with_socket_name(own_network_namespace(), b"fermata-nobody-here".to_vec());
    assert!(matches!(
        client.hello().await,
        Err(RuntimeError::Connect { .. })
    ));
    let client = AgentClient::new("/no/such/namespace".into());
    assert!(matches!(
        client.hello().await,
        Err(RuntimeError::Connect { .. })
    ));
}

#[test]
fn garbage_is_answered_or_hung_up_on_and_harms_nobody() {
    let agent = Agent::spawn();
    let mut stream = connect(&agent);
    stream.write_all(&[3, 0, 0, 0, 0xff, 0xff, 0xff]).unwrap();
    let response: Response = frame::read(&mut stream).unwrap().unwrap();
    let invalid = i32::from(failure::Kind::InvalidArgument);
    assert!(
        matches!(response.result, Some(response::Result::Failure(Failure { kind, .. })) if kind == invalid)
    );
    // A call of a later version, on the same connection.
    frame::write(&mut stream, &Request { call: None }).unwrap();
    let response: Response = frame::read(&mut stream).unwrap().unwrap();
    assert!(
        matches!(response.result, Some(response::Result::Failure(Failure { kind, .. })) if kind == invalid)
    );

    let mut stream = connect(&agent);
    stream.write_all(&[0xff; 4]).unwrap();
    assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)));
    let mut stream = connect(&agent);
    stream.write_all(&[100, 0, 0, 0, 1]).unwrap();
    drop(stream);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(agent.client.hello()).unwrap();
}

#[tokio::test]
async fn suspending_leaves_one_thread_and_no_connection_and_repeats_waits_later() {
    let agent = Agent::spawn();
    let pid = agent.start(&["sleep", "1000"]).await;
    let wait = tokio::spawn({
        let client = agent.client.clone();
        async move { client.wait(pid, LONG).await }
    });
    let read = tokio::spawn({
        let client = agent.client.clone();
        async move {
            client
                .read_output(pid, Stream::Stdout, OutputFrom::Offset(0), 0, LONG)
                .await
        }
    });
    let deadline = Instant::now() + LONG;
    while threads(&agent) < 3 {
        assert!(Instant::now() < deadline, "the calls did not arrive");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let suspension = agent.client.suspend().await;
    // The listener only. A thread closes its socket just before it ends.
    while sockets(&agent) > 1 || threads(&agent) > 1 {
        assert!(
            Instant::now() < deadline,
            "a connection or a thread is left"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let held_back = tokio::time::timeout(Duration::from_millis(50), agent.client.hello()).await;
    assert!(held_back.is_err() && !wait.is_finished() && !read.is_finished());
    agent.another_client().signal(pid, 9).await.unwrap();
    drop(suspension);
    assert_eq!(wait.await.unwrap().unwrap().exit_code, 137);
    assert!(read.await.unwrap().unwrap().end);
}

#[tokio::test]
async fn a_call_that_is_given_up_ends_in_the_agent_too() {
    let agent = Agent::spawn();
    let pid = agent
        .client
        .start(StartRequest {
            open_stdin: true,
            ..request(&["sleep", "1000"])
        })
        .await
        .unwrap();
    drop(agent.client.suspend().await);
    let short = Duration::from_millis(50);
    let client = &agent.client;
    assert!(
        tokio::time::timeout(short, client.wait(pid, LONG))
            .await
            .is_err()
    );
    assert!(
        tokio::time::timeout(short, client.write_input(pid, vec![0; 1 << 20], false))
            .await
            .is_err()
    );
    let deadline = Instant::now() + LONG;
    while threads(&agent) > 1 {
        assert!(Instant::now() < deadline, "a thread still works for nobody");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // And the next call gets its own answer.
    assert!(client.wait(pid, Duration::ZERO).await.unwrap().running);
}

#[tokio::test]
async fn few_connections_are_kept_and_dead_ones_are_replaced() {
    let agent = Agent::spawn();
    let calls = (0..20).map(|_| agent.client.hello());
    for answer in futures::future::join_all(calls).await {
        answer.unwrap();
    }
    let deadline = Instant::now() + LONG;
    while sockets(&agent) > 1 + 4 {
        assert!(
            Instant::now() < deadline,
            "{} sockets are kept",
            sockets(&agent)
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
