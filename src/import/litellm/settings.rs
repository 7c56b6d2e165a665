//! The sections beside the models: routing, retries, timeouts, fallbacks, the master key.

use std::collections::{BTreeMap, BTreeSet};

use super::Work;
use super::limits;
use super::models::milliseconds;
use crate::import::decimal::Decimal;
use crate::import::names::is_alias;
use crate::import::plan::{Account, Limits, Model, Price, Target};
use crate::import::report::At;
use crate::import::yaml::Node;

/// What holds for all models, once they are all known.
#[derive(Default)]
pub(super) struct Defaults<'y> {
    policy: &'static str,
    /// Whether LiteLLM heeds weights: its other strategies do not.
    pub(super) is_shuffled: bool,
    total_ms: Option<u64>,
    first_content_ms: Option<u64>,
    /// For each model a list of others.
    fallbacks: Vec<(&'y str, &'y Node, At)>,
    /// For every model.
    default_fallbacks: Vec<(&'y Node, At)>,
    /// Other names of models.
    aliases: Vec<(&'y str, Option<&'y str>, At)>,
}

impl<'y> Defaults<'y> {
    pub(super) fn of(root: &'y Node) -> Defaults<'y> {
        let mut defaults =
            Defaults { policy: "weighted", is_shuffled: true, ..Defaults::default() };
        for section in ["litellm_settings", "router_settings"] {
            let Some(node) = root.get(section) else { continue };
            let at = At::new(section, node.line);
            for key in ["request_timeout", "timeout"] {
                let ms = node.text_of(key).and_then(milliseconds);
                defaults.total_ms = ms.or(defaults.total_ms);
            }
            let ms = node.text_of("stream_timeout").and_then(milliseconds);
            defaults.first_content_ms = ms.or(defaults.first_content_ms);
            if let Some(node) = node.get("fallbacks") {
                let at = at.part("fallbacks", node.line);
                let entries = node.items().iter().flat_map(Node::entries);
                let entry = |(name, list): &'y (String, Node)| {
                    (name.as_str(), list, at.part(name, list.line))
                };
                defaults.fallbacks.extend(entries.map(entry));
            }
            if let Some(node) = node.get("default_fallbacks") {
                defaults.default_fallbacks.push((node, at.part("default_fallbacks", node.line)));
            }
            for (name, node) in node.get("model_group_alias").map_or(&[][..], Node::entries) {
                let to = node.text().or_else(|| node.text_of("model"));
                let at = at.part("model_group_alias", node.line).part(name, node.line);
                defaults.aliases.push((name, to, at));
            }
            if let Some(strategy) = node.text_of("routing_strategy") {
                defaults.policy = policy(strategy).0;
                defaults.is_shuffled = !IGNORE_WEIGHTS.contains(&strategy);
            }
        }
        defaults
    }
}

/// Strategies that look at no weight. One that is not known may.
const IGNORE_WEIGHTS: [&str; 5] = [
    "least-busy",
    "latency-based-routing",
    "usage-based-routing",
    "usage-based-routing-v2",
    "cost-based-routing",
];

/// The policy that is nearest to a strategy, and what is different about it.
fn policy(strategy: &str) -> (&'static str, Option<&'static str>) {
    match strategy {
        "simple-shuffle" => ("weighted", None),
        "least-busy" => ("least_outstanding", None),
        "latency-based-routing" => (
            "least_outstanding",
            Some("the target with the fewest requests in flight, not the fastest"),
        ),
        "usage-based-routing" | "usage-based-routing-v2" => {
            ("least_outstanding", Some("the target with the fewest requests in flight, not tokens"))
        }
        "cost-based-routing" => ("weighted", Some("each as often as the other, not by cost")),
        _ => ("weighted", Some("by weight: the strategy is not known")),
    }
}

