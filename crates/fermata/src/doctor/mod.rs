//! `fermata doctor`: tries, on this machine, each thing that the server needs, and says what to do about what is missing.
//!
//! Everything is tried for real but leaves nothing behind: mounts are never attached to a path, namespaces live in a thread
//! that ends, and the control group is removed.

mod control_groups;
mod filesystems;
mod kernel;
mod limits;
mod network;
mod programs;

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use crate::endpoint;
use crate::failure::Failure;
use crate::printer::Printer;

/// How one thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    /// As it should be.
    Ok,
    /// Good to know.
    Info,
    /// Something works less well.
    Warning,
    /// The server cannot work.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    /// What was found.
    detail: String,
    /// What to do.
    advice: Option<String>,
}

impl Check {
    fn new(name: &'static str, status: Status, detail: impl Into<String>) -> Self {
        Self {
            name,
            status,
            detail: detail.into(),
            advice: None,
        }
    }

    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Status::Ok, detail)
    }

    fn info(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Status::Info, detail)
    }

    fn warning(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Status::Warning, detail)
    }

    fn fail(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Status::Fail, detail)
    }

    fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    fn line(&self) -> String {
        let mark = match self.status {
            Status::Ok => "ok",
            Status::Info => "info",
            Status::Warning => "warning",
            Status::Fail => "fail",
        };
        let advice = self
            .advice
            .as_ref()
            .map_or_else(String::new, |advice| format!(" — {advice}"));
        format!("{mark:<8} {:<18} {}{advice}", self.name, self.detail)
    }
}

#[derive(Serialize)]
struct Report {
    /// Whether nothing that is needed is missing.
    ready: bool,
    checks: Vec<Check>,
}

/// Prints one line a check; ends with 1 when something needed is missing.
pub(crate) fn doctor(data_dir: Option<PathBuf>, printer: Printer) -> Result<ExitCode, Failure> {
    let directory = endpoint::data_directory(data_dir);
    let checks = checks(&directory);
    let ready = checks.iter().all(|check| check.status != Status::Fail);
    let report = Report { ready, checks };
    printer.either(&report, || {
        let lines: Vec<_> = report.checks.iter().map(Check::line).collect();
        lines.join("\n")
    })?;
    Ok(if ready {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn checks(directory: &std::path::Path) -> Vec<Check> {
    let mut checks = vec![kernel::root(), kernel::version()];
    checks.extend(filesystems::checks());
    checks.push(kernel::time_namespaces());
    checks.push(kernel::seccomp());
    checks.extend(control_groups::checks());
    checks.extend(network::checks());
    checks.push(kernel::userfaultfd());
    checks.extend(programs::checks());
    checks.push(programs::checkpoint_engine(directory));
    checks.push(limits::disk(directory));
    checks.push(limits::open_files());
    checks
}

/// Runs a probe that changes the thread it runs in; the changes end with the thread.
fn in_thread<T: Send>(probe: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        scope
            .spawn(probe)
            .join()
            .unwrap_or_else(|_panic| Err("the probe itself failed".to_owned()))
    })
}
