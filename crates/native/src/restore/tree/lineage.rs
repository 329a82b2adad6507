//! Who is born in whose session, and where ghosts of ended session leaders stand.
//!
//! A process gets its session by being cloned in it, so a session reaches a process only from the process that leads it, or from
//! one that was in it before it made one of its own:
//!
//! ```text
//!  (a) parent in the session:         1 ─► S ─► p(S)
//!  (b) parent was in it before:       1 ─► S ─► L(S, later L) ─► p(S)
//!  (c) leader below the parent:       q ─► S, and p(S) under q: S or one of its session clones p beside itself, or by a
//!                                     helper that ends, so that p is left to q
//! ```
//!
//! So whoever has a process of session S at or below it, and the leader of S not, must be in S or be born in S. A process can be
//! born in one session only: where two would be needed and the leader of one has ended, its ghost is placed there. The ghosts that
//! nobody needs elsewhere stand under process 1.

use std::collections::BTreeMap;

use super::census::{Census, unheld};
use crate::NativeError;

/// The sessions that processes are born in.
#[derive(Debug)]
pub(super) struct Lineage {
    /// By process: the session it has to be born in. `None`: it leads its own, and nobody below it needs another.
    pub(super) births: Vec<Option<i32>>,
    /// By process: the ended sessions whose ghosts are its children.
    pub(super) ghosts: BTreeMap<usize, Vec<i32>>,
}

impl Lineage {
    /// Goes from the last to the first, children before parents.
    pub(super) fn trace(census: &Census<'_>) -> Result<Self, NativeError> {
        let count = census.processes.len();
        let mut tracer = Tracer {
            census,
            ghost_places: BTreeMap::new(),
            nearest: nearest_sessions(census),
        };
        let mut births = vec![None; count];
        let mut needs = vec![Vec::new(); count];
        for place in (0..count).rev() {
            let mut needed = std::mem::take(&mut needs[place]);
            needed.sort_unstable();
            needed.dedup();
            needed.retain(|&session| !tracer.leader_is_within(session, place));
            births[place] = tracer.birth(place, &needed)?;
            if let (Some(session), true) = (births[place], place > 0) {
                needs[census.parents[place]].push(session);
            }
        }
        let mut ghosts: BTreeMap<usize, Vec<i32>> = BTreeMap::new();
        for (session, place) in tracer.ghost_places {
            ghosts.entry(place).or_default().push(session);
        }
        Ok(Self { births, ghosts })
    }
}

struct Tracer<'a> {
    census: &'a Census<'a>,
    ghost_places: BTreeMap<i32, usize>,
    /// By process: the session of the nearest process above that leads none, which so can be in no other.
    nearest: Vec<Option<i32>>,
}

impl Tracer<'_> {
    /// Decides for one process, with the sessions that those below it need from above.
    fn birth(&mut self, place: usize, needed: &[i32]) -> Result<Option<i32>, NativeError> {
        let process = &self.census.processes[place];
        let is_ghost = |session: i32, places: &BTreeMap<i32, usize>| {
            self.census.ended_sessions.contains(&session) && !places.contains_key(&session)
        };
        let birth = if place == 0 {
            // Born outside.
            Some(0)
        } else if self.census.leads_session(place) {
            let fixed = needed
                .iter()
                .find(|&&session| !is_ghost(session, &self.ghost_places));
            let inherited = needed
                .iter()
                .find(|&&session| self.nearest[place] == Some(session));
            fixed.or(inherited).or_else(|| needed.first()).copied()
        } else if self.leader_is_within(process.session, place) {
            return Err(unheld(
                process,
                format!("it is in session {} of a process below it", process.session),
            ));
        } else {
            Some(process.session)
        };
        for &session in needed {
            if birth == Some(session) {
                continue;
            }
            if !is_ghost(session, &self.ghost_places) {
                return Err(unheld(
                    process,
                    format!(
                        "there is a process of session {session} below it, which it cannot have been in"
                    ),
                ));
            }
            self.ghost_places.insert(session, place);
        }
        Ok(birth)
    }

    fn leader_is_within(&self, session: i32, place: usize) -> bool {
        self.census
            .place(session)
            .or_else(|| self.ghost_places.get(&session).copied())
            .is_some_and(|leader| self.census.is_within(leader, place))
    }
}

fn nearest_sessions(census: &Census<'_>) -> Vec<Option<i32>> {
    let mut nearest: Vec<Option<i32>> = Vec::with_capacity(census.processes.len());
    for (place, &parent) in census.parents.iter().enumerate() {
        nearest.push(if place == 0 {
            None
        } else if census.leads_session(parent) {
            nearest[parent]
        } else {
            Some(census.processes[parent].session)
        });
    }
    nearest
}
