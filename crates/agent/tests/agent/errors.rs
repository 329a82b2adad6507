//! What cannot be started, and why.

use std::os::unix::fs::PermissionsExt as _;

use fermata_protocol::agent::Terminal;
use fermata_protocol::agent::failure::Kind;
use fermata_runtime::StartRequest;

use crate::support::{Agent, refusal, request, variable};

#[tokio::test]
async fn each_reason_has_its_kind_and_says_what_is_wrong() {
    let agent = Agent::spawn();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("plain"), "x").unwrap();
    std::fs::write(path("script"), "#!/no/such/interpreter\n").unwrap();
    std::fs::write(path("garbage"), [0x7f, 1, 2, 3]).unwrap();
    for name in ["script", "garbage"] {
        std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let in_directory = |command: &str| StartRequest {
        environment: vec![variable("PATH", &path(""))],
        ..request(&[command])
    };
    let working_in = |working: &str| StartRequest {
        working_directory: working.as_bytes().to_vec(),
        ..request(&["true"])
    };
    let cases = [
        (
            request(&[]),
            Kind::InvalidArgument,
            "the command is empty".to_owned(),
        ),
        (
            request(&[""]),
            Kind::InvalidArgument,
            "the command is empty".to_owned(),
        ),
        (
            request(&["true", "a\0b"]),
            Kind::InvalidArgument,
            "zero byte".to_owned(),
        ),
        (
            request(&["no-such-program"]),
            Kind::NotFound,
            "exec: \"no-such-program\": executable file not found in $PATH".to_owned(),
        ),
        (
            request(&["/no/such"]),
            Kind::NotFound,
            "exec: \"/no/such\": no such file or directory".to_owned(),
        ),
        (
            request(&["/usr"]),
            Kind::NotExecutable,
            "permission denied".to_owned(),
        ),
        (
            request(&[&path("plain")]),
            Kind::NotExecutable,
            "permission denied".to_owned(),
        ),
        (
            in_directory("plain"),
            Kind::NotExecutable,
            "exec: \"plain\": permission denied".to_owned(),
        ),
        (
            in_directory("script"),
            Kind::NotExecutable,
            "no such file or directory (the file is there".to_owned(),
        ),
        (
            in_directory("garbage"),
            Kind::NotExecutable,
            "exec format error".to_owned(),
        ),
        (
            working_in("/no/such/dir"),
            Kind::NotFound,
            "working directory \"/no/such/dir\": no such file or directory".to_owned(),
        ),
        (
            working_in("/etc/passwd"),
            Kind::NotADirectory,
            "\"/etc/passwd\": not a directory".to_owned(),
        ),
        (
            StartRequest {
                environment: vec![variable("A=B", "")],
                ..request(&["true"])
            },
            Kind::InvalidArgument,
            "\"A=B\" is not a name".to_owned(),
        ),
        (
            request(&["true", &"x".repeat(3 << 20)]),
            Kind::InvalidArgument,
            "argument list too long".to_owned(),
        ),
        (
            StartRequest {
                terminal: Some(Terminal {
                    rows: 70_000,
                    columns: 1,
                }),
                ..request(&["true"])
            },
            Kind::InvalidArgument,
            "no terminal has 70000 rows".to_owned(),
        ),
    ];
    for (request, kind, words) in cases {
        let shown = format!("{request:?}").chars().take(200).collect::<String>();
        let (found, message) = refusal(agent.client.start(request).await);
        assert!(
            found == kind && message.contains(&words),
            "{shown}: {found:?}: {message}"
        );
    }
    assert!(agent.client.processes().await.unwrap().is_empty());
    for result in [
        agent
            .client
            .wait(999_999, std::time::Duration::ZERO)
            .await
            .map(drop),
        agent.client.signal(0, 9).await,
        agent.client.signal(-1, 9).await,
        agent
            .client
            .write_input(999_999, vec![1], false)
            .await
            .map(drop),
    ] {
        assert_eq!(refusal(result).0, Kind::NotFound);
    }
}

#[tokio::test]
async fn programs_are_found_in_the_path_that_is_given() {
    let agent = Agent::spawn();
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("bin/hello");
    std::fs::create_dir(directory.path().join("bin")).unwrap();
    std::fs::write(&program, "#!/bin/sh\necho hello\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let working_directory = directory.path().to_str().unwrap().as_bytes().to_vec();
    for (path, command) in [
        (directory.path().join("bin").to_str().unwrap(), "hello"),
        ("/nowhere:bin", "hello"),
        ("/nowhere", "bin/hello"),
    ] {
        let request = StartRequest {
            environment: vec![variable("PATH", path)],
            working_directory: working_directory.clone(),
            ..request(&[command])
        };
        let pid = agent.client.start(request).await.unwrap();
        assert_eq!(agent.stdout(pid).await, "hello\n", "{path} {command}");
    }
}
