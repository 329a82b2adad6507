//! What CRIU's log says about a failure.

use std::path::Path;

use super::rpc::Response;
use crate::{CheckpointError, Process};

/// Warnings and errors, and which process is being worked on: enough to name what cannot be held.
pub(super) const LEVEL: i32 = 3;

/// How many of the last lines errors carry.
const TAIL_LINES: usize = 30;

/// The text of a log; empty when there is none.
pub(super) fn read(path: &Path) -> String {
    std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// Its last lines.
pub(super) fn tail(text: &str) -> String {
    let lines = text.lines().collect::<Vec<_>>();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// A capture that CRIU refused.
pub(super) fn refusal(text: &str, response: &Response, init_pid: i32) -> CheckpointError {
    CheckpointError::Refused {
        process: subject(text, init_pid),
        reason: reason(text, response),
        log: tail(text),
    }
}

/// A restore that CRIU gave up.
pub(super) fn not_restored(text: &str, response: &Response) -> CheckpointError {
    CheckpointError::NotRestored {
        reason: reason(text, response),
        log: tail(text),
    }
}

/// The first error is the cause; those after it tell who gave up because of it. Errors that CRIU itself goes on from are not it.
fn reason(text: &str, response: &Response) -> String {
    text.lines()
        .filter_map(|line| line.split_once("Error ("))
        .filter_map(|(_, rest)| rest.split_once("): ").map(|(_, words)| words.trim()))
        .find(|words| !is_harmless(words))
        .map(str::to_owned)
        .or_else(|| response.cr_errmsg.clone())
        .unwrap_or_else(|| {
            let errno = rustix::io::Errno::from_raw_os_error(response.cr_errno().abs());
            format!(
                "CRIU gave no reason (error number {})",
                errno.raw_os_error()
            )
        })
}

fn is_harmless(words: &str) -> bool {
    // Raising its own limit is refused where the hard limit is low; it works with what it has.
    words.starts_with("rlimit: Can't setup RLIMIT")
}

/// The process that was being looked at when the first error came.
fn subject(text: &str, init_pid: i32) -> Option<Process> {
    let mut last = None;
    for line in text.lines() {
        if line.split_once("Error (").is_some_and(|(_, rest)| {
            !rest
                .split_once("): ")
                .is_some_and(|(_, words)| is_harmless(words.trim()))
        }) {
            break;
        }
        // "Dumping task (pid: 123 comm: python3)", and with "opened files", "pages" and others in its place.
        if let Some((_, rest)) = line.split_once("(pid: ")
            && let Some(pid) = rest
                .split([' ', ')'])
                .next()
                .and_then(|word| word.parse().ok())
        {
            let name = rest
                .split_once(" comm: ")
                .and_then(|(_, name)| name.rsplit_once(')'))
                .map(|(name, _)| name.to_owned());
            last = Some(match (last, name) {
                (_, Some(name)) => (pid, name),
                (Some((old, name)), None) if old == pid => (old, name),
                (_, None) => (pid, String::new()),
            });
        }
    }
    let (host_pid, mut name): (i32, String) = last?;
    if name.is_empty() {
        name = std::fs::read_to_string(format!("/proc/{host_pid}/comm"))
            .map(|name| name.trim_end().to_owned())
            .unwrap_or_default();
    }
    // The tree lives on after a refusal, so the process can still be asked for its pid inside.
    let pid = if host_pid == init_pid {
        1
    } else {
        pid_inside(host_pid).unwrap_or(host_pid)
    };
    Some(Process { pid, name })
}

/// The pid that a process has in the innermost of its namespaces.
pub(super) fn pid_inside(host_pid: i32) -> Option<i32> {
    std::fs::read_to_string(format!("/proc/{host_pid}/status"))
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?
        .split_whitespace()
        .next_back()?
        .parse()
        .ok()
}
