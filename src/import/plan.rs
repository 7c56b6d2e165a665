//! The configuration to be, as plain data: what both imports fill in and `write` turns into text.

use std::collections::BTreeMap;
use std::fmt;

use super::names::{Names, is_variable, variable};
use super::report::Report;

/// A secret of an upstream.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Secret {
    /// The name of a variable of the environment.
    Variable(String),
    /// The secret itself.
    Literal(String),
}

impl Secret {
    /// Can the secret stand in the file as it is, and be read again as itself?
    fn fits(text: &str) -> bool {
        const LONGEST_BYTES: usize = 4096;
        let is_reference =
            ["env:", "file:", "$", "os.environ/"].iter().any(|it| text.starts_with(it));
        !is_reference
            && !text.is_empty()
            && text.len() <= LONGEST_BYTES
            && text.trim() == text
            && !text.chars().any(char::is_control)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::Variable(name) => write!(f, "env:{name}"),
            Secret::Literal(_) => f.write_str("***"),
        }
    }
}

/// A `[[provider]]`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Provider {
    pub name: String,
    pub preset: Option<&'static str>,
    pub base_url: Option<String>,
    pub api_keys: Vec<Secret>,
    pub headers: Vec<(String, Secret)>,
    /// Of `timeouts`, in whole milliseconds.
    pub first_content_ms: Option<u64>,
    pub total_ms: Option<u64>,
}

/// One of the targets of a `[[model]]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Target {
    /// Its place in [`Plan::providers`].
    pub provider: usize,
    /// `*` passes on what was asked for.
    pub model: String,
    pub weight: u64,
    pub priority: u64,
}

/// A `[[model]]`.
#[derive(Clone, Default, Debug)]
pub(super) struct Model {
    pub name: String,
    pub policy: &'static str,
    pub targets: Vec<Target>,
    pub fallbacks: Vec<String>,
    pub max_output: Option<u64>,
}

/// One budget of `limits`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Budget {
    /// A decimal, in the account's currency.
    pub amount: String,
    pub per: String,
    pub soft: bool,
}

/// `limits` of an account, project, user or key.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Limits {
    pub rpm: Option<u64>,
    pub tpm: Option<u64>,
    pub parallel: Option<u64>,
    pub budgets: Vec<Budget>,
    /// By alias; those have none of their own.
    pub models: BTreeMap<String, Limits>,
}

impl Limits {
    pub(super) fn is_empty(&self) -> bool {
        *self == Limits::default()
    }
}

/// An `[[account]]`.
#[derive(Clone, Default, Debug)]
pub(super) struct Account {
    pub name: String,
    /// Present: it is prepaid.
    pub balance: Option<String>,
    pub price_group: Option<String>,
    pub limits: Limits,
}

/// A `[[project]]`.
#[derive(Clone, Default, Debug)]
pub(super) struct Project {
    pub name: String,
    pub account: Option<String>,
    /// `None` is every model.
    pub models: Option<Vec<String>>,
    pub limits: Limits,
}

/// A `[[user]]`.
#[derive(Clone, Default, Debug)]
pub(super) struct User {
    pub name: String,
    pub email: Option<String>,
    pub limits: Limits,
}

/// A `[[key]]`.
#[derive(Clone, Default, Debug)]
pub(super) struct Key {
    pub name: String,
    pub project: Option<String>,
    pub user: Option<String>,
    /// 64 hexadecimal digits.
    pub sha256: String,
    /// `None` is every model.
    pub models: Option<Vec<String>>,
    pub aliases: Vec<(String, String)>,
    pub endpoints: Vec<&'static str>,
    pub cidrs: Vec<String>,
    pub expires_at: Option<String>,
    pub tags: Vec<String>,
    pub metadata: Vec<(String, String)>,
    pub limits: Limits,
}

/// A `[[price]]`, in US dollars per million tokens.
#[derive(Clone, Default, Debug)]
pub(super) struct Price {
    /// The place of its provider in [`Plan::providers`].
    pub provider: usize,
    pub model: String,
    /// By the names of the table.
    pub amounts: Vec<(&'static str, String)>,
    /// What is missing: then the table is written as a comment, to be completed.
    pub missing: Option<&'static str>,
}

/// A `[[price_group]]`.
#[derive(Clone, Default, Debug)]
pub(super) struct PriceGroup {
    pub name: String,
    pub markup: String,
}

/// Everything.
#[derive(Default, Debug)]
pub(super) struct Plan {
    /// What it was made of, for the head of the file.
    pub source: String,
    pub admin_token: Option<Secret>,
    /// `attempts` of `[server.retry]`.
    pub attempts: Option<u64>,
    /// `requests` of `[server.limits]`.
    pub requests: Option<u64>,
    pub providers: Vec<Provider>,
    pub models: Vec<Model>,
    pub accounts: Vec<Account>,
    pub projects: Vec<Project>,
    pub users: Vec<User>,
    pub keys: Vec<Key>,
    pub prices: Vec<Price>,
    pub price_groups: Vec<PriceGroup>,
    /// Prices are missing that LiteLLM's map of prices has.
    pub price_map: bool,
}

impl Plan {
    /// The place of a provider that is this one in all but its name, which is made of `wish`.
    pub(super) fn provider(&mut self, names: &mut Names, wish: &str, provider: Provider) -> usize {
        let same = |other: &Provider| Provider { name: String::new(), ..other.clone() } == provider;
        if let Some(at) = self.providers.iter().position(same) {
            return at;
        }
        let name = names.slug(wish, "provider");
        self.providers.push(Provider { name, ..provider });
        self.providers.len() - 1
    }

