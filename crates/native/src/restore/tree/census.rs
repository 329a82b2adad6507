//! Who is in the tree, checked: nothing after this meets an unknown parent, a pid twice, or a group across sessions.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::plan::Foreground;
use crate::image::{Process, State};
use crate::{NativeError, Owner};

/// One past the greatest pid (`PID_MAX_LIMIT` of the kernel's threads.h).
const PID_LIMIT: i32 = 1 << 22;

/// A tree that makes sense as such. Processes are named by their place in the image.
#[derive(Debug)]
pub(super) struct Census<'a> {
    pub(super) processes: &'a [Process],
    /// Of each process; process 1 is its own.
    pub(super) parents: Vec<usize>,
    /// Of each process, in the image's order.
    pub(super) children: Vec<Vec<usize>>,
    /// Sessions whose leader is no process any more.
    pub(super) ended_sessions: BTreeSet<i32>,
    /// Groups whose leader is no process any more and never led a session, by session.
    pub(super) ended_groups: BTreeMap<i32, Vec<i32>>,
    /// A pid that nobody has, for helpers.
    pub(super) spare_pid: i32,
    /// The greatest id in use.
    pub(super) greatest_id: i32,
    places: HashMap<i32, usize>,
    groups: HashMap<i32, i32>,
    /// A process's descendants are those that come after it in depth first order, before its end.
    depth_first: Vec<std::ops::Range<usize>>,
}

impl<'a> Census<'a> {
    /// Looks at every process.
    pub(super) fn take(
        processes: &'a [Process],
        foregrounds: &[Foreground],
    ) -> Result<Self, NativeError> {
        let mut census = Self {
            processes,
            parents: Vec::with_capacity(processes.len()),
            children: vec![Vec::new(); processes.len()],
            ended_sessions: BTreeSet::new(),
            ended_groups: BTreeMap::new(),
            spare_pid: 0,
            greatest_id: 1,
            places: HashMap::with_capacity(processes.len()),
            groups: HashMap::new(),
            depth_first: Vec::new(),
        };
        for process in processes {
            census.add(process)?;
        }
        if processes.is_empty() {
            return Err(damaged("it has no process".to_owned()));
        }
        census.check_sessions()?;
        census.check_groups(foregrounds)?;
        census.check_ids()?;
        census.depth_first = depth_first(&census.parents);
        Ok(census)
    }

    /// Whether a process leads its session.
    pub(super) fn leads_session(&self, place: usize) -> bool {
        self.processes[place].session == self.processes[place].pid
    }

    /// Whether a group has a process's pid, whether the process is in it or not, and is not a session's first.
    pub(super) fn leads_group(&self, place: usize) -> bool {
        !self.leads_session(place) && self.groups.contains_key(&self.processes[place].pid)
    }

    /// Where the process with a pid is.
    pub(super) fn place(&self, pid: i32) -> Option<usize> {
        self.places.get(&pid).copied()
    }

    /// Whether `place` is `ancestor` or below it.
    pub(super) fn is_within(&self, place: usize, ancestor: usize) -> bool {
        self.depth_first[ancestor].contains(&self.depth_first[place].start)
    }

    fn add(&mut self, process: &Process) -> Result<(), NativeError> {
        let place = self.parents.len();
        let pid = process.pid;
        let is_first = place == 0;
        if is_first != (pid == 1) || !(1..PID_LIMIT).contains(&pid) {
            return Err(damaged(format!("process {pid} is in place {place}")));
        }
        let parent = match self.place(process.parent) {
            Some(parent) => parent,
            None if is_first && process.parent == 0 => 0,
            None => {
                return Err(damaged(format!(
                    "process {pid} comes before its parent {}",
                    process.parent
                )));
            }
        };
        if !is_first {
            if matches!(self.processes[parent].state, State::Zombie { .. }) {
                return Err(damaged(format!("zombie {} has a child", process.parent)));
            }
            self.children[parent].push(place);
        }
        match process.state {
            State::Zombie { .. } if is_first => {
                return Err(damaged("process 1 has ended".to_owned()));
            }
            State::Zombie { status } if !is_end(status) => {
                return Err(damaged(format!("zombie {pid} has status {status:#x}")));
            }
            _ => {}
        }
        if self.places.insert(pid, place).is_some() {
            return Err(damaged(format!("process {pid} is there twice")));
        }
        self.parents.push(parent);
        Ok(())
    }

    fn check_sessions(&mut self) -> Result<(), NativeError> {
        // Only where process 1 is can the others be.
        let outside = self.processes[0].session == 0;
        for process in self.processes {
            let Process { pid, session, .. } = *process;
            if session == 0 && outside {
                continue;
            }
            let makes_sense = match self.place(session) {
                // A leader leads its first group for ever (setpgid(2)).
                Some(leader) => {
                    let leader = &self.processes[leader];
                    leader.session == session && leader.group == session
                }
                None => (1..PID_LIMIT).contains(&session),
            };
            if !makes_sense || (pid == 1 && session != 1) {
                return Err(damaged(format!(
                    "process {pid} cannot be in session {session}"
                )));
            }
            if self.place(session).is_none() {
                self.ended_sessions.insert(session);
            }
        }
        Ok(())
    }

