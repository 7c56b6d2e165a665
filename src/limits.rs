//! What can be limited, as plain data with its text forms. `admit` enforces it; the configuration,
//! the administration and the keyring only carry it.

use std::collections::BTreeMap;
use std::fmt;

/// The longest budget period in days: ten years.
pub const PERIOD_MAX_DAYS: u16 = 3660;

/// What happens to a request that turns out to need more than it reserved.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum Overrun {
    /// It reserves what is expected, and a stream is finished even if that passes the limit.
    #[default]
    Finish,
    /// It reserves what is expected, and a stream is ended when the limit has no room for more.
    Cut,
    /// It reserves the upper bound at once: never anything over.
    Strict,
}

impl Overrun {
    /// All, by name.
    pub const NAMES: [&'static str; 3] = ["finish", "cut", "strict"];

    /// `None` unless the text is one of [`Overrun::NAMES`].
    pub fn parse(text: &str) -> Option<Overrun> {
        [Overrun::Finish, Overrun::Cut, Overrun::Strict].into_iter().find(|it| it.name() == text)
    }

    /// The name, as in the configuration.
    pub fn name(self) -> &'static str {
        Overrun::NAMES[self as usize]
    }
}

impl fmt::Display for Overrun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How long a budget lasts until it begins anew. Days begin at midnight in the account's time zone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Period {
    /// For ever.
    Total,
    /// From midnight to midnight.
    Daily,
    /// From Monday to Monday.
    Weekly,
    /// From the first of a month to the first of the next.
    Monthly,
    /// So many days, counted from 1970-01-01.
    Days(u16),
}

impl Period {
    /// `total`, `daily`, `weekly`, `monthly`, or days like `7d` (1 to [`PERIOD_MAX_DAYS`]).
    pub fn parse(text: &str) -> Option<Period> {
        match text {
            "total" => Some(Period::Total),
            "daily" => Some(Period::Daily),
            "weekly" => Some(Period::Weekly),
            "monthly" => Some(Period::Monthly),
            _ => {
                let digits = text.strip_suffix('d')?;
                let is_plain = digits.bytes().all(|digit| digit.is_ascii_digit());
                let days: u16 = digits.parse().ok().filter(|_| is_plain)?;
                (1..=PERIOD_MAX_DAYS).contains(&days).then_some(Period::Days(days))
            }
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Period::Total => f.write_str("total"),
            Period::Daily => f.write_str("daily"),
            Period::Weekly => f.write_str("weekly"),
            Period::Monthly => f.write_str("monthly"),
            Period::Days(days) => write!(f, "{days}d"),
        }
    }
}

/// So much money in each period.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BudgetLimit {
    /// In 10^-12 of the account's currency.
    pub amount_pico: u128,
    pub period: Period,
    pub overrun: Overrun,
    /// Refuses nothing; passing it raises an alert.
    pub soft: bool,
}

/// The limits of one scope, for all models together or for one. `None` is no limit; the default is
/// none at all.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct Limits {
    /// Requests in any 60 seconds.
    pub rpm: Option<u64>,
    /// Tokens in any 60 seconds.
    pub tpm: Option<u64>,
    /// Tokens in any 24 hours.
    pub tpd: Option<u64>,
    /// Requests at the same time.
    pub parallel: Option<u64>,
    /// Of the token limits; a budget has its own.
    pub overrun: Overrun,
    pub budgets: Vec<BudgetLimit>,
}

impl Limits {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        let Limits { rpm, tpm, tpd, parallel, overrun: _, budgets } = self;
        [rpm, tpm, tpd, parallel].into_iter().all(Option::is_none) && budgets.is_empty()
    }

    /// Whether anything that costs money is limited.
    pub fn has_budget(&self) -> bool {
        !self.budgets.is_empty()
    }
}

/// All limits of an account, project, user or key.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct LimitSet {
    /// For all models together.
    pub all: Limits,
    /// For single models, by alias, besides those for all.
    pub models: BTreeMap<String, Limits>,
    /// Of two sets for the same scope, the one with the higher number is the newer.
    pub revision: u64,
}

impl LimitSet {
    /// Whether nothing is limited, for any model.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && self.models.values().all(Limits::is_empty)
    }

    /// Whether there is nothing to keep: no limit, and no mode for a prepaid balance to go by.
    pub fn says_nothing(&self) -> bool {
        self.is_empty() && self.all.overrun == Overrun::default()
    }

    /// The limits for all models and those of each single one.
    pub fn each(&self) -> impl Iterator<Item = (Option<&str>, &Limits)> {
        let models = self.models.iter().map(|(model, limits)| (Some(model.as_str()), limits));
        std::iter::once((None, &self.all)).chain(models)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_written_as_they_are_read() {
        for text in ["total", "daily", "weekly", "monthly", "1d", "7d", "3660d"] {
            assert_eq!(Period::parse(text).map(|it| it.to_string()).as_deref(), Some(text));
        }
        for text in ["", "d", "0d", "3661d", "-1d", "+7d", "7 d", "7", "70000d", "Daily", "hourly"]
        {
            assert_eq!(Period::parse(text), None, "{text}");
        }
    }

    #[test]
    fn overruns_are_written_as_they_are_read() {
        for text in Overrun::NAMES {
            assert_eq!(Overrun::parse(text).map(Overrun::name), Some(text));
        }
        assert_eq!(Overrun::parse("Strict"), None);
        assert_eq!(Overrun::default(), Overrun::Finish);
    }

    #[test]
    fn only_what_limits_something_is_a_limit() {
        let mut set = LimitSet::default();
        set.models.insert("m".into(), Limits { overrun: Overrun::Cut, ..Limits::default() });
        assert!(set.is_empty() && set.says_nothing());
        set.all.overrun = Overrun::Strict;
        assert!(set.is_empty() && !set.says_nothing(), "a balance goes by it");
        set.models.insert("n".into(), Limits { tpd: Some(0), ..Limits::default() });
        assert!(!set.is_empty(), "nothing at all is a limit, too");
        let named: Vec<_> = set.each().map(|(model, limits)| (model, limits.is_empty())).collect();
        assert_eq!(named, [(None, true), (Some("m"), true), (Some("n"), false)]);
        let budget = BudgetLimit {
            amount_pico: 1,
            period: Period::Daily,
            overrun: Overrun::Finish,
            soft: true,
        };
        set.all.budgets.push(budget);
        assert!(set.all.has_budget() && !set.all.is_empty());
    }
}