impl Work<'_> {
    pub(super) fn router(&mut self, at: &At, node: &Node) {
        for (name, node) in node.entries() {
            let at = at.part(name, node.line);
            match name.as_str() {
                "routing_strategy" => match policy(node.text().unwrap_or_default()) {
                    (policy, None) => self.report.taken(&at, format!("policy = {policy}")),
                    (policy, Some(why)) => {
                        self.report.changed(&at, format!("policy = {policy}: {why}"));
                    }
                },
                "allowed_fails" | "cooldown_time" | "disable_cooldowns" => {
                    self.report.none(&at, "failing targets rest by foretoken's own rules");
                }
                _ if self.common(&at, name, node) => {}
                _ => self.report.none(&at, "foretoken has nothing like it"),
            }
        }
    }

    pub(super) fn litellm(&mut self, at: &At, node: &Node) {
        let duration = node.text_of("budget_duration");
        for (name, value) in node.entries() {
            let at = at.part(name, value.line);
            match name.as_str() {
                "max_budget" => {
                    match value.text().and_then(Decimal::parse) {
                        Some(amount) => match limits::budget(amount, duration) {
                            Ok((budget, said)) => {
                                let own = Limits { budgets: vec![budget], ..Limits::default() };
                                let account = Account {
                                    name: "default".to_owned(),
                                    limits: own,
                                    ..Account::default()
                                };
                                self.plan.accounts.push(account);
                                let said = said.map_or(String::new(), |said| format!("; {said}"));
                                self.report.changed(
                                &at,
                                format!("a budget of the account default, which counts from zero{said}"),
                            );
                            }
                            Err(why) => self.report.none(&at, why),
                        },
                        None => self.report.none(&at, "it is no amount"),
                    }
                }
                "budget_duration" if node.get("max_budget").is_some() => {}
                _ if self.common(&at, name, value) => {}
                _ => self.report.none(&at, "foretoken has nothing like it"),
            }
        }
    }

    /// What stands in either of the two sections.
    fn common(&mut self, at: &At, name: &str, node: &Node) -> bool {
        match name {
            "num_retries" => {
                let retries = node.text().and_then(|text| text.parse::<u64>().ok());
                match retries {
                    Some(retries) => {
                        let attempts = retries.saturating_add(1).min(8);
                        self.plan.attempts = Some(attempts);
                        let said = format!(
                            "attempts = {attempts}, the first included, and within a budget for all requests"
                        );
                        self.report.changed(at, said);
                    }
                    None => self.report.none(at, "it is no number of retries"),
                }
            }
            "timeout" | "request_timeout" | "stream_timeout" => {
                match node.text().and_then(milliseconds) {
                    Some(_) => {
                        self.report.taken(at, "the timeout of providers without one of their own")
                    }
                    None => self.report.none(at, "it is no timeout"),
                }
            }
            // Told where they are applied.
            "fallbacks" | "default_fallbacks" | "model_group_alias" => {}
            "context_window_fallbacks" | "content_policy_fallbacks" => {
                self.report.none(at, "fallbacks follow failures, not refusals of a request");
            }
            _ => return false,
        }
        true
    }

    pub(super) fn general(&mut self, at: &At, node: &Node) {
        for (name, node) in node.entries() {
            let at = at.part(name, node.line);
            match (name.as_str(), node.text()) {
                ("master_key", Some(text)) => {
                    self.plan.admin_token = Some(self.secret(text));
                    self.report.changed(
                        &at,
                        "the admin token; it opens the admin API, and is no key for callers",
                    );
                }
                ("global_max_parallel_requests", Some(text)) => match text.parse::<u64>() {
                    Ok(requests) if requests > 0 => {
                        self.plan.requests = Some(requests.min(10_000_000));
                        self.report.taken(&at, "requests of [server.limits]");
                    }
                    _ => self.report.none(&at, "it is no number of requests"),
                },
                ("database_url", _) => self.report.none(
                    &at,
                    "foretoken keeps its own: give exports of the tables for keys, teams and users",
                ),
                _ => self.report.none(&at, "foretoken has nothing like it"),
            }
        }
    }

    /// Applies what holds for all models.
    pub(super) fn apply(&mut self, defaults: &Defaults<'_>) {
        for model in &mut self.plan.models {
            let is_ordered = model.targets.iter().any(|target| target.priority > 0);
            model.policy = if is_ordered { "priority" } else { defaults.policy };
            let tokens = self.ceilings.iter().filter(|(alias, _)| *alias == model.name);
            model.max_output = tokens.map(|(_, tokens)| *tokens).max();
        }
        for provider in &mut self.plan.providers {
            provider.total_ms = provider.total_ms.or(defaults.total_ms);
            provider.first_content_ms = provider.first_content_ms.or(defaults.first_content_ms);
        }
        for (name, to, at) in &defaults.aliases {
            self.alias(name, *to, at);
        }
        for (name, list, at) in &defaults.fallbacks {
            self.fallbacks(name, list, at);
        }
        for (name, to, _) in &defaults.aliases {
            self.inherit(name, to.unwrap_or_default());
        }
        let named: Vec<String> = self.plan.models.iter().map(|model| model.name.clone()).collect();
        for (list, at) in &defaults.default_fallbacks {
            for name in &named {
                let own = self.plan.model(name).is_some_and(|model| !model.fallbacks.is_empty());
                let is_last = list.texts().any(|other| other == name);
                if !own && !is_last {
                    self.fallbacks(name, list, at);
                }
            }
        }
    }

    fn alias(&mut self, name: &str, to: Option<&str>, at: &At) {
        let target = to.and_then(|to| self.plan.models.iter().find(|model| model.name == to));
        match target.cloned() {
            Some(_) if self.plan.models.iter().any(|model| model.name == name) => {
                self.report.none(at, "there is a model of this name already");
            }
            Some(target) if is_alias(name) => {
                self.report.taken(at, format!("a model with the targets of {}", target.name));
                self.plan.models.push(Model { name: name.to_owned(), ..target });
            }
            _ => self.report.none(at, "it names no model that was taken"),
        }
    }

    /// An alias without fallbacks of its own has those of the model that it stands for.
    fn inherit(&mut self, name: &str, from: &str) {
        let of = |name: &str| self.plan.models.iter().find(|model| model.name == name);
        let (Some(own), Some(from)) = (of(name), of(from)) else { return };
        if !own.fallbacks.is_empty() {
            return;
        }
        let all = from.fallbacks.clone();
        let kept: Vec<String> = all.into_iter().filter(|to| !self.reaches(to, name)).collect();
        if let Some(model) = self.plan.model(name) {
            model.fallbacks = kept;
        }
    }

    /// Tells of the targets without a price: LiteLLM has a list of its own, and budgets count nothing
    /// without one.
    pub(super) fn unpriced(&mut self) {
        let plan = &self.plan;
        let is_priced = |target: &Target| {
            let same =
                |price: &Price| price.provider == target.provider && price.model == target.model;
            plan.prices.iter().any(same)
        };
        let targets = plan.models.iter().flat_map(|model| &model.targets);
        let unpriced = targets.filter(|target| !is_priced(target));
        // One that serves two aliases is one.
        let unpriced: BTreeSet<_> = unpriced.map(|it| (it.provider, &it.model)).collect();
        let count = unpriced.len();
        if count == 0 {
            return;
        }
        let said = format!(
            "{count} targets have no price here, and count nothing towards budgets: LiteLLM takes prices from its model_prices_and_context_window.json. Import that file with [prices]: the lines are in the result as a comment"
        );
        self.plan.price_map = true;
        self.report.changed(&At::new("model_list", 0), said);
    }

    fn fallbacks(&mut self, name: &str, list: &Node, at: &At) {
        // "*" in a list of fallbacks means every model.
        if name == "*" && self.plan.model("*").is_none() {
            return self.report.none(at, "give every model fallbacks of its own");
        }
        if self.plan.model(name).is_none() {
            return self.report.none(at, format!("{name} is no model that was taken"));
        }
        let mut kept = Vec::new();
        for other in list.texts() {
            let why = if self.plan.model(other).is_none() {
                "is no model that was taken"
            } else if self.reaches(other, name) {
                "falls back to it in turn: a circle"
            } else {
                if let Some(model) = self.plan.model(name)
                    && !model.fallbacks.iter().any(|known| known == other)
                {
                    model.fallbacks.push(other.to_owned());
                }
                kept.push(other);
                continue;
            };
            self.report.none(at, format!("the fallback from {name} to {other}, which {why}"));
        }
        if !kept.is_empty() {
            self.report.taken(at, format!("{name} falls back to {}", kept.join(", ")));
        }
    }

    /// Does a model fall back to another, in however many steps? A model reaches itself.
    fn reaches(&self, from: &str, to: &str) -> bool {
        let edges: BTreeMap<&str, &[String]> = self
            .plan
            .models
            .iter()
            .map(|model| (model.name.as_str(), model.fallbacks.as_slice()))
            .collect();
        let (mut open, mut seen) = (vec![from], vec![from]);
        while let Some(at) = open.pop() {
            if at == to {
                return true;
            }
            for next in edges.get(at).copied().unwrap_or_default() {
                if !seen.contains(&next.as_str()) {
                    seen.push(next);
                    open.push(next);
                }
            }
        }
        false
    }
}
