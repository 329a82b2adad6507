//! The wire interfaces: gateways translate their wire words into calls of the engine.

pub mod rest;
