//! What is kept: usage and the objects that it is booked for; and what lives in memory of both.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::governance::Stored;
use super::reports::{Names, Reports};
use super::restore::{self, SpentBefore};
use super::run::whole;
use crate::admit::Accounts;
use crate::auth::Keyring;
use crate::clock::{self, Now};
use crate::config::{Config, StorePath};
use crate::directory::{Caller, Changed, Directory, FileObjects, Live, Refusal};
use crate::error::{Error, Kind, Origin};
use crate::ident::KeyId;
use crate::proxy::{self, BoxFuture, Pricing, Snapshot};
use crate::store::objects::{self, ObjectKind, Objects};
use crate::store::{Journal, Store, StoreError};

/// Callers who ask for their usage at the same time: each reads the store.
const OWN_REPORTS: usize = 4;

/// What is kept, and its live side.
pub(super) struct Books {
    pub store: Arc<dyn Store>,
    pub objects: Arc<dyn Objects>,
    pub keyring: Arc<Keyring>,
    pub accounts: Arc<Accounts>,
    pub directory: Arc<Directory>,
    pub reports: Arc<Reports>,
}

/// Where the database is; nowhere for a store in memory.
pub(super) fn database(config: &Config) -> Option<PathBuf> {
    match &config.store.path {
        StorePath::Memory => None,
        StorePath::File(path) => Some(whole(Path::new(path))),
    }
}

impl Books {
    /// Loads what is stored, and what the file defines, into memory.
    ///
    /// # Errors
    /// Of the store.
    pub(super) fn open(
        config: &Config,
        file: FileObjects,
        journal: &Arc<Journal>,
        changed: impl Fn(Changed) + Send + Sync + 'static,
        now: Now,
    ) -> Result<Books, StoreError> {
        let store = journal.store().clone();
        let objects = objects::open(database(config).as_deref())?;
        let (keyring, accounts) = (Arc::new(Keyring::new()), Arc::new(Accounts::default()));
        let spent = SpentBefore {
            store: store.clone(),
            journal: Arc::downgrade(journal),
            accounts: accounts.clone(),
        };
        let live = Live {
            keyring: keyring.clone(),
            accounts: accounts.clone(),
            spent: Box::new(spent),
            changed: Box::new(changed),
        };
        let directory = Directory::open(objects.clone(), live, file, now)?;
        let directory = Arc::new(directory);
        let reports = Reports { store: store.clone(), names: directory.clone() };
        let reports = Arc::new(reports);
        Ok(Books { store, objects, keyring, accounts, directory, reports })
    }

    /// Rebuilds what limits have counted, before anybody is let in.
    ///
    /// # Errors
    /// Of the store.
    pub(super) fn restore(&self, snapshot: &Snapshot, now: Now) -> Result<(), StoreError> {
        let table = &snapshot.table;
        restore::counters(&self.keyring, &self.accounts, table, &*self.store, now)
    }

    /// Prices and rates that were set by the admin API.
    pub(super) fn stored(&self) -> Stored {
        Stored { prices: self.directory.stored_prices(), rates: self.directory.stored_rates() }
    }

    /// Remembers every price that records may name from now on, so that each can be computed again.
    pub(super) fn keep_prices(&self, pricing: &Pricing) {
        for entry in pricing.book.entries().iter().chain(&pricing.default) {
            let kept = self.store.keep_price(entry.version, &entry.to_json().to_string());
            if let Err(error) = kept {
                tracing::warn!(%error, "prices cannot be kept with the records now; tried again at the next change");
                return;
            }
        }
    }

    /// What of the store the file stands before, told in the log and answered.
    pub(super) fn shadowed(&self) -> Vec<String> {
        let shadowed = self.directory.shadowed().unwrap_or_else(|error| {
            tracing::warn!(%error, "what the file stands before in the store is not known now");
            Vec::new()
        });
        for what in &shadowed {
            tracing::warn!("{what}");
        }
        shadowed
    }

    /// Tells the head of the audit log: what is cut off behind a head that somebody remembers is
    /// missed.
    pub(super) fn tell_audit_head(&self) {
        match self.objects.head() {
            Ok(head) if head.count > 0 => {
                let hash: String = head.hash.iter().map(|byte| format!("{byte:02x}")).collect();
                tracing::info!(count = head.count, %hash, "head of the audit log");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the audit log cannot be read"),
        }
    }
}

impl Names for Directory {
    fn name_of(&self, kind: ObjectKind, id: &str) -> Option<String> {
        Directory::name_of(self, kind, id)
    }

    fn id_of(
        &self,
        caller: &Caller,
        kind: ObjectKind,
        text: &str,
        project: Option<&str>,
    ) -> Result<Option<String>, Refusal> {
        Directory::id_of(self, caller, kind, text, project)
    }
}

/// Answers what callers ask about their own keys.
pub(super) struct OwnReports {
    reports: Arc<Reports>,
    places: Arc<Semaphore>,
}

impl OwnReports {
    pub(super) fn new(reports: Arc<Reports>) -> Self {
        OwnReports { reports, places: Arc::new(Semaphore::new(OWN_REPORTS)) }
    }
}

impl proxy::Reports for OwnReports {
    fn usage(&self, key: &KeyId, query: &str) -> BoxFuture<Result<String, Error>> {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let busy = "too many reports are being made; ask again shortly";
            let error = Error::new(Kind::Shedding, Origin::Internal, busy);
            return Box::pin(async { Err(error) });
        };
        let (reports, key, query) = (self.reports.clone(), key.clone(), parameters(query));
        Box::pin(async move {
            let made = tokio::task::spawn_blocking(move || {
                let _place = place;
                reports.own_usage(key.as_str(), &query).map(|report| report.to_string())
            });
            match made.await {
                Ok(report) => report.map_err(|refusal| error_of(&refusal)),
                Err(_) => Err(Error::new(Kind::Internal, Origin::Internal, "the report failed")),
            }
        })
    }
}

fn error_of(refusal: &Refusal) -> Error {
    let kind = if refusal.status >= 500 { Kind::Shedding } else { Kind::InvalidRequest };
    let error = Error::downstream(kind, refusal.message.clone());
    match &refusal.field {
        Some(field) => error.param(field.clone()),
        None => error,
    }
}

/// The parameters of a query, decoded. What was presented as the key is none of them.
fn parameters(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .filter(|(name, _)| *name != "key")
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut ahead = rest.clone();
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match (byte, digit(ahead.next()), digit(ahead.next())) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                rest = ahead;
            }
            (b'+', ..) => out.push(b' '),
            _ => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// What is done now and then, off the path.
pub(super) fn tidy(books: &Books, noted_unix_ms: &mut u64) {
    let now = clock::now();
    books.accounts.sweep(now);
    let since = std::mem::replace(noted_unix_ms, now.unix_ms);
    let mut used = Vec::new();
    books.keyring.each_used(since, |key, unix_ms| used.push((key.clone(), unix_ms)));
    for part in used.chunks(10_000) {
        if let Err(error) = books.directory.note_used(part) {
            tracing::warn!(%error, "when keys were last used cannot be noted now");
            *noted_unix_ms = since;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_taken_apart() {
        let pairs = parameters("from=2026-01-01T00%3A00%3A00Z&group_by=day,model&key=sk-1&x&y=a%2");
        let pairs: Vec<_> = pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(
            pairs,
            [("from", "2026-01-01T00:00:00Z"), ("group_by", "day,model"), ("x", ""), ("y", "a%2")]
        );
    }
}
