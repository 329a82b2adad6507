//! Ghosts go, and zombies become what they are.

use super::census::Census;
use super::plan::{Action, Role};
use super::rehearsal::Rehearsal;
use crate::image::State;

/// Everybody who is to have ended ends; the parents remove ghosts and leave zombies.
pub(super) fn arrange(census: &Census<'_>, rehearsal: &mut Rehearsal<'_>) {
    let ghosts = |role: Role, rehearsal: &Rehearsal<'_>| {
        (census.processes.len()..rehearsal.actors().len())
            .filter(|&actor| rehearsal.actors()[actor].role == role)
            .collect::<Vec<_>>()
    };
    // Before their parents, which may be to end themselves.
    for ghost in ghosts(Role::GroupGhost, rehearsal) {
        rehearsal.bury(ghost);
    }
    for ghost in ghosts(Role::SessionGhost, rehearsal) {
        rehearsal.bury(ghost);
    }
    let zombies = (0..census.processes.len())
        .filter(|&place| matches!(census.processes[place].state, State::Zombie { .. }))
        .collect::<Vec<_>>();
    for &zombie in &zombies {
        rehearsal.take(zombie, Action::End);
    }
    for &zombie in &zombies {
        rehearsal.take(census.parents[zombie], Action::Mourn(zombie));
    }
}
