//! The real agent program, commanded by the daemon's real client.
#![cfg(test)]

mod support;

mod processes;
