//! Making objects, with the secrets of those that have one.

use serde_json::{Map, Value};

use super::fields::NAME_CHARS_MAX;
use super::file::Card;
use super::kinds::{self, Doc, Draft, Stored, id_prefix};
use super::live::{Effect, account_of, tokens};
use super::names::Owners;
use super::perform::{Act, Plan};
use super::{Refusal, Reply, Role, access};
use crate::auth::{Digest, Secret, SecretDigest, generate, generate_token};
use crate::ident::RequestId;
use crate::store::objects::{ObjectKind, ObjectRow, SecretRow, Status};

/// A shorter secret could be guessed.
const SECRET_CHARS_MIN: usize = 16;
const SECRET_CHARS_MAX: usize = 1024;

/// The secret of a new object.
struct New {
    digest: Digest,
    prefix: String,
    /// Of one that was made here: to be shown once.
    shown: Option<Secret>,
}

impl Act<'_> {
    pub(super) fn create(&mut self) -> Result<Plan, Refusal> {
        let given = self.given_secret()?;
        let draft = kinds::read(self.kind, &self.body)?;
        let owners = self.owners(&draft)?;
        let id = self.new_id();
        let Draft { name, doc, .. } = draft;
        let card =
            Card { row: self.new_row(id, name, owners), stored: Stored::new(doc), is_filed: false };
        self.check(None, &card)?;
        if let Doc::Key(key) = &card.stored.doc
            && key.expires_at_unix_ms.is_some_and(|end| end <= self.now.unix_ms)
        {
            return Err(Refusal::value("expires_at", "`expires_at` is in the past"));
        }
        let secret = match self.kind {
            ObjectKind::Key => Some(given.map_or_else(|| self.made(generate), Ok)?),
            ObjectKind::Principal => Some(self.made(generate_token)?),
            _ => None,
        };
        self.created(card, secret)
    }

    fn created(&mut self, mut card: Card, secret: Option<New>) -> Result<Plan, Refusal> {
        if let Some(secret) = &secret {
            card.stored.prefix = secret.prefix.clone();
        }
        let (mut plan, card) = self.writing(None, card);
        let secrets: Vec<SecretRow> =
            secret.iter().map(|secret| self.secret_row(&card, secret)).collect();
        plan.change.secrets_put = secrets.clone();
        plan.effects = self.effects(None, &card, &secrets, Vec::new(), false)?;
        let mut body = self.directory.shown(&card);
        if let Some(shown) = secret.and_then(|secret| secret.shown) {
            body.insert(secret_field(self.kind).to_owned(), shown.reveal().into());
        }
        if let Doc::Price(entry) = &card.stored.doc
            && !self.is_provider(&entry.provider)
        {
            let warning = format!(
                "there is no [[provider]] `{}` in the configuration: the price counts from when there is",
                entry.provider
            );
            body.insert("warnings".to_owned(), vec![warning].into());
        }
        plan.reply = Reply { status: 201, body: Value::Object(body) };
        Ok(plan)
    }

    fn secret_row(&self, card: &Card, secret: &New) -> SecretRow {
        SecretRow {
            digest: secret.digest,
            kind: self.kind,
            id: card.row.id.clone(),
            prefix: secret.prefix.clone(),
            valid_until_unix_ms: None,
        }
    }

    /// A secret from 256 random bits.
    fn made(&mut self, make: fn([u8; 32]) -> Secret) -> Result<New, Refusal> {
        let secret = make(self.random());
        let (digest, prefix) = (secret.digest(), secret.shown().to_owned());
        Ok(New { digest, prefix, shown: Some(secret) })
    }

    /// A further secret of an object: its row, and what is shown once.
    pub(super) fn next_secret(&mut self, card: &Card) -> Result<(SecretRow, Secret), Refusal> {
        let make = if self.kind == ObjectKind::Key { generate } else { generate_token };
        let secret = make(self.random());
        let row = SecretRow {
            digest: secret.digest(),
            kind: self.kind,
            id: card.row.id.clone(),
            prefix: secret.shown().to_owned(),
            valid_until_unix_ms: None,
        };
        Ok((row, secret))
    }

    /// An imported key keeps its secret: the fields `secret` or `sha256`, which are taken out of the
    /// body, so that nothing of them is stored, shown or logged.
    fn given_secret(&mut self) -> Result<Option<New>, Refusal> {
        if self.kind != ObjectKind::Key {
            return Ok(None);
        }
        let mut take = |name: &str| self.body.remove(name).filter(|value| !value.is_null());
        let new = match (take("secret"), take("sha256")) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => {
                return Err(Refusal::value("sha256", "give `secret` or `sha256`, not both"));
            }
            (Some(secret), None) => of_secret(&secret)?,
            (None, Some(sha256)) => of_sha256(&sha256)?,
        };
        if self.caller.role < Role::Admin {
            let message = "only an owner or an admin may bring a secret along; leave it out";
            return Err(Refusal::forbidden(message).of("secret"));
        }
        if self.directory.live.keyring.find(&new.digest).is_some() {
            let message = "another key has this secret";
            return Err(Refusal::conflict("secret_taken", message).of("secret"));
        }
        Ok(Some(new))
    }

    fn new_id(&mut self) -> String {
        let random = self.random();
        let random = u128::from_le_bytes(*random.first_chunk().expect("32 bytes are more"));
        format!("{}{}", id_prefix(self.kind), RequestId::new(self.now.unix_ms, random))
    }

    fn new_row(&self, id: String, name: String, owners: Owners) -> ObjectRow {
        ObjectRow {
            kind: self.kind,
            id,
            name,
            status: Status::Active,
            account: owners.account,
            project: owners.project,
            user: owners.user,
            body: String::new(),
            revision: 0,
            created_unix_ms: self.now.unix_ms,
            updated_unix_ms: self.now.unix_ms,
            created_by: self.caller.name.clone(),
        }
    }

    /// Whether an object may become what `after` says: rights, names of the file, terms.
    pub(super) fn check(&self, before: Option<&Card>, after: &Card) -> Result<(), Refusal> {
        let (row, doc) = (&after.row, &after.stored.doc);
        self.check_rights(after)?;
        if let Some(before) = before {
            let old = (&before.row, &before.stored.doc);
            access::may_change(self.caller, self.kind, old, (row, doc))?;
        }
        let is_renamed = before.is_none_or(|before| {
            (&before.row.name, &before.row.project) != (&row.name, &row.project)
        });
        if is_renamed {
            self.free_of_the_file(row)?;
        }
        match doc {
            Doc::Account(account) => match &account.price_group {
                Some(group)
                    if !self.is_price_group(group) && before.is_none_or(is_other(group)) =>
                {
                    let message = format!("there is no price group `{group}`");
                    Err(Refusal::value("price_group", message))
                }
                _ => Ok(()),
            },
            Doc::Principal(principal) => match principal.scope_fault(&row.account, &row.project) {
                Some((field, message)) => Err(Refusal::value(field, message)),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Whether the caller may have, or hand out, an object as it is.
    pub(super) fn check_rights(&self, card: &Card) -> Result<(), Refusal> {
        access::may_have(self.caller, &card.row, &card.stored.doc)?;
        match &card.stored.doc {
            Doc::Principal(principal) => access::may_last(*principal, self.own_end()?),
            _ => Ok(()),
        }
    }

    /// When the caller's own access ends.
    fn own_end(&self) -> Result<Option<u64>, Refusal> {
        if self.caller.role == Role::Owner && self.caller.name == kinds::principal::OWNER {
            return Ok(None);
        }
        let own = self.directory.objects.by_name(ObjectKind::Principal, "", &self.caller.name);
        let Some(row) = own.map_err(|error| Refusal::store(&error))? else { return Ok(None) };
        match Stored::of(&row)?.doc {
            Doc::Principal(own) => Ok(own.expires_at_unix_ms),
            _ => Ok(None),
        }
    }

    fn free_of_the_file(&self, row: &ObjectRow) -> Result<(), Refusal> {
        let filed = self.directory.state().filed.clone();
        let is_key = row.kind == ObjectKind::Key;
        let same =
            |card: &Card| card.row.name == row.name && (!is_key || card.row.project == row.project);
        if !filed.all(row.kind).any(same) {
            return Ok(());
        }
        let (kind, name) = (row.kind, &row.name);
        if matches!(kind, ObjectKind::Price | ObjectKind::Rate) {
            let message = format!("the {kind} `{name}` is defined in the configuration file");
            return Err(Refusal::conflict("managed_by_file", message));
        }
        let message = format!("the configuration file has a {kind} `{name}`; choose another name");
        Err(Refusal::conflict("name_taken", message).of("name"))
    }

    fn is_provider(&self, name: &str) -> bool {
        self.directory.state().filed.objects.providers.iter().any(|known| known == name)
    }

    /// A group is one that has a markup, or prices of its own.
    fn is_price_group(&self, group: &str) -> bool {
        let state = self.directory.state();
        let of_prices = |entry: &crate::price::Entry| entry.group.as_deref() == Some(group);
        state.filed.objects.price_groups.contains_key(group)
            || state.filed.objects.prices.iter().any(of_prices)
            || state.prices.values().any(of_prices)
    }

    /// What has to happen outside of the store when `before` becomes `after`, which then has `secrets`
    /// and lost those that are `gone`.
    pub(super) fn effects(
        &mut self,
        before: Option<&Card>,
        after: &Card,
        secrets: &[SecretRow],
        gone: Vec<Digest>,
        is_ending: bool,
    ) -> Result<Vec<Effect>, Refusal> {
        let row = &after.row;
        let is_gone = row.status == Status::Deleted;
        let id = row.id.clone();
        let mut effects = Vec::new();
        match &after.stored.doc {
            Doc::Key(_) if is_gone => {
                let all = secrets.iter().map(|secret| secret.digest).chain(gone);
                effects.push(Effect::Gone(all.collect()));
            }
            Doc::Key(_) => {
                let secrets = digests(secrets);
                let grant = Box::new(self.grant(after)?);
                effects.push(Effect::Key { grant, secrets, gone, is_ending });
            }
            Doc::Account(account) => {
                let terms = Box::new(account.terms(self.directory.group_bps(account)));
                let account = account_of(row).to_owned();
                effects.push(Effect::Terms { account, terms });
            }
            Doc::Principal(_) => {
                effects.push(Effect::Tokens { id, tokens: tokens(after, secrets) });
            }
            Doc::Price(entry) => {
                let entry = (!is_gone).then(|| entry.clone());
                effects.push(Effect::Price { id, entry });
            }
            Doc::Rate(rate) => {
                effects.push(Effect::Rate { id, rate: (!is_gone).then_some(rate.0) });
            }
            Doc::Project(_) | Doc::User(_) => {}
        }
        let limits = self.directory.limits_effect(before, after, self.now);
        effects.extend(limits.map_err(|error| Refusal::store(&error))?);
        Ok(effects)
    }
}

/// Whether the account is not in this price group yet. One that it is in may be gone from the file.
fn is_other(group: &str) -> impl Fn(&Card) -> bool {
    move |card| match &card.stored.doc {
        Doc::Account(account) => account.price_group.as_deref() != Some(group),
        _ => true,
    }
}

/// The secrets of a key, as the keyring wants them.
pub(super) fn digests(secrets: &[SecretRow]) -> Vec<SecretDigest> {
    let one = |secret: &SecretRow| SecretDigest {
        digest: secret.digest,
        valid_until_unix_ms: secret.valid_until_unix_ms,
    };
    secrets.iter().map(one).collect()
}

/// The field of an answer that holds what is shown once.
pub(super) fn secret_field(kind: ObjectKind) -> &'static str {
    if kind == ObjectKind::Principal { "token" } else { "secret" }
}

fn of_secret(value: &Value) -> Result<New, Refusal> {
    let text = value.as_str().ok_or_else(|| Refusal::kind("secret", "`secret` must be a text"))?;
    if !(SECRET_CHARS_MIN..=SECRET_CHARS_MAX).contains(&text.len()) {
        let message =
            format!("`secret` must have {SECRET_CHARS_MIN} to {SECRET_CHARS_MAX} characters");
        return Err(Refusal::value("secret", message));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = "`secret` must be letters, digits and signs without blanks, as in a header";
        return Err(Refusal::value("secret", message));
    }
    let secret = Secret::new(text);
    Ok(New { digest: secret.digest(), prefix: secret.shown().to_owned(), shown: None })
}

fn of_sha256(value: &Value) -> Result<New, Refusal> {
    let text = value.as_str().ok_or_else(|| Refusal::kind("sha256", "`sha256` must be a text"))?;
    let mut digest = [0; 32];
    let is_hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hex {
        return Err(Refusal::value("sha256", "`sha256` must be 64 hexadecimal digits"));
    }
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("two hexadecimal digits");
    }
    Ok(New { digest, prefix: String::new(), shown: None })
}

/// The fields of an object as they were set, with its name and its owners: what a merge patch changes.
pub(super) fn settable(card: &Card) -> Map<String, Value> {
    let mut map = card.stored.doc.to_map();
    if !matches!(card.row.kind, ObjectKind::Price | ObjectKind::Rate) {
        debug_assert!(card.row.name.chars().count() <= NAME_CHARS_MAX);
        map.insert("name".to_owned(), card.row.name.as_str().into());
    }
    let row = &card.row;
    let mut owner = |name: &str, id: &str| {
        if !id.is_empty() {
            map.insert(name.to_owned(), id.into());
        }
    };
    match row.kind {
        ObjectKind::Key => {
            owner("project", &row.project);
            owner("user", &row.user);
        }
        ObjectKind::Project | ObjectKind::User => owner("account", &row.account),
        ObjectKind::Principal => {
            owner("account", &row.account);
            owner("project", &row.project);
        }
        ObjectKind::Account | ObjectKind::Price | ObjectKind::Rate => {}
    }
    map
}
