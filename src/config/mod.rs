//! The configuration file: TOML text in, a [`Config`] with every default filled in and every
//! reference checked out, or all of the file's faults at once.
//!
//! It must not know what a setting does: no socket is opened and no table compiled here. The rooms
//! own their settings; `app` turns a `Config` into them. Files that the configuration names are read
//! here, so that a `Config` is a plain value that can be compared with the one before.
//!
//! Open `keys.rs` first: the one description of every key, from which reading, faults, the reference
//! and the commented example are all made. `settings.rs` is the result. The way of a file: `load` →
//! `read` (text to values, by the description) → `build` (values to `Config`, each checked alone) →
//! `check` (what one table says of another). `watch` tells when a file has changed.

mod build;
mod check;
mod choices;
mod diff;
mod fault;
mod itself;
mod keys;
mod load;
mod net;
mod presets;
mod read;
mod reference;
mod schema;
mod secret;
mod settings;
mod units;
mod values;
mod watch;

pub use choices::{
    AccessLog, Billing, Dialect, Endpoint, Level, OnDisconnect, Policy, Protocol, Unpriced,
    WhenFull,
};
pub use diff::{Change, How, diff};
pub use fault::{Fault, Faults};
pub use load::{Fingerprint, Loaded, Unrated, load, parse, place};
pub use net::{BaseUrl, Cidr};
pub use presets::{PROVIDERS, ProviderPreset};
pub use reference::{init, reference};
pub use secret::{Digest, Secret};
pub use settings::*;
pub use units::{print_duration, print_size};
pub use watch::{Watch, watch};

#[cfg(test)]
mod caller_tests;
#[cfg(test)]
mod mistake_tests;
#[cfg(test)]
mod price_tests;
#[cfg(test)]
mod tests;
