//! The provider's own books: what it reported as usage, by whom. Whoever meters its answers can be
//! checked against them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::sim::plan::Usage;

/// Pages of the books; what comes after is booked on one page without names.
const PAGES_MAX: usize = 10_000;
const NAME_BYTES_MAX: usize = 256;

/// Tokens as they were reported: `input` includes `cached`, `output` includes `reasoning`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Told {
    /// Answers, with or without usage.
    pub requests: u64,
    /// Answers of which the usage was told.
    pub reported: u64,
    pub input: u64,
    pub cached: u64,
    pub output: u64,
    pub reasoning: u64,
}

impl Told {
    fn add(&mut self, usage: Option<Usage>) {
        self.requests += 1;
        if let Some(Usage { prompt, cached, completion, reasoning }) = usage {
            self.reported += 1;
            self.input += prompt;
            self.cached += cached;
            self.output += completion;
            self.reasoning += reasoning;
        }
    }
}

/// Answers that the caller did not want to the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cut {
    pub requests: u64,
    /// Output tokens handed to the connection by then.
    pub output: u64,
}

/// One page of the books.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Page {
    /// The model asked for.
    pub model: String,
    /// The request's `user`; empty if it has none.
    pub user: String,
    /// The key that was presented; empty if there was none.
    pub key: String,
    /// Answers that have begun, complete or not. What those that never ended would have told is in it.
    pub begun: Told,
    /// Answers that were handed over to the end.
    pub completed: Told,
    /// Answers cut by the caller.
    pub cut: Cut,
}

/// Where an answer is booked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Account {
    model: String,
    user: String,
    key: String,
}

impl Account {
    /// The page of a model, a user and a key; names that are too long are cut.
    pub(super) fn new(model: &str, user: &str, key: &str) -> Self {
        let short = |name: &str| {
            let ends = (0..=name.len().min(NAME_BYTES_MAX)).rev();
            let end = ends.into_iter().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
            name[..end].to_owned()
        };
        Account { model: short(model), user: short(user), key: short(key) }
    }
}

/// All pages.
#[derive(Default)]
pub(super) struct Books {
    pages: BTreeMap<Account, Page>,
    /// What did not find a page of its own.
    rest: Page,
}

impl Books {
    /// An answer begins, which will tell `usage` if it comes to its end.
    pub(super) fn begin(&mut self, account: &Account, usage: Option<Usage>) {
        self.page(account).begun.add(usage);
    }

    /// An answer has been handed over to its end.
    pub(super) fn complete(&mut self, account: &Account, usage: Option<Usage>) {
        self.page(account).completed.add(usage);
    }

    /// The caller left in the middle of an answer.
    pub(super) fn cut(&mut self, account: &Account, tokens_sent: u64) {
        let cut = &mut self.page(account).cut;
        cut.requests += 1;
        cut.output += tokens_sent;
    }

    /// All pages that are not empty, by model, user and key.
    pub(super) fn pages(&self) -> Vec<Page> {
        let rest = (self.rest != Page::default()).then_some(&self.rest);
        self.pages.values().chain(rest).cloned().collect()
    }

    fn page(&mut self, account: &Account) -> &mut Page {
        if !self.pages.contains_key(account) {
            if self.pages.len() >= PAGES_MAX {
                return &mut self.rest;
            }
            let Account { model, user, key } = account.clone();
            self.pages.insert(account.clone(), Page { model, user, key, ..Page::default() });
        }
        self.pages.get_mut(account).expect("it was just put there")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_bounded_and_nothing_is_dropped() {
        let mut books = Books::default();
        let usage = Usage { prompt: 3, cached: 1, completion: 2, reasoning: 1 };
        for number in 0..PAGES_MAX + 5 {
            let account = Account::new("m", &number.to_string(), "k");
            books.begin(&account, Some(usage));
        }
        let pages = books.pages();
        assert_eq!(pages.len(), PAGES_MAX + 1);
        let rest = pages.last().expect("pages");
        assert_eq!((rest.user.as_str(), rest.begun.requests, rest.begun.input), ("", 5, 15));
        let long = Account::new("m", &"é".repeat(NAME_BYTES_MAX), "k");
        assert_eq!(long.user.len(), NAME_BYTES_MAX);
    }
}
