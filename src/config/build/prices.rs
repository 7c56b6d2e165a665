//! Prices from the file itself, from further files and from LiteLLM's map; groups and rates; and
//! whether what is charged can be computed from them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json};

use super::super::choices::Unpriced;
use super::super::fault::{Sink, quote};
use super::super::keys::UNITS;
use super::super::load::Unrated;
use super::super::settings::{Account, Config, Model, PriceGroup, Provider, Target, TargetModel};
use super::super::values::{Item, Node, Span, Value};
use crate::clock;
use crate::money::Currency;
use crate::price::{self, Entry, FieldFault, RateRow};

/// A further file of prices, read like the first.
pub(in crate::config) struct Included<'t> {
    pub sink: Sink<'t>,
    /// Its tables `[[price]]`.
    pub nodes: Vec<Node>,
}

/// All prices for the providers of the file: its own go before those of further files, and those before
/// the imported ones.
pub(super) fn entries(
    root: &Node,
    included: &mut [Included<'_>],
    (providers, models): (&[Provider], &[Model]),
    sink: &mut Sink<'_>,
) -> Vec<Entry> {
    let prices = root.node("prices");
    let mut entries = imported(prices, providers, models, sink);
    unused(prices.item("import"), "import", !entries.is_empty(), sink);
    for (file, item) in included.iter_mut().zip(documents(prices)) {
        let mut listed = Vec::new();
        for entry in of_file(&file.nodes, &mut file.sink) {
            spread(entry, providers, &mut listed);
        }
        unused(item, "include", !listed.is_empty(), sink);
        replace(&mut entries, listed);
    }
    replace(&mut entries, of_file(root.nodes("price"), sink));
    entries
}

/// Puts `newer` over what is there: of each model that it has, nothing stays from its earliest time
/// on. Else the next change of a list would take the place of the operator's own price.
fn replace(entries: &mut Vec<Entry>, newer: Vec<Entry>) {
    type Model = (String, String, Option<String>);
    let model = |entry: &Entry| -> Model {
        (entry.provider.clone(), entry.model.clone(), entry.group.clone())
    };
    let mut since: BTreeMap<Model, u64> = BTreeMap::new();
    for entry in &newer {
        let earliest = since.entry(model(entry)).or_insert(u64::MAX);
        *earliest = entry.valid_from_unix_ms.min(*earliest);
    }
    entries.retain(|entry| {
        since.get(&model(entry)).is_none_or(|since| entry.valid_from_unix_ms < *since)
    });
    entries.extend(newer);
}

/// The further files of prices that could be read.
pub(in crate::config) fn documents(prices: &Node) -> impl Iterator<Item = &Item> {
    prices.list("include").iter().filter(|item| matches!(item.value, Value::Document(_)))
}

/// A list of which nothing is used is most likely the wrong one.
fn unused(item: &Item, key: &str, is_used: bool, sink: &mut Sink<'_>) {
    let Value::Document(file) = &item.value else { return };
    if !is_used {
        let path = quote(&file.path.to_string_lossy());
        let message = format!(
            "\"{key}\" in [prices] names {path}, which has no price for a [[provider]] here"
        );
        sink.warn(&item.span, message, "its providers are names or presets of [[provider]]");
    }
}

fn imported(
    prices: &Node,
    providers: &[Provider],
    models: &[Model],
    sink: &mut Sink<'_>,
) -> Vec<Entry> {
    let mut entries = Vec::new();
    let Value::Document(map) = &prices.item("import").value else { return entries };
    // In force from the beginning: a time of ours would make each load another configuration.
    match price::litellm::import(&map.text, 0) {
        Ok((all, notes)) => {
            all.into_iter().for_each(|entry| spread(entry, providers, &mut entries));
            for note in notes.iter().filter(|note| concerns(note, providers, models)) {
                let message = format!("\"import\" in [prices]: {note}");
                sink.warn(
                    prices.span("import"),
                    message,
                    "a [[price]] of this file goes before it",
                );
            }
        }
        Err(error) => {
            let path = quote(&map.path.to_string_lossy());
            let message = format!("\"import\" in [prices]: {path} {error}");
            let cure = "name LiteLLM's model_prices_and_context_window.json";
            sink.fault(prices.span("import"), message, cure);
        }
    }
    entries
}

/// Is the note of an import, which begins with the model's name there, about a target of ours? The
/// map has thousands of others.
fn concerns(note: &str, providers: &[Provider], models: &[Model]) -> bool {
    let (noted, _) = note.split_once(": ").unwrap_or((note, ""));
    let vendor = |target: &Target| {
        let provider = providers.iter().find(|provider| provider.name == target.provider);
        provider.and_then(|provider| provider.preset).unwrap_or(&target.provider).to_owned()
    };
    models.iter().flat_map(|model| &model.targets).any(|target| match &target.model {
        TargetModel::AsAsked => false,
        TargetModel::Named(name) => noted == name || noted == format!("{}/{name}", vendor(target)),
    })
}

/// An entry of a list that was made for everybody: there a vendor is meant, which may be a preset of
/// several providers here, or of none.
fn spread(entry: Entry, providers: &[Provider], entries: &mut Vec<Entry>) {
    for provider in providers {
        if provider.name == entry.provider {
            entries.push(entry.clone());
        } else if provider.preset == Some(entry.provider.as_str()) {
            let mut json = entry.to_json();
            json["provider"] = provider.name.as_str().into();
            entries.extend(Entry::from_json(&json).ok());
        }
    }
}

/// The entries of one file. Two for the same are a slip there.
fn of_file(nodes: &[Node], sink: &mut Sink<'_>) -> Vec<Entry> {
    let mut entries = Vec::with_capacity(nodes.len());
    let mut seen = BTreeSet::new();
    for node in nodes {
        let Some(entry) = entry(node, sink) else { continue };
        let own = (
            entry.provider.clone(),
            entry.model.clone(),
            entry.group.clone(),
            entry.valid_from_unix_ms,
        );
        if !seen.insert(own) {
            let message = format!("[[price]] has {} twice", label(&entry));
            sink.fault(&node.span, message, "remove one, or give the newer a valid_from");
        }
        entries.push(entry);
    }
    entries
}

/// A price as messages name it.
fn label(entry: &Entry) -> String {
    let group = entry.group.as_ref().map(|group| format!(" for the group {}", quote(group)));
    let model = quote(&format!("{}/{}", entry.provider, entry.model));
    format!("{model}{}", group.unwrap_or_default())
}

fn entry(node: &Node, sink: &mut Sink<'_>) -> Option<Entry> {
    if !node.is_sound() {
        return None;
    }
    let mut json = priced(node);
    for key in ["provider", "model", "group", "currency"] {
        if let Some(text) = node.text_if(key) {
            json.insert(key.to_owned(), text.into());
        }
    }
    if let Some(unix_ms) = node.time_if("valid_from") {
        let text = clock::rfc3339(unix_ms);
        json.insert("valid_from".to_owned(), String::from_utf8_lossy(&text).into());
    }
    let tiers: Map<String, Json> = node
        .named("tiers")
        .iter()
        .map(|(tier, node)| (tier.clone(), priced(node).into()))
        .collect();
    if !tiers.is_empty() {
        json.insert("tiers".to_owned(), tiers.into());
    }
    made(node, json, sink)
}

/// The default of `[prices]`.
pub(super) fn default(prices: &Node, sink: &mut Sink<'_>) -> Option<Entry> {
    let node = prices.node_if("default").filter(|node| node.is_sound())?;
    let mut json = units(node);
    json.insert("currency".to_owned(), node.text("currency").into());
    json.insert("provider".to_owned(), "*".into());
    json.insert("model".to_owned(), "*".into());
    made(node, json, sink)
}

fn made(node: &Node, json: Map<String, Json>, sink: &mut Sink<'_>) -> Option<Entry> {
    match Entry::from_json(&json.into()) {
        Ok(entry) => Some(entry),
        Err(faults) => {
            for FieldFault { field, message } in faults {
                let first = field.split(['.', '[']).next().unwrap_or("");
                let known = node.items.get(first).filter(|item| item.given);
                let span = known.map_or(&node.span, |item| &item.span);
                let (message, cure) = message.split_once("; ").unwrap_or((&message, ""));
                sink.fault(span, format!("{} in {} {message}", quote(&field), node.label), cure);
            }
            None
        }
    }
}

/// What a price and a tier of it have in common: unit prices, and steps of a long context.
fn priced(node: &Node) -> Map<String, Json> {
    let step = |node: &Node| {
        let mut step = units(node);
        step.insert("above".to_owned(), node.integer::<u64>("above").into());
        Json::from(step)
    };
    let mut json = units(node);
    let steps: Vec<Json> = node.nodes("long_context").iter().map(step).collect();
    if !steps.is_empty() {
        json.insert("long_context".to_owned(), steps.into());
    }
    json
}

/// The unit prices of a table, as the price room reads them.
fn units(node: &Node) -> Map<String, Json> {
    let price = |unit: &str| node.text_if(unit).map(|text| (unit.to_owned(), text.into()));
    UNITS.iter().filter_map(|unit| price(unit.name)).collect()
}

pub(super) fn groups(root: &Node) -> Vec<PriceGroup> {
    let group =
        |node: &Node| PriceGroup { name: node.text("name"), markup_bps: node.integer("markup") };
    root.nodes("price_group").iter().map(group).collect()
}

pub(super) fn rates(root: &Node, sink: &mut Sink<'_>) -> Vec<RateRow> {
    let mut rates: Vec<RateRow> = Vec::new();
    for node in root.nodes("rate").iter().filter(|node| node.is_sound()) {
        let row = RateRow {
            from: node.currency("from"),
            to: node.currency("to"),
            rate_pico: node.amount_if("rate").unwrap_or(0),
            valid_from_unix_ms: node.time_if("valid_from").unwrap_or(0),
        };
        if row.from == row.to {
            let message = format!("[[rate]] is from {} to itself", row.from);
            sink.fault(node.span("to"), message, "name two currencies, or remove it");
        } else if rates.iter().any(|other| is_same_rate(other, &row)) {
            let message = format!("[[rate]] has {} and {} twice", row.from, row.to);
            sink.fault(&node.span, message, "remove one, or give the newer a valid_from");
        }
        if row.rate_pico == 0 {
            let message = "\"rate\" in [[rate]] is zero: everything would be free";
            sink.fault(node.span("rate"), message, "write for example \"1.08\"");
        }
        rates.push(row);
    }
    rates
}

/// A rate serves both ways: the other way round would contradict it.
fn is_same_rate(one: &RateRow, other: &RateRow) -> bool {
    is_between(one, other.from, other.to) && one.valid_from_unix_ms == other.valid_from_unix_ms
}

pub(in crate::config) fn is_between(row: &RateRow, one: Currency, other: Currency) -> bool {
    (row.from, row.to) == (one, other) || (row.from, row.to) == (other, one)
}

/// What costs dollars cannot be charged in euros without a rate. One that the admin API made may be in
/// the store, which is not known here.
pub(in crate::config) fn currencies(
    config: &Config,
    root: &Node,
    sink: &mut Sink<'_>,
) -> Vec<Unrated> {
    let mut unrated = Vec::new();
    if root.nodes("rate").iter().any(|node| !node.is_sound()) || root.item("rate").broken {
        return unrated;
    }
    for account in &config.accounts {
        let node = root.nodes("account").iter().find(|it| it.text("name") == account.name);
        // Nobody pays by the account that exists without being written down.
        let is_used = || config.keys.iter().any(|key| key.account == account.name);
        if node.map_or_else(|| !is_used(), |node| !node.is_sound()) {
            continue;
        }
        for currency in currencies_for(config, account) {
            let rated = config.rates.iter().any(|row| is_between(row, currency, account.currency));
            if currency == account.currency || rated {
                continue;
            }
            let message = format!(
                "[[account]] {} is charged in {}, and there are prices in {currency}, but no [[rate]] \
                 between the two",
                quote(&account.name),
                account.currency,
            );
            let cure = format!(
                "add a [[rate]] with from = \"{currency}\" and to = \"{}\", or change the currency",
                account.currency
            );
            let span = node.map(|node| node.span("currency").clone());
            let span = span.unwrap_or_else(|| price_in(root, currency));
            let unless = format!("{message}, unless one was made by `foretoken rates create`");
            unrated.push(Unrated {
                charged: account.currency,
                priced: currency,
                fault: sink.locate(span.start, message, cure.clone()),
                warning: sink.locate(span.start, unless.clone(), cure.clone()),
            });
            sink.warn(&span, unless, cure);
        }
    }
    unrated
}

/// The currencies of all that an account may be charged.
fn currencies_for(config: &Config, account: &Account) -> BTreeSet<Currency> {
    let concerns = |entry: &&Entry| entry.group.is_none() || entry.group == account.price_group;
    let prices = config.prices.iter().filter(concerns).chain(&config.default_price);
    prices.map(|entry| entry.currency).collect()
}

/// Where the file speaks of a price in this currency.
fn price_in(root: &Node, currency: Currency) -> Span {
    let node = root.nodes("price").iter().find(|node| node.currency("currency") == currency);
    node.map_or_else(|| root.span("prices").clone(), |node| node.span("currency").clone())
}

/// What a model's policy for want of a price needs, and what it will refuse.
pub(super) fn unpriced(config: &Config, root: &Node, sink: &mut Sink<'_>) {
    let known: BTreeMap<&str, Vec<&str>> = config
        .prices
        .iter()
        .filter(|entry| entry.group.is_none())
        .fold(BTreeMap::new(), |mut known, entry| {
            known.entry(&entry.provider).or_insert_with(Vec::new).push(&entry.model);
            known
        });
    let has_default = root.node("prices").item("default").given;
    for (model, node) in config.models.iter().zip(root.nodes("model")) {
        if model.unpriced == Unpriced::Default && !has_default && node.is_given("unpriced") {
            let message = "\"unpriced\" in [[model]] is \"default\", and [prices] has no default";
            let cure = "add for example default = { input = \"5\", output = \"15\" } to [prices]";
            sink.fault(node.span("unpriced"), message, cure);
        }
        if model.unpriced != Unpriced::Refuse {
            continue;
        }
        for target in &model.targets {
            let models = known.get(target.provider.as_str()).map_or(&[][..], Vec::as_slice);
            if !is_priced(target, models) {
                let message = format!(
                    "[[model]] {} refuses what has no price, and its target {} has none",
                    quote(&model.name),
                    quote(&name_of(target))
                );
                sink.warn(node.span("unpriced"), message, "add a [[price]], or change unpriced");
            }
        }
    }
}

/// A budget that nothing is booked on never ends.
pub(super) fn free_budgets(config: &Config, root: &Node, sink: &mut Sink<'_>) {
    let prices = root.node("prices");
    let is_priced = !config.prices.is_empty()
        || ["import", "include", "default"].iter().any(|key| prices.item(key).given)
        || root.item("price").given;
    if is_priced {
        return;
    }
    for node in ["account", "project", "user", "key"].iter().flat_map(|table| root.nodes(table)) {
        let limits = node.node_if("limits").filter(|limits| !limits.nodes("budget").is_empty());
        if let Some(limits) = limits {
            let message = format!(
                "{} {} has a budget, and there are no prices: nothing costs anything",
                node.label,
                quote(&node.text("name"))
            );
            sink.warn(limits.span("budget"), message, "add a [[price]], or prices by [prices]");
        }
    }
}

fn name_of(target: &Target) -> String {
    match &target.model {
        TargetModel::AsAsked => format!("{}/*", target.provider),
        TargetModel::Named(name) => format!("{}/{name}", target.provider),
    }
}

/// Has the target a price, or may it have one?
fn is_priced(target: &Target, models: &[&str]) -> bool {
    match &target.model {
        TargetModel::AsAsked => !models.is_empty(),
        TargetModel::Named(name) => models.iter().any(|model| match model.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == model,
        }),
    }
}
