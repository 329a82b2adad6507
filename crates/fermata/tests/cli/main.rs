//! The real program as a black box: what needs no running server.
#![cfg(test)]

mod arguments;
mod configuration;
mod doctor;
mod environment;
mod fermata;
mod remote;