    /// The model of this name.
    pub(super) fn model(&mut self, name: &str) -> Option<&mut Model> {
        self.models.iter_mut().find(|model| model.name == name)
    }

    /// Secrets become references to variables, unless they are to stand in the file; every variable
    /// is told.
    pub(super) fn settle_secrets(&mut self, with_secrets: bool, report: &mut Report) {
        let mut names = Variables::default();
        for secret in self.secrets() {
            if let Secret::Variable(name) = secret {
                names.taken.push(name.clone());
            }
        }
        let mut settle = |secret: &mut Secret, wish: String, purpose: String| {
            if let Secret::Literal(text) = secret {
                if with_secrets && Secret::fits(text) {
                    return;
                }
                *secret = Secret::Variable(names.of(text, wish));
            }
            if let Secret::Variable(name) = secret {
                report.variable(name, &purpose);
            }
        };
        if let Some(token) = &mut self.admin_token {
            settle(token, "FORETOKEN_ADMIN_TOKEN".to_owned(), "the admin token".to_owned());
        }
        for provider in &mut self.providers {
            let name = provider.name.clone();
            for secret in &mut provider.api_keys {
                settle(secret, variable(&name, "API_KEY"), format!("a key of the provider {name}"));
            }
            for (header, secret) in &mut provider.headers {
                let wish = variable(&name, &variable(header, "HEADER"));
                settle(secret, wish, format!("the header {header} for the provider {name}"));
            }
        }
    }

    fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.admin_token.iter().chain(self.providers.iter().flat_map(|provider| {
            provider.api_keys.iter().chain(provider.headers.iter().map(|(_, secret)| secret))
        }))
    }
}

/// Names of variables for secrets: the same secret has one.
#[derive(Default)]
struct Variables {
    taken: Vec<String>,
    known: BTreeMap<String, String>,
}

impl Variables {
    fn of(&mut self, secret: &str, wish: String) -> String {
        if let Some(name) = self.known.get(secret) {
            return name.clone();
        }
        debug_assert!(is_variable(&wish));
        let mut name = wish.clone();
        for number in 2u64.. {
            if !self.taken.contains(&name) {
                break;
            }
            name = format!("{wish}_{number}");
        }
        self.taken.push(name.clone());
        self.known.insert(secret.to_owned(), name.clone());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(keys: &[&str]) -> Provider {
        let literal = |key: &&str| Secret::Literal((*key).to_owned());
        Provider { api_keys: keys.iter().map(literal).collect(), ..Provider::default() }
    }

    #[test]
    fn providers_that_differ_in_their_keys_are_two() {
        let (mut plan, mut names) = (Plan::default(), Names::default());
        let first = plan.provider(&mut names, "openai", provider(&["a"]));
        assert_eq!(plan.provider(&mut names, "other", provider(&["a"])), first);
        let second = plan.provider(&mut names, "openai", provider(&["b"]));
        assert_ne!(first, second);
        assert_eq!(plan.providers[second].name, "openai-2");
    }

    #[test]
    fn secrets_become_variables_unless_they_are_wanted() {
        let plan = || {
            let mut plan = Plan::default();
            let mut names = Names::default();
            plan.provider(&mut names, "a", provider(&["canary-1", "canary-2"]));
            plan.provider(&mut names, "b", provider(&["canary-1", "env:odd"]));
            plan
        };
        let (mut hidden, mut report) = (plan(), Report::default());
        hidden.settle_secrets(false, &mut report);
        let key = |name: &str| Secret::Variable(name.to_owned());
        assert_eq!(hidden.providers[0].api_keys, [key("A_API_KEY"), key("A_API_KEY_2")]);
        assert_eq!(hidden.providers[1].api_keys, [key("A_API_KEY"), key("B_API_KEY")]);
        let told: Vec<&str> = report.variables().iter().map(|it| it.name.as_str()).collect();
        assert_eq!(told, ["A_API_KEY", "A_API_KEY_2", "B_API_KEY"]);
        assert!(!format!("{:?}", plan()).contains("canary"));

        let (mut shown, mut report) = (plan(), Report::default());
        shown.settle_secrets(true, &mut report);
        assert_eq!(
            shown.providers[0],
            Provider { name: "a".into(), ..provider(&["canary-1", "canary-2"]) }
        );
        // What would be read as a reference cannot stand there as itself.
        assert_eq!(shown.providers[1].api_keys[1], key("B_API_KEY"));
        assert_eq!(report.variables().len(), 1);
    }
}
