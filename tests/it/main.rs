//! Integration tests: real bytes over real sockets against a whole gateway in this process (or the
//! built binary, where a process of its own is the point). One file per promise; the numbers in
//! names are those of the list of cases in the reliability document. Shared tools: `support/`.

mod admin_api;
mod admin_effects;
mod body;
mod books;
mod budgets;
mod cancel;
mod classes;
mod commands;
mod corners;
mod crash;
mod drain;
mod ending;
mod endpoints;
mod failover;
mod fairness;
mod fidelity;
#[path = "support/fleet.rs"]
mod fleet;
mod framing;
#[path = "support/governed.rs"]
mod governed;
mod guide;
mod h2_abuse;
#[path = "support/h2raw.rs"]
mod h2raw;
mod import;
mod keys;
mod leaks;
#[path = "support/ledger.rs"]
mod ledger;
mod limits;
mod outage;
mod policies;
mod queue;
mod recorded;
mod reload;
mod restart;
mod sdk;
mod seeing;
mod slow;
mod smoke;
mod support;
mod tls;
