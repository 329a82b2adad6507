//! Everybody goes to its process group.
//!
//! A group lasts for as long as somebody is in it, so one whose leader belongs elsewhere has to have another member before
//! its leader leaves.

use super::census::Census;
use super::plan::{Action, Role};
use super::rehearsal::Rehearsal;
use crate::NativeError;
use crate::image::State;

/// Every process is in its group; where a terminal controls the session, its leader is told.
pub(super) fn arrange(
    census: &Census<'_>,
    rehearsal: &mut Rehearsal<'_>,
) -> Result<(), NativeError> {
    make_groups_of_outside(census, rehearsal);
    let mut leaving = Vec::new();
    for (place, process) in census.processes.iter().enumerate() {
        if rehearsal.group(place) == process.group {
            continue;
        }
        if census.leads_group(place) {
            leaving.push(place);
        } else {
            rehearsal.enter_group(place, process.group);
        }
    }
    move_leaders(leaving, census, rehearsal);
    for (place, process) in census.processes.iter().enumerate() {
        if let State::Alive(alive) = &process.state
            && census.leads_session(place)
            && alive.terminal.is_some()
        {
            rehearsal.take(place, Action::GroupsAreSet);
        }
    }
    Ok(())
}

/// In the session from outside groups are made only now, when everybody who is in its first group has been born there.
fn make_groups_of_outside(census: &Census<'_>, rehearsal: &mut Rehearsal<'_>) {
    for actor in 0..rehearsal.actors().len() {
        let pid = rehearsal.actors()[actor].pid;
        let leads = match rehearsal.actors()[actor].role {
            Role::Process => census.processes[actor].session == 0 && census.leads_group(actor),
            Role::GroupGhost => rehearsal.group(actor) != pid,
            Role::SessionGhost | Role::Helper => false,
        };
        if leads {
            rehearsal.enter_group(actor, pid);
        }
    }
}

/// Leaders of groups that are in others' groups themselves.
fn move_leaders(mut leaving: Vec<usize>, census: &Census<'_>, rehearsal: &mut Rehearsal<'_>) {
    let mut keeper = None;
    while let Some(&first) = leaving.first() {
        let before = leaving.len();
        leaving.retain(|&leader| {
            let process = &census.processes[leader];
            let may_leave = rehearsal.members(process.pid) > 1;
            if may_leave {
                rehearsal.enter_group(leader, process.group);
            }
            !may_leave
        });
        if leaving.len() < before {
            continue;
        }
        // What is left goes in circles, each the only member of the next one's group: a helper keeps one group open.
        if let Some(helper) = keeper.take() {
            rehearsal.bury(helper);
        }
        let process = &census.processes[first];
        let parent = rehearsal.leader(process.session).unwrap_or(0);
        let helper = rehearsal.helper(parent);
        rehearsal.clone(parent, helper);
        rehearsal.enter_group(helper, process.pid);
        keeper = Some(helper);
    }
    if let Some(helper) = keeper {
        rehearsal.bury(helper);
    }
}
