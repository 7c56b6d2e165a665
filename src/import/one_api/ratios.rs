//! Ratios as prices. A ratio of 1 is 0.002 US dollars for a thousand tokens of the prompt; the answer
//! costs that times the completion ratio, and what a caller pays is that times the ratio of its group.

use std::collections::BTreeMap;

use super::{QUOTA_PER_USD, Work, object};
use crate::import::decimal::Decimal;
use crate::import::names::is_name;
use crate::import::plan::{Price, PriceGroup};
use crate::import::report::At;
use crate::import::tables::Table;

use super::vendors::Flavour;

/// Numbers by the name of a model, or of a group.
type Ratios = BTreeMap<String, Decimal>;

/// What the options say of prices.
#[derive(Default)]
struct Book {
    model: Ratios,
    completion: Ratios,
    cache: Ratios,
    create_cache: Ratios,
    /// US dollars for a request.
    request: Ratios,
    /// The line of the ratios of models, for what is missing there.
    line: usize,
}

impl Work<'_> {
    pub(super) fn prices(&mut self, options: &Table) {
        let mut book = Book::default();
        for row in options.rows() {
            let Some(key) = row.get("key") else { continue };
            let at = At::new(format!("options.{key}"), row.line);
            let value = row.get("value").unwrap_or_default();
            match key {
                "ModelRatio" => {
                    book.line = row.line;
                    book.model = self.ratios(&at, value);
                }
                "CompletionRatio" => book.completion = self.ratios(&at, value),
                "CacheRatio" => book.cache = self.ratios(&at, value),
                "CreateCacheRatio" => book.create_cache = self.ratios(&at, value),
                "ModelPrice" => book.request = self.ratios(&at, value),
                "GroupRatio" => {
                    let groups = self.ratios(&at, value);
                    self.groups_of(&at, groups);
                }
                "QuotaPerUnit" => self.quota_per_unit(&at, value),
                // Never its value: there are passwords among them.
                _ => self.report.none(&at, "foretoken has nothing like it"),
            }
        }
        let targets: Vec<(String, usize, String)> = self
            .plan
            .models
            .iter()
            .flat_map(|model| {
                model.targets.iter().map(|it| (model.name.clone(), it.provider, it.model.clone()))
            })
            .collect();
        for (alias, provider, model) in targets {
            self.price(&book, &alias, provider, model);
        }
    }

    fn ratios(&mut self, at: &At, text: &str) -> Ratios {
        let Some(object) = object(text) else {
            self.report.none(at, "it is no JSON object");
            return Ratios::new();
        };
        let mut ratios = Ratios::new();
        for (name, text) in object {
            match Decimal::parse(&text) {
                Some(ratio) => drop(ratios.insert(name, ratio)),
                None => self.report.none(&at.part(&name, at.line), "it is no ratio"),
            }
        }
        let count = ratios.len();
        self.report.taken(at, format!("{count} numbers, where a model or a group here needs them"));
        ratios
    }

    fn groups_of(&mut self, at: &At, groups: Ratios) {
        for (name, ratio) in groups {
            let at = at.part(&name, at.line);
            let (markup, is_exact) = ratio.text(4, false);
            if !is_name(&name) || Decimal::whole(100_000).minus(ratio).is_none() {
                self.report.none(&at, "it cannot be a price group");
                continue;
            }
            match is_exact {
                true => self.report.taken(&at, format!("a price group, markup = {markup}")),
                false => {
                    self.report.changed(&at, format!("a price group, markup = {markup}, rounded"))
                }
            }
            self.plan.price_groups.push(PriceGroup { name, markup });
        }
    }

    fn quota_per_unit(&mut self, at: &At, text: &str) {
        match Decimal::parse(text).and_then(Decimal::to_whole).filter(|number| *number > 0) {
            Some(number) => {
                self.quota_per_usd = number;
                self.report.taken(at, format!("{number} of quota are a dollar"));
            }
            None => {
                let said = format!("it is no number: {QUOTA_PER_USD} of quota are a dollar");
                self.report.none(at, said);
            }
        }
    }

    fn price(&mut self, book: &Book, alias: &str, provider: usize, model: String) {
        let known = |price: &&Price| price.provider == provider && price.model == model;
        let is_known = self.plan.prices.iter().any(|price| known(&price));
        let at = At::new("options.ModelRatio", book.line);
        // One-API looks for the name at the server, new-api for the name that was asked.
        let asked = if self.flavour == Flavour::OneApi { model.as_str() } else { alias };
        let by_type = format!("{asked}({})", self.kinds[provider]);
        let of = |ratios: &Ratios| ratios.get(&by_type).or_else(|| ratios.get(asked)).copied();
        let name = format!("{}/{model}", self.plan.providers[provider].name);
        if let Some(amount) = of(&book.request) {
            let (text, _) = amount.text(12, false);
            let zero = || "0".to_owned();
            let amounts = vec![("input", zero()), ("output", zero()), ("request", text)];
            if !is_known {
                self.plan.prices.push(Price { provider, model, amounts, missing: None });
            }
            return;
        }
        let per_million = |ratio: Decimal| ratio.shifted(6)?.divided(self.quota_per_usd);
        let input = of(&book.model).and_then(|ratio| Some((ratio, per_million(ratio)?)));
        let Some((ratio, input)) = input else {
            let said = format!(
                "{name} has no ratio in the database: what the program has built in is not known here. Add a [[price]], or its requests are free and flagged"
            );
            return self.report.none(&at, said);
        };
        if is_known {
            return;
        }
        let mut amounts = Vec::new();
        let mut add = |name, amount: Option<Decimal>| {
            let (text, is_exact) = amount?.text(6, false);
            amounts.push((name, text));
            Some(is_exact)
        };
        let times = |factor: Option<Decimal>| per_million(ratio.times(factor?)?);
        let mut is_exact = add("input", Some(input)).unwrap_or(true);
        is_exact &= add("cached_read", times(of(&book.cache))).unwrap_or(true);
        is_exact &= add("cache_write", times(of(&book.create_cache))).unwrap_or(true);
        let output = if ratio.is_zero() { Some(ratio) } else { times(of(&book.completion)) };
        let output = add("output", output);
        is_exact &= output.unwrap_or(true);
        if output.is_none() {
            let said = format!(
                "{name} has no ratio in CompletionRatio: its [[price]] is written as a comment, to be completed; until then its requests are free and flagged"
            );
            self.report.changed(&at, said);
        } else if !is_exact {
            self.report.changed(&at, format!("the price of {name} is rounded to 6 digits"));
        }
        let missing = output.is_none().then_some("output");
        self.plan.prices.push(Price { provider, model, amounts, missing });
    }
}
