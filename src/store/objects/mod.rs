//! # store::objects: what administrators made, and the record of who did it
//!
//! In: a [`Change`], which is made as a whole or not at all, together with its audit entries. Out:
//! the objects, page by page or all of them at the start, and the audit log with its [`Verdict`].
//!
//! An object's own fields are a text to this room: it knows who owns a row, whether its name is
//! free and whether it was edited meanwhile, but not what a limit or a price is, who may do what,
//! or how a secret is made. Start with [`Objects`]; `sqlite.rs` is the one implementation,
//! `schema.rs` its tables, `write.rs` how a change is made, `audit.rs` the chain.

mod audit;
mod schema;
mod sqlite;
mod write;

#[cfg(test)]
mod log_tests;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::StoreError;

/// The most rows that [`Objects::list`] and [`Objects::audit`] answer at once.
pub const PAGE_ROWS_MAX: usize = 10_000;

/// How long an answer is remembered under its `Idempotency-Key`.
pub const REMEMBERED_MS: u64 = 24 * 60 * 60 * 1000;

/// How many answers are remembered; the oldest are forgotten first.
pub const REMEMBERED_ROWS_MAX: u64 = 10_000;

/// Opens the objects of this database file, or makes it; `None` keeps them in memory.
///
/// # Errors
/// Of the file; one that is damaged or was written by a later version is never taken as empty.
pub fn open(path: Option<&Path>) -> Result<Arc<dyn Objects>, StoreError> {
    Ok(Arc::new(sqlite::Sqlite::open(path)?))
}

/// Where administrative objects live. All calls block; none is for a worker's thread.
pub trait Objects: Send + Sync {
    /// Hands over every object of a kind, deleted ones too, in no particular order and without
    /// holding them all. `f` must not call the store.
    fn each(&self, kind: ObjectKind, f: &mut dyn FnMut(ObjectRow)) -> Result<(), StoreError>;

    /// Hands over every secret. `f` must not call the store.
    fn each_secret(&self, f: &mut dyn FnMut(SecretRow)) -> Result<(), StoreError>;

    /// The object with this id, deleted or not. Ids are compared byte by byte.
    fn get(&self, kind: ObjectKind, id: &str) -> Result<Option<ObjectRow>, StoreError>;

    /// The object with this name, unless it is deleted. `project` is the id of a key's project and
    /// means nothing for other kinds.
    fn by_name(
        &self,
        kind: ObjectKind,
        project: &str,
        name: &str,
    ) -> Result<Option<ObjectRow>, StoreError>;

    /// A page of objects, newest first.
    fn list(&self, query: &ListQuery) -> Result<Vec<ObjectRow>, StoreError>;

    /// The secrets of one object, the one that lasts longest first.
    fn secrets_of(&self, kind: ObjectKind, id: &str) -> Result<Vec<SecretRow>, StoreError>;

    /// Makes a change, all of it or nothing. When this returns `Ok`, it survives the loss of power.
    ///
    /// Within a change things are taken away before others are put, so that a name or a digest can
    /// move. Where several things are wrong, any one of them is named.
    fn apply(&self, change: &Change) -> Result<Head, ApplyError>;

    /// The answer that was given under this `Idempotency-Key`. It may be older than
    /// [`REMEMBERED_MS`], and then no longer counts: the time is the caller's to compare.
    fn remembered(&self, principal: &str, key: &str) -> Result<Option<Remembered>, StoreError>;

    /// Audit entries after the entry `since`: the first ones, or the newest ones in reverse order.
    fn audit(&self, since: u64, limit: usize, ascending: bool)
    -> Result<Vec<AuditRow>, StoreError>;

    /// How long the audit log is, and the hash that stands for all of it.
    fn head(&self) -> Result<Head, StoreError>;

    /// Walks the whole audit log and names the first entry that was changed, removed or inserted.
    /// `expected` is a head that was written down elsewhere, now or earlier: only that can show a
    /// log that was cut or rewritten together with its own head.
    fn verify(&self, expected: Option<Head>) -> Result<Verdict, StoreError>;

    /// Notes when keys were last used, in milliseconds since 1970. Times never go back.
    fn touch(&self, used: &[(String, u64)]) -> Result<(), StoreError>;

    /// When a key was last used.
    fn last_used(&self, id: &str) -> Result<Option<u64>, StoreError>;
}

macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident { $( $(#[$variant_doc:meta])* $variant:ident = $text:literal, )* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $name {
            $( $(#[$variant_doc])* $variant, )*
        }

        impl $name {
            /// All of them.
            pub const ALL: &[$name] = &[$( $name::$variant ),*];

            /// As stored and shown.
            pub fn name(self) -> &'static str {
                match self {
                    $( $name::$variant => $text, )*
                }
            }

            /// The inverse of `name`.
            pub fn from_name(name: &str) -> Option<$name> {
                match name {
                    $( $text => Some($name::$variant), )*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

text_enum! {
    /// What an object is.
    ObjectKind {
        /// Who pays.
        Account = "account",
        /// A part of an account.
        Project = "project",
        /// A person inside an account.
        User = "user",
        /// A virtual key.
        Key = "key",
        /// An entry of the price book.
        Price = "price",
        /// A rate between two currencies.
        Rate = "rate",
        /// Somebody who may administer.
        Principal = "principal",
    }
}

text_enum! {
    /// Whether an object is in force.
    Status {
        /// In force.
        Active = "active",
        /// Refused until it is unblocked.
        Blocked = "blocked",
        /// Gone, but can be restored. Its name is free.
        Deleted = "deleted",
    }
}

/// One object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectRow {
    pub kind: ObjectKind,
    /// Unique within its kind, and never used again.
    pub id: String,
    /// Unique within its kind (of a key: within its project) among those that are not deleted.
    /// Empty: has no name.
    pub name: String,
    pub status: Status,
    /// The id of the account that it belongs to, or empty.
    pub account: String,
    /// The id of the project that it belongs to, or empty.
    pub project: String,
    /// The id of the user that it belongs to, or empty.
    pub user: String,
    /// The fields that only its kind has, as JSON.
    pub body: String,
    /// Raised by every edit.
    pub revision: u64,
    pub created_unix_ms: u64,
    pub updated_unix_ms: u64,
    /// The principal who made it.
    pub created_by: String,
}

impl ObjectRow {
    /// Where it stands in a list.
    pub fn position(&self) -> Position {
        Position { created_unix_ms: self.created_unix_ms, id: self.id.clone() }
    }
}

/// A place in a list, which stays even if the object that stood there is purged. Its text form is
/// the cursor that callers see.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Position {
    created_unix_ms: u64,
    id: String,
}

impl Position {
    /// Reads the text form; `None` if it is none.
    pub fn parse(text: &str) -> Option<Position> {
        let (time, id) = text.split_once('.')?;
        let is_plain = !time.is_empty() && time.bytes().all(|digit| digit.is_ascii_digit());
        let created_unix_ms = time.parse().ok().filter(|_| is_plain)?;
        Some(Position { created_unix_ms, id: id.to_owned() })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.created_unix_ms, self.id)
    }
}

/// A secret that is valid for an object, known by its digest only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SecretRow {
    /// SHA-256 of the secret.
    pub digest: [u8; 32],
    /// Of the object.
    pub kind: ObjectKind,
    /// Of the object.
    pub id: String,
    /// The beginning of the secret that may be shown.
    pub prefix: String,
    /// When a secret that was rotated out ends; `None` for the current one.
    pub valid_until_unix_ms: Option<u64>,
}

/// An audit entry before it has its place in the chain. No field ever holds a secret.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct AuditDraft {
    pub time_unix_ms: u64,
    /// The principal who acted.
    pub actor: String,
    /// The address that it came from.
    pub from: String,
    /// What was done, like `key.block`.
    pub action: String,
    /// The kind of the object.
    pub kind: String,
    /// The id of the object.
    pub id: String,
    /// The name of the object.
    pub name: String,
    /// What was shown of it before, as JSON.
    pub before: Option<String>,
    /// What is shown of it after, as JSON.
    pub after: Option<String>,
}

/// An audit entry in its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditRow {
    /// 1 for the first, and no number is left out.
    pub seq: u64,
    pub time_unix_ms: u64,
    pub actor: String,
    pub from: String,
    pub action: String,
    pub kind: String,
    pub id: String,
    pub name: String,
    pub before: Option<String>,
    pub after: Option<String>,
    /// Of this entry and all before it.
    pub hash: [u8; 32],
}

/// The end of the audit log. All zeros: nothing was logged.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Head {
    /// How many entries there are.
    pub count: u64,
    /// The hash of the last one.
    pub hash: [u8; 32],
}

/// What [`Objects::verify`] found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    pub ok: bool,
    /// How many entries the log says it has.
    pub count: u64,
    /// The hash that the log says its last entry has.
    pub head: [u8; 32],
    /// The first fault, like `row 17 was changed`.
    pub fault: Option<String>,
}

/// An answer that is given again if the same request is repeated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remembered {
    pub principal: String,
    /// The `Idempotency-Key`.
    pub key: String,
    /// Of the request: a repetition with another one is a mistake.
    pub fingerprint: [u8; 32],
    pub status: u16,
    pub body: String,
    pub time_unix_ms: u64,
}

/// What is done in one step.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Change {
    pub puts: Vec<Put>,
    /// Purged with their secrets and with the note of when they were last used.
    pub removes: Vec<(ObjectKind, String)>,
    /// A digest that its object already has is updated. The object must exist after the puts.
    pub secrets_put: Vec<SecretRow>,
    /// Digests that are not there are no fault.
    pub secrets_remove: Vec<[u8; 32]>,
    pub audit: Vec<AuditDraft>,
    pub remember: Option<Remembered>,
}

/// An object to be written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Put {
    /// With the revision that it will have.
    pub row: ObjectRow,
    /// The revision that is stored now; `None`: there must be no object with this id.
    pub expect_revision: Option<u64>,
}

/// What is asked of [`Objects::list`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListQuery {
    pub kind: ObjectKind,
    /// Only those of this account, by id; so the next two.
    pub account: Option<String>,
    pub project: Option<String>,
    pub user: Option<String>,
    pub status: Option<Status>,
    /// The place of the last row that was seen.
    pub after: Option<Position>,
    /// At most [`PAGE_ROWS_MAX`].
    pub limit: usize,
}

impl ListQuery {
    /// The first page of all objects of a kind.
    pub fn new(kind: ObjectKind, limit: usize) -> Self {
        let (account, project, user, status, after) = (None, None, None, None, None);
        ListQuery { kind, account, project, user, status, after, limit }
    }
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Somebody else made, edited or purged the object meanwhile.
    #[error("the {0} `{1}` was changed meanwhile; read it again")]
    Conflict(ObjectKind, String),
    /// Another object that is not deleted has the name.
    #[error("the name is taken")]
    NameTaken,
    /// The secret already belongs to another object.
    #[error("the secret is in use")]
    DigestTaken,
    /// An answer is already remembered for this principal and `Idempotency-Key`: the request was
    /// done by a parallel repetition of it.
    #[error("the same request was done meanwhile")]
    Repeated,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
