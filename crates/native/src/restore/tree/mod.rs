//! The tree of processes: ids, parents, sessions, groups, zombies.
//!
//! ```text
//!  processes ─► census ─► lineage ─► births ─► groups ─► ends ─► Plan: who does what, one after the other
//!              (checked)  (who is    (clone,   (setpgid) (ghosts and zombies exit)
//!                         born in    setsid)
//!                         whose session)
//!  Plan ─► grow, in process 1 ─► every process has its place ─► each plays
//! ```
//!
//! Sessions and groups are named after processes that may long have ended. For those a *ghost* stands in: it is born with that pid,
//! leads, and ends again before anything plays.

mod baton;
mod births;
mod census;
mod ends;
mod groups;
mod grow;
mod lineage;
mod plan;
mod rehearsal;

#[cfg(test)]
#[path = "../../../tests/tree/model.rs"]
mod model;

pub use grow::{Growth, grow};
pub use plan::{Action, Actor, Foreground, Plan, Role, Step, plan};
