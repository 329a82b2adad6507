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

#[tokio::test]
async fn a_repeated_request_starts_one_process() {
    let agent = Agent::spawn();
    let start = |id: &str| {
        let request = StartRequest {
            request_id: id.to_owned(),
            ..request(&["true"])
        };
        let client = agent.another_client();
        async move { client.start(request).await.unwrap() }
    };
    let (one, two, other) = tokio::join!(start("a"), start("a"), start("b"));
    assert_eq!(one, two);
    assert_ne!(one, other);
    agent.wait(one).await;
    assert_eq!(start("a").await, one);
    assert_eq!(agent.client.processes().await.unwrap().len(), 2);
}

#[tokio::test]
async fn input_is_written_whole_and_closed() {
    let agent = Agent::spawn();
    let open = |arguments: &[&str]| StartRequest {
        open_stdin: true,
        ..request(arguments)
    };
    let pid = agent.client.start(open(&["wc", "-c"])).await.unwrap();
    let data = vec![b'x'; 5 << 20];
    assert_eq!(
        agent.client.write_input(pid, data, true).await.unwrap(),
        5 << 20
    );
    assert_eq!(agent.stdout(pid).await, "5242880\n");
    agent.wait(pid).await;
    let late = agent.client.write_input(pid, b"x".to_vec(), false).await;
    assert_eq!(refusal(late).0, Kind::FailedPrecondition);
    // Closing twice is no mistake.
    assert_eq!(
        agent
            .client
            .write_input(pid, Vec::new(), true)
            .await
            .unwrap(),
        0
    );

    let without = agent.start(&["sleep", "1000"]).await;
    let refused = agent
        .client
        .write_input(without, b"x".to_vec(), false)
        .await;
    assert_eq!(refusal(refused).0, Kind::FailedPrecondition);
}

#[tokio::test]
async fn a_process_that_dies_while_it_is_written_to_is_told_of() {
    let agent = Agent::spawn();
    let request = StartRequest {
        open_stdin: true,
        ..request(&["sleep", "1000"])
    };
    let pid = agent.client.start(request).await.unwrap();
    let writer = tokio::spawn({
        let client = agent.client.clone();
        async move { client.write_input(pid, vec![0; 1 << 20], false).await }
    });
    // Others are served while the writer waits for a process that does not read.
    agent.another_client().hello().await.unwrap();
    agent.client.signal(pid, 9).await.unwrap();
    let (kind, message) = refusal(writer.await.unwrap());
    assert_eq!(kind, Kind::FailedPrecondition, "{message}");
}

#[tokio::test]
async fn processes_are_listed_as_they_were_started() {
    let agent = Agent::spawn();
    let ended = agent.sh("exit 9").await;
    let running = agent
        .client
        .start(StartRequest {
            working_directory: b"/tmp".to_vec(),
            ..request(&["sleep", "1000"])
        })
        .await
        .unwrap();
    agent.wait(ended).await;
    let failed = agent.client.start(request(&["no-such-program"])).await;
    assert_eq!(refusal(failed).0, Kind::NotFound);
    let processes = agent.client.processes().await.unwrap();
    let [first, second] = &processes[..] else {
        panic!("{processes:?}");
    };
    assert_eq!(
        (first.pid, first.running, first.exit_code),
        (ended, false, 9)
    );
    assert_eq!((second.pid, second.running), (running, true));
    assert_eq!(second.arguments, ["sleep", "1000"]);
    assert_eq!(second.working_directory, "/tmp");
    assert_eq!(second.environment, request(&[]).environment);
}

#[tokio::test]
async fn orphans_are_reaped() {
    let agent = Agent::spawn();
    let pid = agent.sh("(sleep 0.01 & sleep 0.02 &) ; echo done").await;
    agent.wait(pid).await;
    let children = format!("/proc/{0}/task/{0}/children", agent.pid());
    let deadline = Instant::now() + LONG;
    while !std::fs::read_to_string(&children)
        .unwrap()
        .trim()
        .is_empty()
    {
        assert!(Instant::now() < deadline, "a child was not reaped");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn children_have_default_signals_no_mask_and_no_descriptors_of_ours() {
    let agent = Agent::spawn();
    let pid = agent
        .sh("grep -E '^Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd; ulimit -n")
        .await;
    let text = agent.stdout(pid).await;
    let zero = "0000000000000000";
    // 3 is the directory that ls itself reads.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    assert_eq!(
        text,
        format!(
            "SigBlk:\t{zero}\nSigIgn:\t{zero}\n0\n1\n2\n3\n{}\n",
            limit
                .current
                .map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
        )
    );
}

#[tokio::test]
async fn many_processes_at_once_each_have_their_own_output() {
    let agent = Agent::spawn();
    let runs = (0..100).map(|number: i32| {
        let agent = &agent;
        async move {
            let pid = agent.sh(&format!("echo {number}; exit {number}")).await;
            assert_eq!(agent.stdout(pid).await, format!("{number}\n"));
            assert_eq!(agent.wait(pid).await.exit_code, number);
        }
    });
    futures::future::join_all(runs).await;
}
