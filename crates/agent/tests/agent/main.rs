//! The real agent program, commanded by the daemon's real client.
#![cfg(test)]

mod support;

mod connections;
mod errors;
mod files;
mod limits;
mod output;
mod processes;
mod slow_readers;
mod terminals;
