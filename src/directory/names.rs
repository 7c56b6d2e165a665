//! Finding objects by what people call them: an id, or a name where only one object has it.

use super::fields::shortened;
use super::file::Card;
use super::kinds::Draft;
use super::perform::{Act, Directory};
use super::{Call, Caller, Refusal, Verb};
use crate::store::objects::{ListQuery, ObjectKind, ObjectRow, Status};

/// How many deleted objects are looked through for a name.
const DELETED_ROWS_MAX: usize = 10_000;

/// The ids of those whom an object belongs to; empty where there is none.
#[derive(Default)]
pub(super) struct Owners {
    pub account: String,
    pub project: String,
    pub user: String,
}

impl Directory {
    /// The object that a call names. One that the caller must not see is missing for a reader and
    /// forbidden for a writer.
    pub(super) fn find(
        &self,
        caller: &Caller,
        kind: ObjectKind,
        call: &Call,
    ) -> Result<Card, Refusal> {
        let Some(text) = call.id.as_deref().filter(|text| !text.is_empty()) else {
            return Err(Refusal::new(400, "invalid_request", format!("name the {kind}")));
        };
        let missing = || {
            let message = format!("there is no {kind} `{}`", shortened(text));
            Refusal::new(404, "not_found", message)
        };
        if let Some(card) = self.by_id(kind, text)? {
            if caller.sees(&card.row) {
                return Ok(card);
            }
            if call.verb.is_read() {
                return Err(missing());
            }
            let message = format!("the {kind} `{}` is not yours", shortened(text));
            return Err(Refusal::forbidden(message));
        }
        // A name is only looked for among what the caller sees.
        let mut rows = self.by_name(caller, kind, text, call)?;
        if rows.is_empty() && matches!(call.verb, Verb::Show | Verb::Restore | Verb::Purge) {
            rows = self.deleted_by_name(caller, kind, text)?;
        }
        if rows.len() > 1 {
            let message =
                format!("more than one {kind} is called `{}`; use the id", shortened(text));
            return Err(Refusal::conflict("ambiguous", message));
        }
        rows.pop().map_or_else(|| Err(missing()), Act::card)
    }

    fn by_id(&self, kind: ObjectKind, id: &str) -> Result<Option<Card>, Refusal> {
        if let Some(card) = self.state().filed.card(kind, id) {
            return Ok(Some(card.clone()));
        }
        let row = self.objects.get(kind, id).map_err(|error| Refusal::store(&error))?;
        row.map(Act::card).transpose()
    }

    fn by_name(
        &self,
        caller: &Caller,
        kind: ObjectKind,
        name: &str,
        call: &Call,
    ) -> Result<Vec<ObjectRow>, Refusal> {
        let named = |project: &str| {
            let row = self.objects.by_name(kind, project, name);
            row.map_err(|error| Refusal::store(&error))
        };
        if kind != ObjectKind::Key {
            return Ok(named("")?.filter(|row| caller.sees(row)).into_iter().collect());
        }
        let wanted = call.query.iter().find(|(name, _)| name == "project");
        let projects = match (wanted, &caller.project) {
            (Some((_, project)), _) => {
                vec![self.owner(caller, ObjectKind::Project, project, "project")?.row.id]
            }
            (None, Some(project)) => vec![project.clone()],
            (None, None) => self.projects_seen(caller)?,
        };
        let mut rows = Vec::new();
        for project in projects {
            rows.extend(named(&project)?.filter(|row| caller.sees(row)));
        }
        Ok(rows)
    }

    fn projects_seen(&self, caller: &Caller) -> Result<Vec<String>, Refusal> {
        let mut ids = Vec::new();
        let filed = self.state().filed.clone();
        let of_file = filed.all(ObjectKind::Project).filter(|card| caller.sees(&card.row));
        ids.extend(of_file.map(|card| card.row.id.clone()));
        let each = self.objects.each(ObjectKind::Project, &mut |row| {
            if row.status != Status::Deleted && caller.sees(&row) {
                ids.push(row.id);
            }
        });
        each.map_err(|error| Refusal::store(&error))?;
        Ok(ids)
    }

    fn deleted_by_name(
        &self,
        caller: &Caller,
        kind: ObjectKind,
        name: &str,
    ) -> Result<Vec<ObjectRow>, Refusal> {
        let query =
            ListQuery { status: Some(Status::Deleted), ..ListQuery::new(kind, DELETED_ROWS_MAX) };
        let rows = self.objects.list(&query).map_err(|error| Refusal::store(&error))?;
        Ok(rows.into_iter().filter(|row| row.name == name && caller.sees(row)).collect())
    }

