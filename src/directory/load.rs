//! The start, and reloads of the file: what is stored takes effect.

use std::collections::HashMap;
use std::sync::Arc;

use super::file::{Card, FileObjects, Filed};
use super::kinds::account::Account;
use super::kinds::{Doc, Stored};
use super::live::{Effect, account_of, effective_limits, scope_kind, tokens};
use super::perform::{Directory, State};
use super::{Live, Refusal};
use crate::admit::ScopeKind;
use crate::auth::{Changes, Names as Globs, SecretDigest, Shared};
use crate::clock::Now;
use crate::ident::RequestId;
use crate::limits::LimitSet;
use crate::store::StoreError;
use crate::store::objects::{ObjectKind, ObjectRow, Objects, SecretRow, Status};

/// The secrets of all keys, while they are loaded. One piece of memory, which goes back as one: a map
/// with an entry for each of a million keys would leave its holes behind.
#[derive(Default)]
struct KeySecrets {
    /// By the number that the key's id stands for.
    by_number: Vec<(u128, SecretDigest)>,
    /// Of ids of another form.
    by_id: HashMap<String, Vec<SecretDigest>>,
}

impl KeySecrets {
    fn add(&mut self, row: &SecretRow) {
        let secret =
            SecretDigest { digest: row.digest, valid_until_unix_ms: row.valid_until_unix_ms };
        match number_of(&row.id) {
            Some(number) => self.by_number.push((number, secret)),
            None => self.by_id.entry(row.id.clone()).or_default().push(secret),
        }
    }

    /// To be called when all are added.
    fn sort(&mut self) {
        self.by_number.sort_unstable_by_key(|(number, _)| *number);
    }

    fn of(&self, id: &str) -> impl Iterator<Item = SecretDigest> {
        let number = number_of(id);
        let first = number.map_or(self.by_number.len(), |number| {
            self.by_number.partition_point(|(other, _)| *other < number)
        });
        let numbered = self.by_number[first..].iter();
        let numbered = numbered.take_while(move |(other, _)| Some(*other) == number);
        let others = self.by_id.get(id).into_iter().flatten();
        numbered.map(|(_, secret)| *secret).chain(others.copied())
    }
}

/// The number in the id of a key that was made here: `key_` and a ULID in capitals.
fn number_of(id: &str) -> Option<u128> {
    let ulid = id.strip_prefix("key_")?;
    let number: RequestId = ulid.parse().ok()?;
    // Of two spellings of one number only one is an id.
    (number.text() == ulid.as_bytes()).then(|| number.to_u128())
}

/// What a key needs to know of its project.
struct ProjectPart {
    account: String,
    models: Option<Globs>,
}

impl Directory {
    /// Loads everything that is stored into the keyring and the accounts, then the file's objects. A
    /// million keys take a few seconds and no more memory than they need afterwards, but for a table of
    /// their secrets while it runs.
    ///
    /// # Errors
    /// Of the store. What cannot be read is never taken for nothing: the gateway must not start without
    /// limits that somebody has set.
    pub fn open(
        objects: Arc<dyn Objects>,
        live: Live,
        file: FileObjects,
        now: Now,
    ) -> Result<Directory, StoreError> {
        let directory = Directory::new(objects, live, State::default(), Shared::new());
        directory.file_first(file, now);
        directory.load_owners(now)?;
        directory.load_keys()?;
        directory.load_book()?;
        Ok(directory)
    }

    /// Makes `file` what the configuration defines. What of it is no longer there is out of force when
    /// this returns. The answer counts keys.
    ///
    /// # Errors
    /// Of the store, which is asked for keys whose projects have changed; the file is in force then all
    /// the same, but for what those projects allow their stored keys.
    pub fn set_file_objects(&self, file: FileObjects, now: Now) -> Result<Changes, StoreError> {
        let before = self.state().filed.clone();
        let changes = self.file_first(file, now);
        let after = self.state().filed.clone();
        self.load_terms()?;
        for (id, card) in &after.cards {
            let is_other = before.cards.get(id) != Some(card);
            if is_other && card.row.kind == ObjectKind::Project && !before.cards.is_empty() {
                self.regrant_stored(card)?;
            }
        }
        Ok(changes)
    }

