//! Runs the program with nothing of the environment of whoever runs the tests.

use std::path::Path;
use std::process::{Command, Output, Stdio};

pub(crate) struct Fermata(Command);

pub(crate) struct Ended {
    pub(crate) pid: u32,
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Fermata {
    pub(crate) fn new(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fermata"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self(command)
    }

    pub(crate) fn variable(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    pub(crate) fn run(mut self) -> Ended {
        let child = self.0.spawn().unwrap();
        let pid = child.id();
        let Output {
            status,
            stdout,
            stderr,
        } = child.wait_with_output().unwrap();
        Ended {
            pid,
            code: status.code().expect("not ended by a signal"),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }
}

/// A data directory as a running server leaves it.
pub(crate) fn pretend_server(directory: &Path, grpc: &str, http: &str, token: &str) {
    let endpoints = format!(r#"{{"grpc": "{grpc}", "http": "{http}", "pid": 1}}"#);
    std::fs::write(directory.join("endpoints.json"), endpoints).unwrap();
    std::fs::write(directory.join("token"), format!("{token}\n")).unwrap();
}
