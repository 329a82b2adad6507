//! What is to be done so that a tree stands: pure, quick, and so also asked before a capture is believed.

use super::census::Census;
use super::lineage::Lineage;
use super::rehearsal::Rehearsal;
use super::{births, ends, groups};
use crate::NativeError;
use crate::image::{Process, State};

/// The flag of a wait status (`WCOREDUMP` of `wait(2)`).
const CORE_DUMPED: i32 = 0x80;

/// Steps that make a tree, one after the other, whoever takes them.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The tree.
    pub(super) processes: &'a [Process],
    /// Who takes steps: the processes in their order, then ghosts and helpers.
    pub(super) actors: Vec<Actor>,
    /// In their order.
    pub(super) steps: Vec<Step>,
    /// The greatest id that the tree uses.
    pub(super) greatest_id: i32,
}

/// A process that takes part in the making.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actor {
    /// Its pid.
    pub pid: i32,
    /// Why it is there.
    pub role: Role,
    /// Its parent's place among the actors when all is done; its own for process 1. A helper's changes from one to the next.
    pub parent: usize,
}

/// Why an actor is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It is a process of the tree, at its place there.
    Process,
    /// It stands in for the ended leader of a session.
    SessionGhost,
    /// It stands in for the ended leader of a process group.
    GroupGhost,
    /// It carries a session or a group from one process to another, under a pid that nobody uses.
    Helper,
}

/// Something that one actor does when all steps before it are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Who, by its place in [`Plan::actors`].
    pub actor: usize,
    /// What.
    pub action: Action,
}

/// What an actor does. Others are named by their place in [`Plan::actors`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// `clone3(2)`.
    Clone(usize),
    /// `clone3(2)` with `CLONE_PARENT`: the new process is a child of the actor's parent.
    CloneSibling(usize),
    /// `setsid(2)`.
    LeadSession,
    /// `setpgid(2)`: makes the group, if it has the actor's pid, or joins it.
    EnterGroup(i32),
    /// Descendants whose parent ends become the actor's children, or no longer (`PR_SET_CHILD_SUBREAPER`).
    AdoptOrphans(bool),
    /// The actor leads a session with a terminal, and all groups are there.
    GroupsAreSet,
    /// Ends as the image says, a ghost or helper with code 0.
    End,
    /// Waits for the end of a child and has it removed.
    Bury(usize),
    /// Waits for the end of a child, which stays a zombie.
    Mourn(usize),
}

/// The foreground process group of a terminal. It has to be there for a moment even if it has no member left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foreground {
    /// The session that the terminal controls.
    pub session: i32,
    /// The group.
    pub group: i32,
}

/// Finds out how a tree can be made again.
///
/// # Errors
/// [`NativeError::Image`] for a tree that the kernel cannot have had, [`NativeError::Unheld`] for one that cannot be arranged.
pub fn plan<'a>(
    processes: &'a [Process],
    foregrounds: &[Foreground],
) -> Result<Plan<'a>, NativeError> {
    let census = Census::take(processes, foregrounds)?;
    let lineage = Lineage::trace(&census)?;
    let mut rehearsal = Rehearsal::new(&census);
    births::arrange(&census, &lineage, &mut rehearsal)?;
    groups::arrange(&census, &mut rehearsal)?;
    ends::arrange(&census, &mut rehearsal);
    Ok(rehearsal.into_plan())
}

impl Plan<'_> {
    /// Who takes part.
    #[must_use]
    pub fn actors(&self) -> &[Actor] {
        &self.actors
    }

    /// What is done, in this order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The wait status that an actor ends with.
    pub(super) fn status(&self, actor: usize) -> i32 {
        match self.processes.get(actor).map(|process| &process.state) {
            // No core is dumped again.
            Some(&State::Zombie { status }) => status & !CORE_DUMPED,
            Some(State::Alive(_)) | None => 0,
        }
    }

    /// Whether an actor has been born and is not yet to end, when the steps before this one have been taken.
    pub(super) fn is_alive(&self, actor: usize, step: usize) -> bool {
        let last = self.steps[..step.min(self.steps.len())]
            .iter()
            .rev()
            .find_map(|step| match step.action {
                Action::Clone(born) | Action::CloneSibling(born) if born == actor => Some(true),
                Action::End if step.actor == actor => Some(false),
                _ => None,
            });
        last.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests;
