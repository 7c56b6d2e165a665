//! Who is calling, and what may they do: the bytes of a presented key come in, a [`Grant`] goes out.
//!
//! Knows no HTTP (which header carried the key is the proxy's affair), enforces no limits (it only carries
//! them), and never keeps a secret: only digests are held. A key is looked up by the digest of all of it, so two keys that
//! share a beginning have nothing to do with each other.
//!
//! Open `grant.rs` first (what a key may do), then `keyring.rs` (the shared index) and `cache.rs` (a
//! worker's own copy, which keeps requests off shared memory).

pub mod cache;
pub mod grant;
pub mod keyring;
pub mod secret;
pub mod shared;

pub use cache::{GrantCache, Held};
pub use grant::{Aliases, Cidr, Grant};
pub use keyring::{Changes, Entry, Keyring, SecretDigest};
pub use secret::{Digest, Secret, digest, generate, generate_token};
pub use shared::{Names, Shared};
