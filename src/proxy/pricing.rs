//! What a request costs, and what it may cost at most: the prices of one generation, in the money of
//! the account that pays.

use std::sync::Arc;
use std::time::Duration;

use crate::admit::{QueueSettings, Terms};
use crate::dialect::Endpoint;
use crate::meter::Units;
use crate::money::{Currency, PICO};
use crate::price::{Book, Ceiling, Entry, PriceList, Rates, convert};
use crate::proxy::attempt::Pick;
use crate::proxy::plan::Plan;
use crate::proxy::snapshot::Snapshot;

/// 100 % in basis points.
const WHOLE_BPS: u32 = 10_000;

/// What is done with a model that has no price.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Unpriced {
    /// Served for nothing; the record says so and an alert is raised.
    #[default]
    Free,
    /// Not served.
    Refuse,
    /// Served at the default price.
    Default,
}

/// The prices of one generation.
#[derive(Default)]
pub struct Pricing {
    pub book: Book,
    pub rates: Rates,
    /// For models that have no price of their own, where the model asks for that.
    pub default: Option<Arc<Entry>>,
}

/// What governs one route beside its targets.
#[derive(Clone, Default)]
pub struct RouteTerms {
    /// The most output tokens that one answer can have: what strict limits reserve.
    pub max_output: Option<u64>,
    pub unpriced: Unpriced,
    /// Waiting for room, instead of the account's own setting.
    pub queue: Option<QueueSettings>,
    /// By candidate.
    pub candidates: Vec<CandidateTerms>,
}

/// What governs one candidate.
#[derive(Clone, Default)]
pub struct CandidateTerms {
    /// The provider's name, as prices are found by.
    pub provider: Arc<str>,
    /// The upstream's prices for this model; `None` if there are none, or if the model is whatever
    /// was asked for.
    pub prices: Option<Arc<PriceList>>,
    /// How long the rest of an answer is read, for its usage, after the caller has left; `None`: the
    /// upstream is cancelled at once.
    pub drain: Option<Duration>,
}

/// What an attempt or an answer costs.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Bill {
    /// What the upstream is owed, in the account's currency.
    pub cost_pico: u128,
    /// What the account is charged.
    pub charge_pico: u128,
    /// The entry of the price book that was used; 0 for none.
    pub price_version: u64,
    /// From the price's currency to the account's.
    pub fx_rate_pico: u128,
    /// There was no price: the zeros are not a price.
    pub unpriced: bool,
}

impl Snapshot {
    /// The upstream's price of a candidate at a time; `asked` is the model's name where the
    /// candidate passes it on.
    fn entry(&self, pick: Pick, asked: &str, at_unix_ms: u64) -> Option<&Arc<Entry>> {
        let terms = &self.terms[pick.route].candidates[pick.candidate];
        let own = match &terms.prices {
            Some(list) => list.at(at_unix_ms),
            None => match self.upstream_model(pick) {
                Some(_) => None,
                None => self.pricing.book.find(&terms.provider, asked, None)?.at(at_unix_ms),
            },
        };
        own.or_else(|| match self.terms[pick.route].unpriced {
            Unpriced::Default => self.pricing.default.as_ref(),
            _ => None,
        })
    }

    /// The selling price of an account's price group, where that group has one of its own.
    fn group_entry(
        &self,
        pick: Pick,
        asked: &str,
        terms: &Terms,
        at_unix_ms: u64,
    ) -> Option<&Arc<Entry>> {
        let group = terms.price_group.as_deref()?;
        let provider = &self.terms[pick.route].candidates[pick.candidate].provider;
        let model = self.upstream_model(pick).unwrap_or(asked);
        self.pricing.book.find(provider, model, Some(group))?.at(at_unix_ms)
    }

    fn upstream_model(&self, pick: Pick) -> Option<&str> {
        self.table.route(pick.route).candidates[pick.candidate].target.upstream_model.as_deref()
    }

    fn rate(&self, from: Currency, to: Currency, at_unix_ms: u64) -> Option<u128> {
        if from == to {
            return Some(PICO);
        }
        self.pricing.rates.rate(from, to, at_unix_ms)
    }

    /// The currency of a price that cannot be counted in the account's, if that is why a request has
    /// no price.
    pub(super) fn lacks_rate(
        &self,
        pick: Pick,
        asked: &str,
        terms: &Terms,
        at_unix_ms: u64,
    ) -> Option<Currency> {
        let group = self.group_entry(pick, asked, terms, at_unix_ms);
        let entries = [self.entry(pick, asked, at_unix_ms), group];
        let currencies = entries.into_iter().flatten().map(|entry| entry.currency);
        currencies
            .into_iter()
            .find(|&currency| self.rate(currency, terms.currency, at_unix_ms).is_none())
    }

