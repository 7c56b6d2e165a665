//! # directory: accounts, projects, users, keys, prices, rates and those who administer them
//!
//! In: a [`Call`] of a [`Caller`], from the admin port or the command line, and at the start what the
//! store and the configuration file hold. Out: a [`Reply`] or a [`Refusal`], a change in the store with
//! its entry in the audit log, and then, never before, the same change in the live keyring and in the
//! accounts' limits.
//!
//! This room must not know HTTP, how a request is served, or where the configuration was written. Start
//! with `perform.rs`: the way of a call. What a kind of object consists of is in `kinds/`, who may do
//! what in `access.rs`.

mod access;
mod bulk;
mod create;
mod edit;
mod fields;
mod file;
mod kinds;
mod limits;
mod live;
mod load;
mod names;
mod perform;
mod refusal;
mod replay;
mod secrets;
mod show;
mod stored;

#[cfg(test)]
mod tests;

use serde_json::Value;

pub use file::{FileAccount, FileObjects, FileProject, FileUser};
pub use live::{Changed, Live, Spent};
pub use perform::{Directory, KeyScope};
pub use refusal::Refusal;

/// Who asks for an administrative act.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The principal's name; `owner` for the token of the configuration.
    pub name: String,
    pub role: Role,
    /// The id of the account that it is confined to.
    pub account: Option<String>,
    /// The id of the project that it is confined to.
    pub project: Option<String>,
    /// The address it calls from, for the audit log.
    pub from: String,
}

/// What a principal may do, within its account or project.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Reads.
    Viewer,
    /// The keys of one project, and tighter limits for it.
    Manager,
    /// The projects, users and keys of one account.
    Admin,
    /// Everything.
    Owner,
}

impl Role {
    /// All, by name, from the least to the most.
    pub const NAMES: [&'static str; 4] = ["viewer", "manager", "admin", "owner"];

    /// The name in JSON.
    pub fn name(self) -> &'static str {
        Role::NAMES[self as usize]
    }

    /// `None` unless the text is one of [`Role::NAMES`].
    pub fn from_name(name: &str) -> Option<Role> {
        [Role::Viewer, Role::Manager, Role::Admin, Role::Owner]
            .into_iter()
            .find(|role| role.name() == name)
    }
}

/// One administrative act.
#[derive(Clone, PartialEq, Debug)]
pub struct Call {
    pub resource: Resource,
    pub verb: Verb,
    /// An id, or a name where only one object has it. Every verb but create and list needs it.
    pub id: Option<String>,
    /// What create and update set, or the options of a verb; null is an empty object.
    pub body: Value,
    /// As in a URL: filters of a list, `cascade` of a delete.
    pub query: Vec<(String, String)>,
    /// A create or a verb that carries the same again is not done twice.
    pub idempotency_key: Option<String>,
}

/// What there is to administer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Resource {
    Keys,
    Accounts,
    Projects,
    Users,
    Prices,
    Rates,
    Principals,
}

impl Resource {
    /// All.
    pub const ALL: [Resource; 7] = [
        Resource::Keys,
        Resource::Accounts,
        Resource::Projects,
        Resource::Users,
        Resource::Prices,
        Resource::Rates,
        Resource::Principals,
    ];

    /// The name in paths and commands: `keys`.
    pub fn name(self) -> &'static str {
        match self {
            Resource::Keys => "keys",
            Resource::Accounts => "accounts",
            Resource::Projects => "projects",
            Resource::Users => "users",
            Resource::Prices => "prices",
            Resource::Rates => "rates",
            Resource::Principals => "principals",
        }
    }

    /// The resource of that [`Resource::name`].
    pub fn from_name(name: &str) -> Option<Resource> {
        Resource::ALL.into_iter().find(|resource| resource.name() == name)
    }
}

/// What is to be done with it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verb {
    Create,
    List,
    Show,
    /// By merge patch (RFC 7396).
    Update,
    /// Out of use; [`Verb::Restore`] brings it back.
    Delete,
    /// A new secret; the old one stays good for a while.
    Rotate,
    /// Of an account, a project or a user: all its keys. So for unblock.
    Block,
    Unblock,
    Restore,
    /// Gone for good. Only what is deleted can be purged.
    Purge,
}

impl Verb {
    /// All.
    pub const ALL: [Verb; 10] = [
        Verb::Create,
        Verb::List,
        Verb::Show,
        Verb::Update,
        Verb::Delete,
        Verb::Rotate,
        Verb::Block,
        Verb::Unblock,
        Verb::Restore,
        Verb::Purge,
    ];

    /// The name in paths, commands and the audit log: `create`.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::List => "list",
            Verb::Show => "show",
            Verb::Update => "update",
            Verb::Delete => "delete",
            Verb::Rotate => "rotate",
            Verb::Block => "block",
            Verb::Unblock => "unblock",
            Verb::Restore => "restore",
            Verb::Purge => "purge",
        }
    }

    /// Whether nothing changes by it.
    pub fn is_read(self) -> bool {
        matches!(self, Verb::List | Verb::Show)
    }
}

/// What came of an act.
#[derive(Clone, PartialEq, Debug)]
pub struct Reply {
    /// As an HTTP status: 200, or 201 for what was made.
    pub status: u16,
    pub body: Value,
}
