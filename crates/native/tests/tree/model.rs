//! The kernel's rules for processes, sessions and groups, small enough to be read: what trees to hold come from, and what plans
//! are tried on.
//!
//! Used by the tests of the planner, and by those that have the kernel itself grow the trees.

use std::collections::BTreeMap;

use proptest::prelude::*;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) parent: i32,
    pub(crate) session: i32,
    pub(crate) group: i32,
    pub(crate) ended: Option<i32>,
    pub(crate) adopts: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) tasks: BTreeMap<i32, Task>,
}

/// What the kernel refuses, with its reason.
pub(crate) type Refused = &'static str;

impl Model {
    /// Process 1, fresh from outside.
    pub(crate) fn new() -> Self {
        let first = Task {
            parent: 0,
            session: 0,
            group: 0,
            ended: None,
            adopts: false,
        };
        Self {
            tasks: BTreeMap::from([(1, first)]),
        }
    }

    /// A pid is free when it is no process's, group's or session's number.
    pub(crate) fn is_free(&self, pid: i32) -> bool {
        self.tasks
            .iter()
            .all(|(&other, task)| other != pid && task.session != pid && task.group != pid)
    }

    pub(crate) fn fork(&mut self, caller: i32, pid: i32, sibling: bool) -> Result<(), Refused> {
        let task = self.living(caller)?.clone();
        if !self.is_free(pid) {
            return Err("EEXIST");
        }
        if sibling && caller == 1 {
            return Err("EINVAL: process 1 has no siblings");
        }
        let parent = if sibling { task.parent } else { caller };
        let born = Task {
            parent,
            adopts: false,
            ..task
        };
        self.tasks.insert(pid, born);
        Ok(())
    }

    pub(crate) fn setsid(&mut self, caller: i32) -> Result<(), Refused> {
        self.living(caller)?;
        if self.tasks.values().any(|task| task.group == caller) {
            return Err("EPERM: there is a group of this number");
        }
        let task = self.living(caller)?;
        (task.session, task.group) = (caller, caller);
        Ok(())
    }

    pub(crate) fn setpgid(&mut self, caller: i32, group: i32) -> Result<(), Refused> {
        let session = self.living(caller)?.session;
        // The group from outside has no name inside.
        let group = if group == 0 { caller } else { group };
        if session == caller {
            return Err("EPERM: a session leader");
        }
        let there = |task: &&Task| task.group == group;
        let is_in_session = self
            .tasks
            .values()
            .find(there)
            .is_some_and(|task| task.session == session);
        if group != caller && !is_in_session {
            return Err("EPERM: no such group in the session");
        }
        self.living(caller)?.group = group;
        Ok(())
    }

    pub(crate) fn exit(&mut self, caller: i32, status: i32) -> Result<(), Refused> {
        self.living(caller)?.ended = Some(status);
        if caller == 1 {
            return Err("process 1 ends all");
        }
        let mut heir = self.tasks[&caller].parent;
        while heir != 1 && (!self.tasks[&heir].adopts || self.tasks[&heir].ended.is_some()) {
            heir = self.tasks[&heir].parent;
        }
        for task in self.tasks.values_mut() {
            if task.parent == caller {
                task.parent = heir;
            }
        }
        Ok(())
    }

    /// Removes an ended child and tells its status.
    pub(crate) fn reap(&mut self, caller: i32, child: i32) -> Result<i32, Refused> {
        self.living(caller)?;
        let status = self.status(caller, child)?;
        self.tasks.remove(&child);
        Ok(status)
    }

    pub(crate) fn adopt(&mut self, caller: i32, on: bool) -> Result<(), Refused> {
        self.living(caller)?.adopts = on;
        Ok(())
    }

    pub(crate) fn status(&self, caller: i32, child: i32) -> Result<i32, Refused> {
        match self.tasks.get(&child) {
            Some(task) if task.parent == caller => task.ended.ok_or("the child runs"),
            _ => Err("ECHILD"),
        }
    }

    fn living(&mut self, pid: i32) -> Result<&mut Task, Refused> {
        match self.tasks.get_mut(&pid) {
            Some(task) if task.ended.is_none() => Ok(task),
            _ => Err("not there to call"),
        }
    }

    /// Everybody, parents before their children.
    pub(crate) fn parents_first(&self) -> Vec<(i32, Task)> {
        let mut list = Vec::new();
        let mut parents = vec![0];
        while let Some(parent) = parents.pop() {
            for (&pid, task) in &self.tasks {
                if task.parent == parent {
                    list.push((pid, task.clone()));
                    parents.push(pid);
                }
            }
        }
        list
    }
}

/// Something that processes of a sandbox do. Who, and to whom, is taken from those that are there.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Deed {
    Fork(usize),
    ForkSibling(usize),
    LeadSession(usize),
    LeadGroup(usize),
    JoinGroup(usize, usize),
    Exit(usize, i32),
    Reap(usize),
    Adopt(usize, bool),
}

pub(crate) fn deed(may_stop_adopting: bool) -> impl Strategy<Value = Deed> {
    let who = 0_usize..64;
    prop_oneof![
        6 => who.clone().prop_map(Deed::Fork),
        1 => who.clone().prop_map(Deed::ForkSibling),
        3 => who.clone().prop_map(Deed::LeadSession),
        2 => who.clone().prop_map(Deed::LeadGroup),
        2 => (who.clone(), who.clone()).prop_map(|(who, whom)| Deed::JoinGroup(who, whom)),
        4 => (who.clone(), prop_oneof![Just(0), Just(9), Just(0x8b), Just(3 << 8)])
            .prop_map(|(who, status)| Deed::Exit(who, status)),
        4 => who.clone().prop_map(Deed::Reap),
        1 => (who, any::<bool>()).prop_map(move |(who, on)| Deed::Adopt(who, on || !may_stop_adopting)),
    ]
}

/// What is there after these deeds. What the kernel refuses does not happen.
pub(crate) fn live(deeds: &[Deed], process_1_leads: bool) -> Model {
    let mut model = Model::new();
    if process_1_leads {
        model.setsid(1).unwrap();
    }
    for &deed in deeds {
        let pids = model.tasks.keys().copied().collect::<Vec<_>>();
        let pid = |who: usize| pids[who % pids.len()];
        let free = (2..).find(|&pid| model.is_free(pid)).unwrap();
        let _ = match deed {
            Deed::Fork(who) => model.fork(pid(who), free, false),
            Deed::ForkSibling(who) => model.fork(pid(who), free, true),
            // Whoever starts process 1 does it before, or nobody.
            Deed::LeadSession(who) if pid(who) == 1 => Ok(()),
            Deed::LeadSession(who) => model.setsid(pid(who)),
            Deed::LeadGroup(who) => model.setpgid(pid(who), pid(who)),
            Deed::JoinGroup(who, whom) => {
                let group = model.tasks[&pid(whom)].group;
                model.setpgid(pid(who), group)
            }
            Deed::Exit(who, _) if pid(who) == 1 => Ok(()),
            Deed::Exit(who, status) => model.exit(pid(who), status),
            Deed::Reap(who) => {
                let parent = model.tasks[&pid(who)].parent;
                model.reap(parent, pid(who)).map(drop)
            }
            Deed::Adopt(who, on) => model.adopt(pid(who), on),
        };
    }
    model
}
