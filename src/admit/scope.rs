//! What limits can be set on, and who asks.

use std::fmt;
use std::sync::Arc;

use crate::ident::{Alias, KeyId, ProjectId};

/// Account, project, user and key, each for all models and for one.
pub(super) const SCOPES_MAX: usize = 8;

/// What a limit can be set on. The order is the order of checking.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum ScopeKind {
    Account,
    Project,
    User,
    Key,
}

impl ScopeKind {
    /// The name, as shown.
    pub fn name(self) -> &'static str {
        ["account", "project", "user", "key"][self as usize]
    }
}

/// One thing that limits can be set on: all of an account, project, user or key, or what it does
/// with one model.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Scope {
    pub kind: ScopeKind,
    /// The id; empty for the account.
    pub name: Arc<str>,
    /// `None`: all models together.
    pub model: Option<Arc<str>>,
}

impl Scope {
    /// A scope over all models.
    pub fn all(kind: ScopeKind, name: &str) -> Scope {
        Scope { kind, name: name.into(), model: None }
    }

    /// The same scope, for one model.
    pub(super) fn of_model(&self, model: &Arc<str>) -> Scope {
        Scope { model: Some(model.clone()), ..self.clone() }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if !self.name.is_empty() {
            write!(f, " {}", self.name)?;
        }
        match &self.model {
            Some(model) => write!(f, " for {model}"),
            None => Ok(()),
        }
    }
}

/// Who asks, within an account.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScopeNames {
    pub project: ProjectId,
    pub user: Option<Arc<str>>,
    pub key: KeyId,
    /// The alias that serves the request.
    pub model: Option<Alias>,
    /// The name that was asked for, where it is another: limits on that very name go before those on
    /// the alias.
    pub asked: Option<Arc<str>>,
}

impl ScopeNames {
    /// Project, user and key: all but the account.
    pub(super) fn scopes(&self) -> impl Iterator<Item = Scope> {
        let project = (ScopeKind::Project, Some(&self.project.0));
        let user = (ScopeKind::User, self.user.as_ref());
        let key = (ScopeKind::Key, Some(&self.key.0));
        [project, user, key]
            .into_iter()
            .filter_map(|(kind, name)| Some(Scope { kind, name: name?.clone(), model: None }))
    }

    pub(super) fn key_scope(&self) -> Scope {
        Scope { kind: ScopeKind::Key, name: self.key.0.clone(), model: None }
    }
}

/// Places in a cell's list. The first is the account.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Slots {
    at: [u32; SCOPES_MAX],
    len: u8,
}

impl Slots {
    pub(super) fn push(&mut self, at: u32) {
        self.at[usize::from(self.len)] = at;
        self.len += 1;
    }

    pub(super) fn each(&self) -> impl Iterator<Item = usize> {
        self.at[..usize::from(self.len)].iter().map(|&at| at as usize)
    }
}
