//! Which processes there are.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use fermata_protocol::agent::failure::Kind;
use fermata_protocol::agent::{EnvironmentVariable, ProcessState};
use prost::Message as _;
use rustix::event::epoll;
use rustix::process::{Pid, WaitOptions, WaitStatus};

use super::{Process, State};
use crate::agent::Agent;
use crate::failure::Refusal;

/// How many finished processes are kept for callers that ask late.
const FINISHED_KEPT: usize = 4096;
/// How far the search for a finished process that nobody needs any more goes, from the oldest on.
const SEARCHED: usize = 256;
/// Descriptions in one list; the rest of the frame is for pids and states.
const LISTED_BYTES: usize = 12 << 20;

/// The processes by their pids, and those whose output is being watched.
#[derive(Debug, Default)]
pub(crate) struct Table {
    by_pid: HashMap<Pid, Arc<Process>>,
    /// By serial: a process whose pid was given to another may still have streams.
    watched: HashMap<u64, Arc<Process>>,
    /// Oldest first.
    finished: VecDeque<Arc<Process>>,
    next_serial: u64,
    /// Most processes of a sandbox share one environment: keep it once.
    last_environment: Option<Arc<[EnvironmentVariable]>>,
}

impl Table {
    /// The process, if it was started on request and not forgotten.
    pub(crate) fn find(&self, pid: i32) -> Result<Arc<Process>, Refusal> {
        // `from_raw` takes negative numbers for a bug of its caller.
        Pid::from_raw(pid.max(0))
            .and_then(|pid| self.by_pid.get(&pid))
            .filter(|process| process.state().started)
            .cloned()
            .ok_or_else(|| Refusal::new(Kind::NotFound, format!("no process with pid {pid}")))
    }

    pub(crate) fn watched(&self, serial: u64) -> Option<Arc<Process>> {
        self.watched.get(&serial).cloned()
    }

    /// To be called when a stream of the process has ended.
    pub(crate) fn stop_watching(&mut self, process: &Process) {
        let state = process.state();
        if state.stdout.source.is_none() && state.stderr.source.is_none() {
            self.watched.remove(&process.serial);
        }
    }

    pub(super) fn next_serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial
    }

    pub(super) fn shared_environment(
        &mut self,
        environment: Vec<EnvironmentVariable>,
    ) -> Arc<[EnvironmentVariable]> {
        match &self.last_environment {
            Some(last) if last[..] == environment[..] => Arc::clone(last),
            _ => {
                let environment: Arc<[_]> = environment.into();
                self.last_environment = Some(Arc::clone(&environment));
                environment
            }
        }
    }

    pub(super) fn insert(&mut self, process: &Arc<Process>) {
        self.watched.insert(process.serial, Arc::clone(process));
        if let Some(former) = self.by_pid.insert(process.pid, Arc::clone(process)) {
            // The kernel gave the pid anew, so the former holder was reaped.
            self.finished.retain(|kept| !Arc::ptr_eq(kept, &former));
            former.forget();
        }
    }

    /// Takes back an `insert` whose process did not come to run.
    pub(super) fn remove(&mut self, process: &Arc<Process>) {
        self.watched.remove(&process.serial);
        if self
            .by_pid
            .get(&process.pid)
            .is_some_and(|held| Arc::ptr_eq(held, process))
        {
            self.by_pid.remove(&process.pid);
        }
    }

    /// The states of all processes, oldest first. When they do not all fit one frame, finished ones give up their
    /// descriptions first.
    pub(crate) fn list(&self) -> Vec<ProcessState> {
        let mut processes: Vec<_> = self
            .by_pid
            .values()
            .filter(|process| process.state().started)
            .collect();
        processes.sort_unstable_by_key(|process| process.serial);
        let mut left = LISTED_BYTES;
        let mut listed: Vec<_> = processes
            .iter()
            .map(|process| process.describe(false))
            .collect();
        for running in [true, false] {
            for (state, process) in listed.iter_mut().zip(&processes) {
                if state.running != running {
                    continue;
                }
                let described = process.describe(true);
                let bytes = described.encoded_len();
                if bytes <= left {
                    left -= bytes;
                    *state = described;
                }
            }
        }
        listed
    }

    fn keep_finished(&mut self, process: &Arc<Process>, memory_is_tight: impl Fn() -> bool) {
        let now = Instant::now();
        self.finished.push_back(Arc::clone(process));
        while self.finished.len() > FINISHED_KEPT {
            let first = |is_unneeded: fn(&State, Instant) -> bool| {
                let mut oldest = self.finished.iter().take(SEARCHED);
                oldest.position(|kept| is_unneeded(&kept.state(), now))
            };
            let unneeded = first(|state, _now| state.is_read_fully())
                .or_else(|| first(|state, now| !state.is_awaited(now)))
                .unwrap_or(0);
            if let Some(forgotten) = self.finished.remove(unneeded) {
                forgotten.forget();
                if self
                    .by_pid
                    .get(&forgotten.pid)
                    .is_some_and(|held| Arc::ptr_eq(held, &forgotten))
                {
                    self.by_pid.remove(&forgotten.pid);
                }
            }
        }
        // The exit codes stay; output that was read goes first, and what somebody is reading is left.
        for only_read in [true, false] {
            for kept in &self.finished {
                if !memory_is_tight() {
                    return;
                }
                let state = kept.state();
                let may_go = state.is_read_fully() || (!only_read && !state.is_awaited(now));
                drop(state);
                if may_go && !Arc::ptr_eq(kept, process) {
                    kept.forget();
                }
            }
        }
    }
}

/// Files a process under the finished ones, once it has both been seen to run and been reaped: whichever comes last.
pub(crate) fn settle(agent: &Agent, process: &Arc<Process>) {
    let mut table = agent.table();
    let mut state = process.state();
    if state.started && state.exit_code.is_some() && !state.settled {
        state.settled = true;
        drop(state);
        table.keep_finished(process, || agent.budget.is_tight());
    }
}

/// Reaps every child that has ended: processes of ours, and orphans that fell to process 1.
pub(crate) fn reap(agent: &Agent, buffer: &mut [u8]) {
    // Peeked at first: until the child is reaped its pid is its own, so nobody can signal a stranger in between.
    while let Ok(Some(pid)) = fermata_sys::process::ended_child() {
        // The table is locked from fork to insertion: a child that is not in it was never ours.
        let process = agent.table().by_pid.get(&pid).cloned();
        match process.filter(|process| process.state().exit_code.is_none()) {
            Some(process) => finish(agent, &process, buffer),
            None => {
                wait_for(pid);
            }
        }
    }
}

fn finish(agent: &Agent, process: &Arc<Process>, buffer: &mut [u8]) {
    for source in process.finish(buffer, || wait_for(process.pid)) {
        // Not watched any more is what is wanted, whatever the reason.
        let _ = epoll::delete(&agent.epoll, source);
    }
    agent.table().stop_watching(process);
    settle(agent, process);
}

/// Reaps a child that has ended, and says how, in the way of shells.
fn wait_for(pid: Pid) -> i32 {
    match rustix::process::waitpid(Some(pid), WaitOptions::NOHANG) {
        Ok(Some((_, status))) => exit_code(status),
        // Nobody else reaps; without a status, say that it did not end well.
        _ => 255,
    }
}

fn exit_code(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    }
}
