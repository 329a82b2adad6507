//! An agent that has run out of something goes on.

use std::process::Command;
use std::time::{Duration, Instant};

use fermata_protocol::agent::Stream;
use fermata_protocol::agent::failure::Kind;
use fermata_runtime::OutputFrom;

use crate::support::{Agent, LONG, refusal, request};

/// An agent as a user of its own, whose processes are limited as those of a sandbox are by its cgroup.
fn limited(user: u32, starter: &[&str]) -> Agent {
    let user = format!("--reuid={user}");
    let setpriv = ["setpriv", &user, "--clear-groups"];
    Agent::spawn_under(&[starter, &setpriv].concat(), &["--allow-local-peers"])
}

/// Sets the soft limit of processes of an agent. Only its own user may, where root lacks `CAP_SYS_RESOURCE`.
fn limit_processes(agent: &Agent, user: u32, limit: u32) {
    let set = Command::new("setpriv")
        .args([&format!("--reuid={user}"), "--clear-groups", "prlimit"])
        .args([
            &format!("--pid={}", agent.pid()),
            &format!("--nproc={limit}:"),
        ])
        .status();
    assert!(set.unwrap().success());
}

#[tokio::test]
async fn without_room_for_a_thread_or_a_process_it_still_answers() {
    let agent = limited(61_001, &[]);
    // A process that is there before the limit is.
    let pid = agent.sh("echo here; exec sleep 1000").await;
    let chunk = agent
        .client
        .read_output(pid, Stream::Stdout, OutputFrom::Offset(0), 0, LONG)
        .await
        .unwrap();
    assert_eq!(&chunk.data[..], b"here\n");
    drop(agent.client.suspend().await);
    limit_processes(&agent, 61_001, 1);

    agent.client.hello().await.unwrap();
    let (kind, message) = refusal(agent.client.start(request(&["true"])).await);
    assert_eq!(kind, Kind::ResourceExhausted, "{message}");
    let found = agent.client.find_in_files(b"/usr", "x").await;
    assert_eq!(refusal(found).0, Kind::ResourceExhausted);
    // The main thread itself serves, and must not wait for anybody.
    let before = Instant::now();
    let short = Duration::from_millis(100);
    let waiting = agent.client.wait(pid, short);
    let (state, list) = tokio::join!(waiting, agent.client.processes());
    assert!(state.unwrap().running && before.elapsed() >= short);
    assert_eq!(list.unwrap().len(), 1);
    // What ends the shortage must be possible in it.
    agent.client.signal(pid, 9).await.unwrap();
    assert_eq!(agent.wait(pid).await.exit_code, 137);

    limit_processes(&agent, 61_001, 100);
    let pid = agent.sh("echo again").await;
    assert_eq!(agent.stdout(pid).await, "again\n");
}

#[tokio::test]
async fn without_descriptors_it_refuses_and_recovers() {
    let agent = limited(61_002, &["prlimit", "--nofile=40"]);
    let mut started = Vec::new();
    let (kind, message) = loop {
        match agent.client.start(request(&["sleep", "1000"])).await {
            Ok(pid) => started.push(pid),
            refused => break refusal(refused),
        }
        assert!(started.len() < 40);
    };
    assert_eq!(kind, Kind::ResourceExhausted, "{message}");
    // More connections than there is room for are hung up on; the one that is there goes on.
    let others: Vec<_> = (0..10).map(|_| agent.another_client()).collect();
    let mut refused = 0;
    for other in &others {
        refused += u32::from(other.hello().await.is_err());
    }
    assert!(refused > 0);
    for pid in &started {
        agent.client.signal(*pid, 9).await.unwrap();
        assert_eq!(agent.wait(*pid).await.exit_code, 137);
    }
    for other in others {
        other.hello().await.unwrap();
    }
    let pid = agent.sh("echo again").await;
    assert_eq!(agent.stdout(pid).await, "again\n");
}

#[tokio::test]
async fn a_fork_storm_is_counted_to_its_end() {
    let agent = limited(61_003, &["prlimit", "--nproc=60"]);
    let pid = agent.sh("f() { f | f; }; f & exit 3").await;
    assert_eq!(agent.wait(pid).await.exit_code, 3);
    agent.client.hello().await.unwrap();
    // Signals until nobody is left who could fork once more.
    let deadline = Instant::now() + LONG;
    loop {
        agent.client.signal(pid, 9).await.unwrap();
        let from = OutputFrom::Offset(0);
        let end = agent
            .client
            .read_output(pid, Stream::Stdout, from, 0, Duration::ZERO)
            .await
            .unwrap();
        if end.end {
            break;
        }
        assert!(Instant::now() < deadline, "the storm goes on");
    }
    let pid = agent.sh("echo calm").await;
    assert_eq!(agent.stdout(pid).await, "calm\n");
}