    fn check_groups(&mut self, foregrounds: &[Foreground]) -> Result<(), NativeError> {
        for process in self.processes {
            let Process { group, session, .. } = *process;
            if group == 0 && session == 0 {
                continue;
            }
            self.check_group(group, session).ok_or_else(|| {
                damaged(format!(
                    "process {} cannot be in group {group} of session {session}",
                    process.pid
                ))
            })?;
        }
        let members: HashSet<i32> = self.groups.keys().copied().collect();
        for &Foreground { session, group } in foregrounds {
            let leader = self.place(session);
            let Some(leader) = leader.filter(|&leader| self.leads_session(leader)) else {
                return Err(damaged(format!(
                    "session {session} with a terminal has no leader"
                )));
            };
            // A terminal keeps the number of a group without members although the number may be given to another.
            let is_there = members.contains(&group) || !self.is_taken(group);
            if !is_there || self.check_group(group, session).is_none() {
                return Err(unheld(
                    &self.processes[leader],
                    format!(
                        "its terminal's foreground group {group} has no member, and its number another bearer"
                    ),
                ));
            }
        }
        for process in self.processes {
            // It left the group from outside to make its own, and there is no way back.
            if process.group == 0 && self.groups.contains_key(&process.pid) {
                return Err(damaged(format!(
                    "process {} cannot be in group 0",
                    process.pid
                )));
            }
        }
        for (&group, &session) in &self.groups {
            if self.place(group).is_none() && !self.ended_sessions.contains(&group) {
                self.ended_groups.entry(session).or_default().push(group);
            }
        }
        for groups in self.ended_groups.values_mut() {
            groups.sort_unstable();
        }
        Ok(())
    }

    /// Whether a process, a thread, or a session that goes on without its leader has this number.
    fn is_taken(&self, number: i32) -> bool {
        self.places.contains_key(&number)
            || self.ended_sessions.contains(&number)
            || self.processes.iter().any(|process| match &process.state {
                State::Alive(alive) => alive.threads.iter().any(|thread| thread.tid == number),
                State::Zombie { .. } => false,
            })
    }

    /// Notes a group in its session, if that can be.
    fn check_group(&mut self, group: i32, session: i32) -> Option<()> {
        let is_leaders = match self.place(group) {
            Some(leader) => self.processes[leader].session == session,
            None => group == session || !self.ended_sessions.contains(&group),
        };
        let makes_sense = is_leaders
            && (1..PID_LIMIT).contains(&group)
            && *self.groups.entry(group).or_insert(session) == session;
        makes_sense.then_some(())
    }

    /// Threads are made later, by each process for itself; their ids must be free then.
    fn check_ids(&mut self) -> Result<(), NativeError> {
        let mut taken: HashSet<i32> = self.places.keys().copied().collect();
        taken.extend(&self.ended_sessions);
        taken.extend(self.ended_groups.values().flatten());
        for process in self.processes {
            let State::Alive(alive) = &process.state else {
                continue;
            };
            for thread in alive.threads.iter().skip(1) {
                if !(1..PID_LIMIT).contains(&thread.tid) || !taken.insert(thread.tid) {
                    return Err(damaged(format!(
                        "thread {} of process {} has another's id",
                        thread.tid, process.pid
                    )));
                }
            }
        }
        self.spare_pid = (2..PID_LIMIT)
            .find(|pid| !taken.contains(pid))
            .ok_or_else(|| damaged("it uses every pid".to_owned()))?;
        self.greatest_id = taken.iter().copied().max().unwrap_or(1);
        Ok(())
    }
}

/// Whether a wait status is one of a process that ended (`wait(2)`).
fn is_end(status: i32) -> bool {
    let signal = status & 0x7f;
    let code = status >> 8;
    if signal == 0 {
        // Nothing but the code.
        return status & 0xff == 0 && (0..=0xff).contains(&code);
    }
    // By a signal, perhaps with the flag of a core dump; those whose action is another than to end it end nobody (signal(7)).
    code == 0 && (1..=64).contains(&signal) && !matches!(signal, 17..=23 | 28)
}

fn depth_first(parents: &[usize]) -> Vec<std::ops::Range<usize>> {
    let mut sizes = vec![1; parents.len()];
    for place in (1..parents.len()).rev() {
        sizes[parents[place]] += sizes[place];
    }
    let mut ranges: Vec<std::ops::Range<usize>> = Vec::with_capacity(parents.len());
    // Where the next child of each begins.
    let mut next = Vec::with_capacity(parents.len());
    for (place, &parent) in parents.iter().enumerate() {
        let start = match place {
            0 => 0,
            _ => next[parent],
        };
        if place > 0 {
            next[parent] += sizes[place];
        }
        next.push(start + 1);
        ranges.push(start..start + sizes[place]);
    }
    ranges
}

fn damaged(reason: String) -> NativeError {
    NativeError::Image { reason }
}

/// A tree that may well have been, but is not known how to be made.
pub(super) fn unheld(process: &Process, reason: String) -> NativeError {
    NativeError::Unheld {
        owner: owner(process),
        reason,
    }
}

pub(super) fn owner(process: &Process) -> Owner {
    Owner {
        pid: process.pid,
        name: process.name.clone(),
    }
}
