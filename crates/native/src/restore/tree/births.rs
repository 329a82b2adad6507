//! Everybody is cloned, and leaders make their sessions.

use std::collections::VecDeque;

use super::census::{Census, unheld};
use super::lineage::Lineage;
use super::plan::{Action, Role};
use super::rehearsal::Rehearsal;
use crate::NativeError;

/// What is still to be done; kept on a stack of our own, since a tree may be deeper than the program's.
enum Task {
    /// A process that was born gets its children.
    Grow(usize),
    /// A process gets the children that others of their sessions have to bear.
    Adopt(usize, VecDeque<usize>),
}

/// Every process of the tree and all ghosts are born, in their sessions and under their parents.
pub(super) fn arrange(
    census: &Census<'_>,
    lineage: &Lineage,
    rehearsal: &mut Rehearsal<'_>,
) -> Result<(), NativeError> {
    let mut tasks = vec![Task::Grow(0)];
    while let Some(task) = tasks.pop() {
        match task {
            Task::Grow(place) => grow(place, census, lineage, rehearsal, &mut tasks),
            Task::Adopt(parent, mut late) => {
                let ready = late.iter().position(|&child| {
                    let session = lineage.births[child];
                    session.is_some_and(|session| rehearsal.leader(session).is_some())
                });
                let Some(child) = ready.and_then(|ready| late.remove(ready)) else {
                    return Err(unheld(
                        &census.processes[late[0]],
                        "its session comes from below a process that waits for it".to_owned(),
                    ));
                };
                adopt(parent, child, lineage, rehearsal);
                if !late.is_empty() {
                    tasks.push(Task::Adopt(parent, late));
                }
                tasks.push(Task::Grow(child));
            }
        }
    }
    Ok(())
}

fn grow(
    place: usize,
    census: &Census<'_>,
    lineage: &Lineage,
    rehearsal: &mut Rehearsal<'_>,
    tasks: &mut Vec<Task>,
) {
    let process = &census.processes[place];
    let leads = census.leads_session(place);
    // Process 1 had one too, but nobody was there with it.
    let earlier = lineage.births[place].filter(|_| leads && place > 0);
    let (mut before, mut after, mut late) = (Vec::new(), Vec::new(), VecDeque::new());
    for &child in &census.children[place] {
        match lineage.births[child] {
            None => after.push(child),
            Some(session) if session == process.session => after.push(child),
            Some(session) if Some(session) == earlier => before.push(child),
            Some(_) => late.push_back(child),
        }
    }
    for &child in &before {
        rehearsal.clone(place, child);
    }
    if leads {
        rehearsal.lead_session(place);
    } else if census.leads_group(place) && process.session != 0 {
        // The group from outside has no name inside: who is to be born in it must find its parent there.
        rehearsal.enter_group(place, process.pid);
    }
    for &child in &after {
        rehearsal.clone(place, child);
    }
    if leads || place == 0 {
        bear_group_ghosts(place, process.session, census, rehearsal);
    }
    for &session in lineage.ghosts.get(&place).into_iter().flatten() {
        let ghost = rehearsal.add_ghost(session, Role::SessionGhost, place);
        rehearsal.clone(place, ghost);
        rehearsal.lead_session(ghost);
        bear_group_ghosts(ghost, session, census, rehearsal);
    }
    if !late.is_empty() {
        tasks.push(Task::Adopt(place, late));
    }
    tasks.extend(before.into_iter().chain(after).rev().map(Task::Grow));
}

fn bear_group_ghosts(
    leader: usize,
    session: i32,
    census: &Census<'_>,
    rehearsal: &mut Rehearsal<'_>,
) {
    for &group in census.ended_groups.get(&session).into_iter().flatten() {
        let ghost = rehearsal.add_ghost(group, Role::GroupGhost, leader);
        rehearsal.clone(leader, ghost);
        // Those from outside stay where they are until all are born.
        if session != 0 {
            rehearsal.enter_group(ghost, group);
        }
    }
}

/// A child whose session is not its parent's but that of somebody below the parent.
fn adopt(parent: usize, child: usize, lineage: &Lineage, rehearsal: &mut Rehearsal<'_>) {
    let session = lineage.births[child].unwrap_or(0);
    if let Some(sibling) = rehearsal.child_in(parent, session) {
        rehearsal.clone_sibling(sibling, child);
        return;
    }
    let leader = rehearsal.leader(session).unwrap_or(0);
    let helper = rehearsal.helper(leader);
    rehearsal.clone(leader, helper);
    rehearsal.clone(helper, child);
    // Process 1 adopts anyway.
    if parent > 0 {
        rehearsal.take(parent, Action::AdoptOrphans(true));
    }
    rehearsal.bury(helper);
    if parent > 0 {
        rehearsal.take(parent, Action::AdoptOrphans(false));
    }
}