    /// Whether a candidate may not be asked because nobody knows what it costs.
    pub(super) fn is_refused(&self, pick: Pick, plan: &Plan, terms: &Terms, at: u64) -> bool {
        if self.terms[pick.route].unpriced != Unpriced::Refuse {
            return false;
        }
        let (input, output) = match plan.endpoint {
            Endpoint::ChatCompletions | Endpoint::Completions | Endpoint::Responses => (true, true),
            Endpoint::Embeddings => (true, false),
            _ => (false, false),
        };
        let asked = plan.asked_name();
        let entries = [self.entry(pick, asked, at), self.group_entry(pick, asked, terms, at)];
        let is_priced = |entry: &&Arc<Entry>| entry.prices_tokens(input, output);
        self.ceiling_of(pick, asked, terms, at).is_none()
            || !entries.iter().flatten().all(is_priced)
    }

    /// How long the rest of a candidate's answer is read when its caller has left.
    pub(super) fn drain(&self, pick: Pick) -> Option<Duration> {
        self.terms[pick.route].candidates[pick.candidate].drain
    }

    /// Whether some candidate takes whatever model was asked for, so that prices depend on the name.
    pub(super) fn passes_names_on(&self, route: usize) -> bool {
        let candidates = &self.table.route(route).candidates;
        candidates.iter().any(|candidate| candidate.target.upstream_model.is_none())
    }

    /// Whether no candidate of a route or of its fallbacks may be asked for want of a price.
    pub(super) fn is_all_refused(&self, plan: &Plan, terms: &Terms, at: u64) -> bool {
        if self.terms[plan.route].unpriced != Unpriced::Refuse {
            return false;
        }
        self.picks(plan.route).all(|pick| self.is_refused(pick, plan, terms, at))
    }

    /// All candidates that a request to a route may come to.
    fn picks(&self, route: usize) -> impl Iterator<Item = Pick> {
        let fallbacks = self.table.route(route).fallbacks.iter().copied();
        std::iter::once(route).chain(fallbacks).flat_map(|route| {
            let count = self.table.route(route).candidates.len();
            (0..count).map(move |candidate| Pick { route, candidate })
        })
    }

    /// What `units` of a candidate cost and what the account is charged for them.
    pub(super) fn bill(
        &self,
        pick: Pick,
        asked: &str,
        terms: &Terms,
        at_unix_ms: u64,
        units: &Units,
        tier: Option<&str>,
    ) -> Bill {
        self.try_bill(pick, asked, terms, at_unix_ms, units, tier).unwrap_or(Bill {
            unpriced: true,
            fx_rate_pico: PICO,
            ..Bill::default()
        })
    }

    fn try_bill(
        &self,
        pick: Pick,
        asked: &str,
        terms: &Terms,
        at: u64,
        units: &Units,
        tier: Option<&str>,
    ) -> Option<Bill> {
        let entry = self.entry(pick, asked, at)?;
        let rate = self.rate(entry.currency, terms.currency, at)?;
        // One kind without a price does not make the others free.
        let (upstream, is_whole) = entry.cost_of_priced(units, tier)?;
        let cost_pico = convert(upstream, rate, WHOLE_BPS)?;
        let bill = Bill {
            cost_pico,
            charge_pico: convert(upstream, rate, terms.markup_bps)?,
            price_version: entry.version,
            fx_rate_pico: rate,
            unpriced: !is_whole,
        };
        let Some(selling) = self.group_entry(pick, asked, terms, at) else { return Some(bill) };
        let rate = self.rate(selling.currency, terms.currency, at)?;
        let (sold, is_whole) = selling.cost_of_priced(units, tier)?;
        let charge_pico = convert(sold, rate, WHOLE_BPS)?;
        let unpriced = bill.unpriced || !is_whole;
        let price_version = selling.version;
        Some(Bill { charge_pico, price_version, fx_rate_pico: rate, unpriced, ..bill })
    }

    /// The highest charge per unit that any candidate of the plan's route, or of its fallbacks, can
    /// cause.
    pub(super) fn ceiling(
        &self,
        route: usize,
        asked: &str,
        terms: &Terms,
        at_unix_ms: u64,
    ) -> Ceiling {
        self.picks(route)
            .filter_map(|pick| self.ceiling_of(pick, asked, terms, at_unix_ms))
            .fold(Ceiling::default(), Ceiling::max)
    }

    fn ceiling_of(&self, pick: Pick, asked: &str, terms: &Terms, at: u64) -> Option<Ceiling> {
        let upstream = self.entry(pick, asked, at)?;
        let (entry, bps) = match self.group_entry(pick, asked, terms, at) {
            Some(selling) => (selling, WHOLE_BPS),
            None => (upstream, terms.markup_bps),
        };
        let rate = self.rate(entry.currency, terms.currency, at)?;
        Some(entry.ceiling().converted(rate, bps))
    }
}
