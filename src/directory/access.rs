//! Who may do what. Nobody sees, grants or widens beyond what it has itself.

use super::kinds::{Doc, principal::Principal};
use super::limits::widened;
use super::{Caller, Refusal, Role, Verb};
use crate::store::objects::{ObjectKind, ObjectRow};

impl Caller {
    /// Whoever holds the token of the configuration.
    pub fn owner(from: impl Into<String>) -> Self {
        Caller {
            name: super::kinds::principal::OWNER.to_owned(),
            role: Role::Owner,
            account: None,
            project: None,
            from: from.into(),
        }
    }

    /// Whether the caller is confined to an account or to a project.
    pub fn is_confined(&self) -> bool {
        self.account.is_some() || self.project.is_some()
    }

    /// Whether an object exists for this caller. What does not look the same as what is not there.
    pub(super) fn sees(&self, row: &ObjectRow) -> bool {
        let account = self.account.as_deref();
        match (row.kind, self.project.as_deref()) {
            _ if !self.is_confined() => true,
            // What upstreams charge is the owner's affair.
            (ObjectKind::Price | ObjectKind::Rate | ObjectKind::Principal, Some(_)) => false,
            (ObjectKind::Price | ObjectKind::Rate, None) => false,
            (ObjectKind::Key, Some(project)) => row.project == project,
            (ObjectKind::Project, Some(project)) => row.id == project,
            (ObjectKind::Account, Some(_)) => false,
            (ObjectKind::Account, None) => Some(row.id.as_str()) == account,
            _ => Some(row.account.as_str()) == account,
        }
    }
}

/// What a caller may ask for at all, before anything is looked at.
pub(super) fn may_ask(caller: &Caller, kind: ObjectKind, verb: Verb) -> Result<(), Refusal> {
    let deny = |message: String| Err(Refusal::forbidden(message));
    let (role, things) = (caller.role.name(), format!("{kind}s"));
    if verb.is_read() {
        let hidden = match kind {
            ObjectKind::Price | ObjectKind::Rate => caller.is_confined(),
            ObjectKind::Account | ObjectKind::Principal => caller.project.is_some(),
            _ => false,
        };
        return if hidden { deny(format!("{things} are not shown to you")) } else { Ok(()) };
    }
    // Whoever blocks a party as a whole must not see it undone by that party.
    let blocks = verb == Verb::Block;
    let allowed = match (caller.role, kind) {
        (Role::Owner, _) => true,
        (Role::Viewer, _) => return deny("a viewer reads and changes nothing".to_owned()),
        (_, ObjectKind::Price | ObjectKind::Rate) => false,
        (Role::Admin, ObjectKind::Account) => verb == Verb::Update || blocks,
        (Role::Admin, _) => true,
        (Role::Manager, ObjectKind::Key) => true,
        (Role::Manager, ObjectKind::Project) => verb == Verb::Update || blocks,
        (Role::Manager, _) => false,
    };
    let what = verb.name();
    if allowed { Ok(()) } else { deny(format!("as {role} you may not {what} {things}")) }
}

/// Whether the caller may have an object like this, made or as it becomes.
pub(super) fn may_have(caller: &Caller, row: &ObjectRow, doc: &Doc) -> Result<(), Refusal> {
    if !caller.sees(row) {
        let (kind, scope) =
            (row.kind, if caller.project.is_some() { "project" } else { "account" });
        return Err(Refusal::forbidden(format!("the {kind} is outside of your {scope}")));
    }
    match doc {
        Doc::Principal(principal) if principal.role > caller.role => {
            let role = principal.role.name();
            let message = format!("you are {}; you cannot make a {role}", caller.role.name());
            Err(Refusal::forbidden(message).of("role"))
        }
        _ => Ok(()),
    }
}

/// Nobody hands out access for longer than it has itself. `own_end` is that of the caller's token.
pub(super) fn may_last(principal: Principal, own_end: Option<u64>) -> Result<(), Refusal> {
    let Some(own_end) = own_end else { return Ok(()) };
    if principal.expires_at_unix_ms.is_some_and(|end| end <= own_end) {
        return Ok(());
    }
    let end = super::fields::rfc3339(own_end);
    let message = format!("your own access ends at {end}; what you hand out must not last longer");
    Err(Refusal::forbidden(message).of("expires_at"))
}

/// What of its own account an admin, or of its own project a manager, may change.
pub(super) fn may_change(
    caller: &Caller,
    kind: ObjectKind,
    before: (&ObjectRow, &Doc),
    after: (&ObjectRow, &Doc),
) -> Result<(), Refusal> {
    let free: &[&str] = match (caller.role, kind) {
        (Role::Admin, ObjectKind::Account) => &["limits", "queue", "metadata"],
        (Role::Manager, ObjectKind::Project) => &["limits", "tags", "metadata"],
        _ => return Ok(()),
    };
    let (old, new) = (before.1.to_map(), after.1.to_map());
    let changed = |name: &str| old.get(name) != new.get(name);
    let mut names = old.keys().chain(new.keys());
    let renamed = (before.0.name != after.0.name).then_some("name");
    let moved = (before.0.account != after.0.account).then_some("account");
    let refused = renamed.or(moved).or_else(|| {
        names.find(|name| !free.contains(&name.as_str()) && changed(name)).map(String::as_str)
    });
    if let Some(field) = refused {
        let role = caller.role.name();
        let message = format!("as {role} you may not change `{field}` of your own {kind}");
        return Err(Refusal::forbidden(message).of(field));
    }
    match widened(before.1.limits(), after.1.limits()) {
        None => Ok(()),
        Some(field) => {
            let message =
                format!("`{field}` binds you; you may make it tighter, but not wider or drop it");
            Err(Refusal::forbidden(message).of(field))
        }
    }
}
