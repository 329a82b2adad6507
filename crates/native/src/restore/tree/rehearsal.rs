//! The steps so far, and where everybody is after them.

use std::collections::HashMap;

use super::census::Census;
use super::plan::{Action, Actor, Plan, Role, Step};
use crate::image::Process;

/// A plan under way.
#[derive(Debug)]
pub(super) struct Rehearsal<'a> {
    processes: &'a [Process],
    actors: Vec<Actor>,
    standing: Vec<Standing>,
    steps: Vec<Step>,
    /// The actor that leads a session, once it does.
    leaders: HashMap<i32, usize>,
    /// An actor that is a child of the first and will stay in the session.
    children_in: HashMap<(usize, i32), usize>,
    /// How many are in a group.
    members: HashMap<i32, usize>,
    helper: Option<usize>,
    spare_pid: i32,
    greatest_id: i32,
}

/// What a process inherits from the one it is cloned by.
#[derive(Debug, Clone, Copy, Default)]
struct Standing {
    session: i32,
    group: i32,
}

impl<'a> Rehearsal<'a> {
    /// Process 1 alone, in a session and a group from outside.
    pub(super) fn new(census: &Census<'a>) -> Self {
        let actors = census
            .processes
            .iter()
            .zip(&census.parents)
            .map(|(process, &parent)| Actor {
                pid: process.pid,
                role: Role::Process,
                parent,
            })
            .collect::<Vec<_>>();
        Self {
            processes: census.processes,
            standing: vec![Standing::default(); actors.len()],
            actors,
            steps: Vec::new(),
            leaders: HashMap::from([(0, 0)]),
            children_in: HashMap::new(),
            members: HashMap::from([(0, 1)]),
            helper: None,
            spare_pid: census.spare_pid,
            greatest_id: census.greatest_id,
        }
    }

    /// The actor that leads a session by now; process 1 for that from outside.
    pub(super) fn leader(&self, session: i32) -> Option<usize> {
        self.leaders.get(&session).copied()
    }

    /// A child of `parent` that is in a session and will stay there.
    pub(super) fn child_in(&self, parent: usize, session: i32) -> Option<usize> {
        self.children_in.get(&(parent, session)).copied()
    }

    /// The group an actor is in.
    pub(super) fn group(&self, actor: usize) -> i32 {
        self.standing[actor].group
    }

    /// How many actors are in a group.
    pub(super) fn members(&self, group: i32) -> usize {
        self.members.get(&group).copied().unwrap_or(0)
    }

    pub(super) fn actors(&self) -> &[Actor] {
        &self.actors
    }

    /// Adds a ghost, to be cloned by its parent.
    pub(super) fn add_ghost(&mut self, pid: i32, role: Role, parent: usize) -> usize {
        self.actors.push(Actor { pid, role, parent });
        self.standing.push(Standing::default());
        self.actors.len() - 1
    }

    /// The helper, for a new life under another parent.
    pub(super) fn helper(&mut self, parent: usize) -> usize {
        let pid = self.spare_pid;
        let helper = match self.helper {
            Some(helper) => helper,
            None => self.add_ghost(pid, Role::Helper, parent),
        };
        self.helper = Some(helper);
        self.actors[helper].parent = parent;
        helper
    }

    pub(super) fn clone(&mut self, actor: usize, child: usize) {
        self.take(actor, Action::Clone(child));
        self.bear(actor, child);
    }

    pub(super) fn clone_sibling(&mut self, actor: usize, sibling: usize) {
        self.take(actor, Action::CloneSibling(sibling));
        self.bear(actor, sibling);
    }

    pub(super) fn lead_session(&mut self, actor: usize) {
        self.take(actor, Action::LeadSession);
        let pid = self.actors[actor].pid;
        self.move_to(actor, pid);
        self.standing[actor].session = pid;
        self.leaders.insert(pid, actor);
        self.children_in
            .insert((self.actors[actor].parent, pid), actor);
    }

    pub(super) fn enter_group(&mut self, actor: usize, group: i32) {
        self.take(actor, Action::EnterGroup(group));
        self.move_to(actor, group);
    }

    /// A ghost or helper ends and is removed.
    pub(super) fn bury(&mut self, actor: usize) {
        self.take(actor, Action::End);
        self.take(self.actors[actor].parent, Action::Bury(actor));
        self.leave(actor);
    }

    /// A step after which everybody is where they were.
    pub(super) fn take(&mut self, actor: usize, action: Action) {
        self.steps.push(Step { actor, action });
    }

    pub(super) fn into_plan(self) -> Plan<'a> {
        Plan {
            processes: self.processes,
            actors: self.actors,
            steps: self.steps,
            greatest_id: self.greatest_id,
        }
    }

    fn bear(&mut self, actor: usize, born: usize) {
        let standing = self.standing[actor];
        self.standing[born] = standing;
        *self.members.entry(standing.group).or_default() += 1;
        let Actor { role, parent, .. } = self.actors[born];
        let stays = match role {
            Role::Process => self.processes[born].session == standing.session,
            // Of use only for as long as they are there.
            Role::SessionGhost | Role::GroupGhost | Role::Helper => false,
        };
        if stays {
            self.children_in
                .entry((parent, standing.session))
                .or_insert(born);
        }
    }

    fn move_to(&mut self, actor: usize, group: i32) {
        self.leave(actor);
        self.standing[actor].group = group;
        *self.members.entry(group).or_default() += 1;
    }

    fn leave(&mut self, actor: usize) {
        if let Some(count) = self.members.get_mut(&self.standing[actor].group) {
            *count = count.saturating_sub(1);
        }
    }
}
