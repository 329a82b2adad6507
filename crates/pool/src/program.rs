//! Host programs: `btrfs`, `mkfs.btrfs`, `mkfs.erofs`, `mmdebstrap`, `chroot`.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitStatus, Stdio};

use crate::{PoolError, Result};

/// How much of a failed program's last words an error carries.
const OUTPUT_LIMIT: usize = 4000;

/// Runs a program to its end; it must succeed.
pub(crate) fn run(program: &'static str, command: &mut Command) -> Result<()> {
    let result = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| PoolError::Spawn { program, source })?;
    let mut output = result.stderr;
    output.extend_from_slice(&result.stdout);
    judge(program, result.status, &String::from_utf8_lossy(&output))
}

/// The same, with each line of its stderr handed on while it runs.
pub(crate) fn run_with_progress(
    program: &'static str,
    command: &mut Command,
    progress: &mut dyn FnMut(&str),
) -> Result<()> {
    let spawn_error = |source| PoolError::Spawn { program, source };
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(spawn_error)?;
    let mut output = String::new();
    if let Some(stderr) = child.stderr.take() {
        // Ends when the program and all that it started have closed their stderr.
        for line in BufReader::new(stderr).split(b'\n') {
            let line = line.map_err(spawn_error)?;
            let line = String::from_utf8_lossy(&line);
            progress(&line);
            output.push_str(&line);
            output.push('\n');
        }
    }
    let status = child.wait().map_err(spawn_error)?;
    judge(program, status, &output)
}

fn judge(program: &'static str, status: ExitStatus, output: &str) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    if output.contains("No space left on device") || output.contains("[Error 28]") {
        return Err(PoolError::ProgramNoSpace { program });
    }
    let output = output.trim();
    let mut start = output.len().saturating_sub(OUTPUT_LIMIT);
    while !output.is_char_boundary(start) {
        start += 1;
    }
    Err(PoolError::Program {
        program,
        status,
        output: output[start..].to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_carries_the_last_words() {
        let error = run(
            "sh",
            Command::new("sh").args(["-c", "echo alas >&2; exit 3"]),
        )
        .unwrap_err();
        assert_eq!(error.to_string(), "sh failed (exit status: 3): alas");
        assert!(!error.is_no_space());
    }

    #[test]
    fn a_full_disk_is_recognised_in_the_words() {
        let script = "echo 'sh: No space left on device' >&2; exit 1";
        assert!(
            run("sh", Command::new("sh").args(["-c", script]))
                .unwrap_err()
                .is_no_space()
        );
    }

    #[test]
    fn lines_arrive_one_by_one() {
        let mut lines = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one >&2; printf 'tw\\377o' >&2"]);
        run_with_progress("sh", &mut command, &mut |line| lines.push(line.to_owned())).unwrap();
        assert_eq!(lines, ["one", "tw\u{fffd}o"]);
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(
            "fermata-no-such-program",
            &mut Command::new("fermata-no-such-program"),
        )
        .unwrap_err();
        assert_eq!(error.to_string(), "cannot run fermata-no-such-program");
    }
}