    /// Keys of the file, terms and limits of its accounts, projects and users.
    fn file_first(&self, file: FileObjects, now: Now) -> Changes {
        let mut edits = self.edits();
        let filed = Arc::new(Filed::new(file));
        let before = std::mem::replace(&mut self.state_mut().filed, filed.clone());
        for account in &filed.objects.accounts {
            let (account, terms) = (account.name.clone(), Box::new(account.terms.clone()));
            self.take_effect(vec![Effect::Terms { account, terms }], now);
        }
        for card in filed.cards.values() {
            match before.card(card.row.kind, &card.row.id) {
                Some(old) => self.change_limits_of(old, card, now),
                // A key's come with its grant.
                None if card.row.kind == ObjectKind::Key => {}
                None => self.set_limits_of(card, effective_limits(card), now),
            }
        }
        for gone in before.cards.values().filter(|card| !filed.cards.contains_key(&id(card))) {
            self.set_limits_of(gone, None, now);
        }
        let globs: HashMap<&str, Globs> = filed
            .objects
            .projects
            .iter()
            .filter_map(|it| Some((it.name.as_str(), edits.shared.names(it.models.as_ref()?))))
            .collect();
        let keys = filed.objects.keys.iter().map(|(digest, grant)| {
            let mut grant = grant.clone();
            grant.project_models = globs.get(grant.project.as_str()).cloned();
            (*digest, grant)
        });
        self.live.keyring.set_file_keys(keys.collect())
    }

    /// What was made here and cannot be used, or not by its name, since the file has the like: a
    /// sentence for each.
    ///
    /// # Errors
    /// Of the store.
    pub fn shadowed(&self) -> Result<Vec<String>, StoreError> {
        let mut told = Vec::new();
        for id in self.live.keyring.hidden() {
            let name = self.name_of(ObjectKind::Key, id.as_str()).unwrap_or_default();
            told.push(format!(
                "the key `{name}` ({id}) has the secret of a [[key]] of the configuration file, which \
                 counts; what it allows and limits is not in force"
            ));
        }
        let filed = self.state().filed.clone();
        for card in filed.cards.values() {
            let Card { row, .. } = card;
            if matches!(row.kind, ObjectKind::Price | ObjectKind::Rate) {
                continue;
            }
            let Some(stored) = self.objects.by_name(row.kind, &row.project, &row.name)? else {
                continue;
            };
            let (kind, name, id) = (row.kind, &row.name, &stored.id);
            told.push(format!(
                "the {kind} `{name}` ({id}) has the name of a [[{kind}]] of the configuration \
                 file; name it by its id, or rename one of the two"
            ));
        }
        Ok(told)
    }

    /// The file was edited: what was spent before counts in budgets that are new.
    fn change_limits_of(&self, old: &Card, new: &Card, now: Now) {
        match self.limits_effect(Some(old), new, now) {
            Ok(effect) => self.take_effect(effect.into_iter().collect(), now),
            Err(error) => {
                let (kind, name) = (new.row.kind, &new.row.name);
                tracing::warn!(%error, %kind, name, "a new budget begins with nothing spent");
                self.set_limits_of(new, effective_limits(new), now);
            }
        }
    }

    fn set_limits_of(&self, card: &Card, limits: Option<Arc<LimitSet>>, now: Now) {
        let Some(kind) = scope_kind(card.row.kind) else { return };
        let name = if kind == ScopeKind::Account { "" } else { card.row.id.as_str() };
        self.set_limits(account_of(&card.row), (kind, name), limits, &[], now);
    }

    /// Accounts, projects and users; deleted ones too, so that they are what they were if they come
    /// back.
    fn load_owners(&self, now: Now) -> Result<(), StoreError> {
        for kind in [ObjectKind::Account, ObjectKind::Project, ObjectKind::User] {
            let mut fault = Ok(());
            self.objects.each(kind, &mut |row| match card(row) {
                Err(error) => fault = Err(error),
                Ok(card) => {
                    if let Doc::Account(account) = &card.stored.doc {
                        self.set_terms(&card.row.id, account, now);
                    }
                    self.set_limits_of(&card, effective_limits(&card), now);
                }
            })?;
            fault?;
        }
        Ok(())
    }

    fn set_terms(&self, id: &str, account: &Account, now: Now) {
        let terms = Box::new(account.terms(self.group_bps(account)));
        self.take_effect(vec![Effect::Terms { account: id.to_owned(), terms }], now);
    }

    /// The markup of the price group that an account is in.
    pub(super) fn group_bps(&self, account: &Account) -> Option<u32> {
        let group = account.price_group.as_ref()?;
        self.state().filed.objects.price_groups.get(group).copied()
    }

    /// The file has the price groups, and with them the markup of stored accounts.
    fn load_terms(&self) -> Result<(), StoreError> {
        let _edits = self.edits();
        let mut accounts = Vec::new();
        let mut fault = Ok(());
        self.objects.each(ObjectKind::Account, &mut |row| match card(row) {
            Err(error) => fault = Err(error),
            Ok(card) => accounts.push(card),
        })?;
        fault?;
        for card in accounts {
            if let Doc::Account(account) = &card.stored.doc {
                let terms = account.terms(self.group_bps(account));
                let id = crate::ident::AccountId::from(card.row.id.as_str());
                self.live.accounts.cell(&id).set_terms(terms);
            }
        }
        Ok(())
    }

