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
        let found = self.by_id(kind, text)?;
        let within = self.project_asked(caller, kind, call, found.as_ref())?;
        let is_within = |row: &ObjectRow| within.as_ref().is_none_or(|id| *id == row.project);
        let found = found.filter(|card| is_within(&card.row));
        // An id that was made here is nobody's name by chance, and means one object whatever others
        // are called.
        let is_sure = found.as_ref().is_some_and(|card| !card.is_filed);
        if !is_sure {
            let mut cards = self.named(caller, kind, text, (call.verb, within.as_deref()))?;
            // The file's objects have no id but their name. Of these the deleted one is meant.
            let is_back = matches!(call.verb, Verb::Restore | Verb::Purge)
                && cards.iter().any(|card| card.row.status == Status::Deleted);
            let filed = found.iter().filter(|card| caller.sees(&card.row) && !is_back);
            cards.extend(filed.cloned());
            if cards.len() > 1 {
                return Err(self.ambiguous(kind, text, cards));
            }
            if let Some(card) = cards.pop() {
                return Ok(card);
            }
        }
        match found {
            Some(card) if caller.sees(&card.row) => Ok(card),
            Some(_) if !call.verb.is_read() => {
                let message = format!("the {kind} `{}` is not yours", shortened(text));
                Err(Refusal::forbidden(message))
            }
            _ => {
                let project = within.map(|id| format!(" in the project `{}`", self.called(&id)));
                let project = project.unwrap_or_default();
                let message = format!("there is no {kind} `{}`{project}", shortened(text));
                Err(Refusal::new(404, "not_found", message))
            }
        }
    }

    /// The id of the project to which a call for a key confines itself. `found` is what has the id that
    /// the call names: its project may be deleted.
    fn project_asked(
        &self,
        caller: &Caller,
        kind: ObjectKind,
        call: &Call,
        found: Option<&Card>,
    ) -> Result<Option<String>, Refusal> {
        let wanted = call.query.iter().find(|(name, _)| name == "project");
        let Some((_, project)) = wanted.filter(|_| kind == ObjectKind::Key) else {
            return Ok(None);
        };
        if found.is_some_and(|card| card.row.project == *project) {
            return Ok(Some(project.clone()));
        }
        Ok(Some(self.owner(caller, ObjectKind::Project, project, "project")?.row.id))
    }

    /// What has this name in the store, or of prices and rates also in the file, among what the caller
    /// sees: what is in use, else what is deleted. For what brings back or takes away the other way
    /// round.
    fn named(
        &self,
        caller: &Caller,
        kind: ObjectKind,
        name: &str,
        (verb, project): (Verb, Option<&str>),
    ) -> Result<Vec<Card>, Refusal> {
        let live = || match kind {
            ObjectKind::Price | ObjectKind::Rate => self.versions(caller, kind, name),
            _ => self.by_name(caller, kind, name, project),
        };
        let deleted = || self.deleted_by_name(caller, kind, name, project);
        let cards = match verb {
            Verb::Restore | Verb::Purge => {
                let cards = deleted()?;
                if cards.is_empty() { live()? } else { cards }
            }
            _ => {
                let cards = live()?;
                if cards.is_empty() { deleted()? } else { cards }
            }
        };
        let is_gone = cards.iter().all(|card| card.row.status == Status::Deleted);
        let is_for_the_deleted = matches!(verb, Verb::Show | Verb::Restore | Verb::Purge);
        // Whichever of the deleted ones: the answer is that it is deleted.
        let most = if is_gone && !is_for_the_deleted { 1 } else { usize::MAX };
        Ok(cards.into_iter().take(most).collect())
    }

    /// Prices or rates with this name, of whatever day they begin to count.
    fn versions(
        &self,
        caller: &Caller,
        kind: ObjectKind,
        name: &str,
    ) -> Result<Vec<Card>, Refusal> {
        let fits = |row: &ObjectRow| {
            let rest = row.name.strip_prefix(name);
            let is_version = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(" from "));
            is_version && caller.sees(row)
        };
        let mut rows = Vec::new();
        let each = self.objects.each(kind, &mut |row| {
            if row.status != Status::Deleted && fits(&row) {
                rows.push(row);
            }
        });
        each.map_err(|error| Refusal::store(&error))?;
        let filed = self.state().filed.clone();
        // What is called exactly so is found by its id already.
        let of_file = filed.all(kind).filter(|card| fits(&card.row) && card.row.name != name);
        let stored = rows.into_iter().map(Act::card);
        stored.chain(of_file.cloned().map(Ok)).collect()
    }

    /// Names all that may be meant, so that one can be chosen.
    fn ambiguous(&self, kind: ObjectKind, text: &str, cards: Vec<Card>) -> Refusal {
        const MOST: usize = 10;
        let mut list: Vec<String> = cards
            .iter()
            .take(MOST)
            .map(|card| {
                let row = &card.row;
                let name = (row.name != text && row.name != row.id).then_some(row.name.as_str());
                let dated = name.map(|name| format!(" ({name})")).unwrap_or_default();
                let project = (kind == ObjectKind::Key)
                    .then(|| format!(" in the project `{}`", self.called(&row.project)));
                let filed = if card.is_filed { " of the configuration file" } else { "" };
                format!("`{}`{dated}{filed}{}", row.id, project.unwrap_or_default())
            })
            .collect();
        if cards.len() > MOST {
            list.push("…".to_owned());
        }
        let cure = match kind {
            ObjectKind::Key => "use the id, or say in which project: --in NAME, or ?project=NAME",
            _ => "use the id",
        };
        let (text, list) = (shortened(text), list.join(", "));
        let message = format!("`{text}` fits more than one {kind}: {list}; {cure}");
        Refusal::conflict("ambiguous", message)
    }

    /// What a project is called.
    fn called(&self, project: &str) -> String {
        self.name_of(ObjectKind::Project, project).unwrap_or_else(|| project.to_owned())
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
        project: Option<&str>,
    ) -> Result<Vec<Card>, Refusal> {
        let projects = match (project.or(caller.project.as_deref()), kind) {
            (_, kind) if kind != ObjectKind::Key => vec![String::new()],
            (Some(project), _) => vec![project.to_owned()],
            (None, _) => self.projects_seen(caller)?,
        };
        let mut cards = Vec::new();
        for project in projects {
            let row = self.objects.by_name(kind, &project, name);
            let row = row.map_err(|error| Refusal::store(&error))?;
            cards.extend(row.filter(|row| caller.sees(row)).map(Act::card).transpose()?);
        }
        Ok(cards)
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
        project: Option<&str>,
    ) -> Result<Vec<Card>, Refusal> {
        let project = project.map(str::to_owned);
        let query = ListQuery {
            status: Some(Status::Deleted),
            project,
            ..ListQuery::new(kind, DELETED_ROWS_MAX)
        };
        let rows = self.objects.list(&query).map_err(|error| Refusal::store(&error))?;
        let named = rows.into_iter().filter(|row| row.name == name && caller.sees(row));
        named.map(Act::card).collect()
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
