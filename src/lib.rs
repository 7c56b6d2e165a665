//! foretoken: a latency-optimised edge router for LLM traffic.
//!
//! The rooms, in the order in which a request meets them. A room imports only from rooms of a lower
//! rank (`tests/rooms.rs` holds the ranks); `docs/ARCHITECTURE.md` has the chart.

// What every room may use.
pub mod clock;
pub mod error;
pub mod exchange;
pub mod ident;
pub mod limits;
pub mod money;
pub mod net;
pub mod wire;

// The way of a request.
pub mod listener;
pub mod proxy;

pub mod auth;
pub mod dialect;
pub mod framing;
pub mod health;
pub mod route;

pub mod admit;
pub mod meter;
pub mod price;
pub mod store;

pub mod upstream;

pub mod telemetry;

// What is around it.
pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod directory;
pub mod import;
pub mod sim;