    fn load_keys(&self) -> Result<(), StoreError> {
        let mut edits = self.edits();
        let shared = &mut edits.shared;
        let mut projects = HashMap::new();
        let filed = self.state().filed.clone();
        for card in filed.all(ObjectKind::Project) {
            projects.insert(card.row.id.clone(), project_part(card, shared));
        }
        let mut fault = Ok(());
        self.objects.each(ObjectKind::Project, &mut |row| match card(row) {
            Err(error) => fault = Err(error),
            Ok(card) => {
                projects.insert(card.row.id.clone(), project_part(&card, shared));
            }
        })?;
        let mut secrets = KeySecrets::default();
        self.objects.each_secret(&mut |secret| {
            if secret.kind == ObjectKind::Key {
                secrets.add(&secret);
            }
        })?;
        secrets.sort();
        self.objects.each(ObjectKind::Key, &mut |row| {
            if row.status == Status::Deleted {
                return;
            }
            let of_key: Vec<SecretDigest> = secrets.of(&row.id).collect();
            match card(row) {
                Err(error) => fault = Err(error),
                Ok(card) => {
                    let Some(project) = projects.get(&card.row.project) else {
                        let (key, project) = (&card.row.id, &card.row.project);
                        tracing::warn!(key, project, "a key is out of use: its project is gone");
                        return;
                    };
                    if let Doc::Key(key) = &card.stored.doc {
                        let models = project.models.as_ref();
                        let grant = key.grant(&card.row, &project.account, models, shared);
                        self.live.keyring.set_key(&of_key, &[], &grant);
                    }
                }
            }
        })?;
        fault
    }

    /// Prices, rates and principals.
    fn load_book(&self) -> Result<(), StoreError> {
        let mut secrets: HashMap<String, Vec<SecretRow>> = HashMap::new();
        self.objects.each_secret(&mut |secret| {
            if secret.kind == ObjectKind::Principal {
                secrets.entry(secret.id.clone()).or_default().push(secret);
            }
        })?;
        let mut fault = Ok(());
        for kind in [ObjectKind::Price, ObjectKind::Rate, ObjectKind::Principal] {
            self.objects.each(kind, &mut |row| {
                if row.status == Status::Deleted {
                    return;
                }
                let card = match card(row) {
                    Ok(card) => card,
                    Err(error) => {
                        fault = Err(error);
                        return;
                    }
                };
                let id = card.row.id.clone();
                let mut state = self.state_mut();
                match &card.stored.doc {
                    Doc::Price(entry) => drop(state.prices.insert(id, (**entry).clone())),
                    Doc::Rate(rate) => drop(state.rates.insert(id, rate.0)),
                    Doc::Principal(_) => {
                        let of_card = secrets.get(&id).map(Vec::as_slice).unwrap_or_default();
                        state.tokens.extend(tokens(&card, of_card));
                    }
                    _ => {}
                }
            })?;
        }
        fault
    }

    /// New grants for the stored keys of a project of the file.
    fn regrant_stored(&self, project: &Card) -> Result<(), StoreError> {
        let mut edits = self.edits();
        let part = project_part(project, &mut edits.shared);
        let mut cards = Vec::new();
        let mut fault = Ok(());
        self.objects.each(ObjectKind::Key, &mut |row| {
            if row.status != Status::Deleted && row.project == project.row.id {
                match card(row) {
                    Ok(card) => cards.push(card),
                    Err(error) => fault = Err(error),
                }
            }
        })?;
        fault?;
        for card in cards {
            let secrets = self.objects.secrets_of(ObjectKind::Key, &card.row.id)?;
            if let Doc::Key(key) = &card.stored.doc {
                let shared = &mut edits.shared;
                let grant = key.grant(&card.row, &part.account, part.models.as_ref(), shared);
                self.live.keyring.set_key(&super::create::digests(&secrets), &[], &grant);
            }
        }
        Ok(())
    }
}

fn id(card: &Card) -> (ObjectKind, String) {
    (card.row.kind, card.row.id.clone())
}

fn project_part(card: &Card, shared: &mut Shared) -> ProjectPart {
    let models = match &card.stored.doc {
        Doc::Project(project) => project.models.as_ref().map(|models| shared.names(models)),
        _ => None,
    };
    ProjectPart { account: card.row.account.clone(), models }
}

/// A row with its fields; what cannot be read is damage.
pub(super) fn card(row: ObjectRow) -> Result<Card, StoreError> {
    match Stored::of(&row) {
        Ok(stored) => Ok(Card { row, stored, is_filed: false }),
        Err(Refusal { message, .. }) => {
            tracing::error!("{message}");
            Err(StoreError::Damaged { path: row.id, what: "an object cannot be read" })
        }
    }
}