    /// The account, project or user that a field names. To whoever is confined, what is not there and
    /// what is not theirs looks the same.
    pub(super) fn owner(
        &self,
        caller: &Caller,
        kind: ObjectKind,
        text: &str,
        field: &str,
    ) -> Result<Card, Refusal> {
        let card = match self.by_id(kind, text)? {
            Some(card) => Some(card),
            None => {
                let row = self.objects.by_name(kind, "", text);
                let row = row.map_err(|error| Refusal::store(&error))?;
                row.map(Act::card).transpose()?
            }
        };
        let shown = shortened(text);
        let is_own = |row: &ObjectRow| {
            // A manager does not see its account, but it belongs to it.
            let own_account = caller.account.as_deref() == Some(row.id.as_str());
            caller.sees(row) || (kind == ObjectKind::Account && own_account)
        };
        match card {
            Some(card) if !is_own(&card.row) => {}
            Some(card) if card.row.status == Status::Deleted => {
                return Err(Refusal::value(field, format!("the {kind} `{shown}` is deleted")));
            }
            Some(card) => return Ok(card),
            None if !caller.is_confined() => {
                return Err(Refusal::value(field, format!("there is no {kind} `{shown}`")));
            }
            None => {}
        }
        Err(Refusal::forbidden(format!("the {kind} `{shown}` is not yours to use")).of(field))
    }
}

impl Act<'_> {
    /// Whom an object belongs to, as the caller named them or where callers of this kind put it.
    pub(super) fn owners(&self, draft: &Draft) -> Result<Owners, Refusal> {
        let (directory, caller) = (self.directory, self.caller);
        let find = |kind: ObjectKind, text: &str, field: &str| {
            directory.owner(caller, kind, text, field).map(|card| card.row)
        };
        let own_account = caller.account.as_deref();
        match self.kind {
            ObjectKind::Account | ObjectKind::Price | ObjectKind::Rate => Ok(Owners::default()),
            ObjectKind::Project | ObjectKind::User => {
                let text = draft.account.as_deref().or(own_account).unwrap_or("default");
                let account = find(ObjectKind::Account, text, "account")?.id;
                Ok(Owners { account, ..Owners::default() })
            }
            ObjectKind::Key => {
                let own = caller.project.as_deref();
                let text = draft.project.as_deref().or(own).unwrap_or("default");
                let project = find(ObjectKind::Project, text, "project")?;
                let user = draft.user.as_deref();
                let user = user.map(|user| find(ObjectKind::User, user, "user")).transpose()?;
                if user.as_ref().is_some_and(|user| user.account != project.account) {
                    let message = "the user belongs to another account than the project";
                    return Err(Refusal::value("user", message));
                }
                let user = user.map(|user| user.id).unwrap_or_default();
                Ok(Owners { account: project.account, project: project.id, user })
            }
            ObjectKind::Principal => {
                let project = draft.project.as_deref();
                let project = project
                    .map(|project| find(ObjectKind::Project, project, "project"))
                    .transpose()?;
                let account = match (draft.account.as_deref(), &project) {
                    (Some(account), _) => find(ObjectKind::Account, account, "account")?.id,
                    (None, Some(project)) => project.account.clone(),
                    (None, None) => own_account.unwrap_or("").to_owned(),
                };
                let project = project.map(|project| {
                    if project.account == account {
                        return Ok(project.id);
                    }
                    Err(Refusal::value("project", "the project belongs to another account"))
                });
                let project = project.transpose()?.unwrap_or_default();
                Ok(Owners { account, project, user: String::new() })
            }
        }
    }

    /// The project of a key: its account, and what it allows.
    pub(super) fn project_of(&self, row: &ObjectRow) -> Result<Card, Refusal> {
        let card = self.directory.by_id(ObjectKind::Project, &row.project)?;
        card.ok_or_else(|| {
            let message = format!("the project of the key `{}` is gone", row.name);
            Refusal::conflict("project_deleted", message)
        })
    }

    /// The rows of a kind that belong to an object, a page at a time.
    pub(super) fn page_of(
        &self,
        kind: ObjectKind,
        owner: &ObjectRow,
        after: Option<&ObjectRow>,
        limit: usize,
    ) -> Result<Vec<ObjectRow>, Refusal> {
        let id = Some(owner.id.clone());
        let mut query = ListQuery::new(kind, limit);
        match owner.kind {
            ObjectKind::Account => query.account = id,
            ObjectKind::Project => query.project = id,
            _ => query.user = id,
        }
        query.after = after.map(ObjectRow::position);
        self.directory.objects.list(&query).map_err(|error| Refusal::store(&error))
    }
}

/// What is deleted is changed by a restore only.
pub(super) fn not_deleted(card: &Card) -> Result<(), Refusal> {
    if card.row.status != Status::Deleted {
        return Ok(());
    }
    let message = format!("the {} `{}` is deleted; restore it first", card.row.kind, card.row.name);
    Err(Refusal::conflict("deleted", message))
}
