//! Why a request may not go on, in words that tell the cure.

use std::fmt;
use std::time::Duration;

use super::scope::Scope;
use super::terms::Rates;
use crate::limits::Period;
use crate::money::{Currency, format_pico};

/// Which of the limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LimitKind {
    /// Requests per minute.
    Requests,
    /// Tokens per minute.
    Tokens,
    /// Tokens per day.
    TokensPerDay,
    /// Requests at the same time.
    Parallel,
    /// Money per period.
    Budget(Period),
    /// Money that was paid in.
    Balance,
}

impl LimitKind {
    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            LimitKind::Requests => "rpm",
            LimitKind::Tokens => "tpm",
            LimitKind::TokensPerDay => "tpd",
            LimitKind::Parallel => "parallel",
            LimitKind::Budget(_) => "budget",
            LimitKind::Balance => "balance",
        }
    }

    /// Whether it limits money.
    pub fn is_money(self) -> bool {
        matches!(self, LimitKind::Budget(_) | LimitKind::Balance)
    }
}

/// A limit had no room. Of several that have none, the one that takes the longest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub scope: Scope,
    pub limit: LimitKind,
    pub amount: u128,
    /// Spent, and reserved by others, when it was asked.
    pub used: u128,
    /// What it was asked for.
    pub asked: u128,
    /// The true time until it would fit. `None`: waiting does not help.
    pub retry_after: Option<Duration>,
    pub rates: Rates,
    /// Of `amount`, `used` and `asked`, where they are money.
    pub currency: Currency,
}

/// For the caller: no names but the model's, which the caller gave.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { scope, limit, amount, used, asked, .. } = self;
        write!(f, "the {}'s ", scope.kind.name())?;
        let model = Model(scope.model.as_deref());
        let left = amount.saturating_sub(*used);
        let money = |pico: u128| Money(pico, self.currency);
        match limit {
            LimitKind::Requests => {
                write!(f, "limit of {amount} requests per minute{model} is reached; ")?;
                self.cure(f, "have the limit raised")
            }
            LimitKind::Tokens | LimitKind::TokensPerDay => {
                let span = if *limit == LimitKind::Tokens { "minute" } else { "day" };
                write!(f, "limit of {amount} tokens per {span}{model} ")?;
                match asked > amount {
                    true => write!(f, "is less than the {asked} that this request may need; ")?,
                    false => write!(f, "has {left} left of the {asked} this request may need; ")?,
                }
                self.cure(f, "ask for fewer tokens (max_tokens) or have the limit raised")
            }
            LimitKind::Parallel => {
                write!(f, "limit of {amount} requests at the same time{model} is reached; ")?;
                match amount {
                    0 => f.write_str("have the limit raised"),
                    _ => f.write_str("ask again when another request has ended"),
                }
            }
            LimitKind::Budget(period) => {
                let (amount, left, asked) = (money(*amount), money(left), money(*asked));
                write!(f, "{} of {amount}{model} has {left} left", Name(*period))?;
                write!(f, " of the {asked} that this request may cost; ")?;
                self.cure(f, "ask for fewer tokens (max_tokens) or have the budget raised")
            }
            LimitKind::Balance => {
                let (left, asked) = (money(left), money(*asked));
                write!(f, "prepaid balance has {left} left of the {asked} that this request may ")?;
                f.write_str("cost; top it up")
            }
        }
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// What helps: time, or else `otherwise`.
    fn cure(&self, f: &mut fmt::Formatter<'_>, otherwise: &str) -> fmt::Result {
        match self.retry_after {
            Some(wait) => write!(f, "it has room again in {}", Span(wait)),
            None => f.write_str(otherwise),
        }
    }
}

struct Model<'a>(Option<&'a str>);

impl fmt::Display for Model<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |model| write!(f, " for model {model}"))
    }
}

struct Money(u128, Currency);

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", format_pico(i128::try_from(self.0).unwrap_or(i128::MAX)), self.1)
    }
}

struct Name(Period);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Period::Total => f.write_str("total budget"),
            Period::Days(days) => write!(f, "budget for {days} days"),
            period => write!(f, "{period} budget"),
        }
    }
}

/// A time to wait, rounded up to seconds, in its two largest units.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_millis().div_ceil(1000);
        let units = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
        let first = units.iter().position(|(length, _)| seconds >= *length).unwrap_or(3);
        let (length, unit) = units[first];
        write!(f, "{} {unit}", seconds / length)?;
        match units.get(first + 1) {
            Some((next, name)) if seconds % length / next > 0 => {
                write!(f, " {} {name}", seconds % length / next)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admit::ScopeKind;
    use crate::money::PICO;

    fn refusal(
        kind: ScopeKind,
        limit: LimitKind,
        numbers: [u128; 3],
        wait: Option<u64>,
    ) -> Refusal {
        let [amount, used, asked] = numbers;
        Refusal {
            scope: Scope::all(kind, "name"),
            limit,
            amount,
            used,
            asked,
            retry_after: wait.map(Duration::from_millis),
            rates: Rates::default(),
            currency: Currency::parse("EUR").expect("a currency"),
        }
    }

    #[test]
    fn refusals_say_the_limit_what_is_left_and_what_helps() {
        use LimitKind::*;
        use ScopeKind::*;
        for (refusal, want) in [
            (
                refusal(Key, Requests, [600, 600, 1], Some(2_001)),
                "the key's limit of 600 requests per minute is reached; it has room again in 3 s",
            ),
            (
                refusal(Project, Tokens, [1000, 960, 500], Some(61_000)),
                "the project's limit of 1000 tokens per minute has 40 left of the 500 this request \
                 may need; it has room again in 1 min 1 s",
            ),
            (
                refusal(User, TokensPerDay, [1000, 0, 5000], None),
                "the user's limit of 1000 tokens per day is less than the 5000 that this request \
                 may need; ask for fewer tokens (max_tokens) or have the limit raised",
            ),
            (
                refusal(Key, Parallel, [5, 5, 1], Some(1000)),
                "the key's limit of 5 requests at the same time is reached; ask again when another \
                 request has ended",
            ),
            (
                refusal(
                    Account,
                    Budget(Period::Daily),
                    [10 * PICO, 9 * PICO, 3 * PICO / 2],
                    Some(93_600_000),
                ),
                "the account's daily budget of 10 EUR has 1 EUR left of the 1.5 EUR that this \
                 request may cost; it has room again in 1 d 2 h",
            ),
            (
                refusal(Key, Budget(Period::Total), [PICO, PICO, 1], None),
                "the key's total budget of 1 EUR has 0 EUR left of the 0.000000000001 EUR that this \
                 request may cost; ask for fewer tokens (max_tokens) or have the budget raised",
            ),
            (
                refusal(Account, Balance, [PICO, 2 * PICO, PICO], None),
                "the account's prepaid balance has 0 EUR left of the 1 EUR that this request may \
                 cost; top it up",
            ),
        ] {
            assert_eq!(refusal.to_string(), want);
        }
        let mut of_model = refusal(Key, Requests, [1, 1, 1], Some(0));
        of_model.scope.model = Some("m".into());
        assert!(of_model.to_string().contains("per minute for model m is reached"));
    }
}
