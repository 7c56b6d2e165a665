//! `model_list`: each deployment becomes a target of the alias that it serves, with a provider for
//! its address and key, and a price if it states its costs.

use super::Work;
use super::vendors::{self, Vendor, Way};
use crate::import::address::{azure, clean, host};
use crate::import::decimal::Decimal;
use crate::import::names::{is_alias, is_name, is_variable};
use crate::import::plan::{Model, Price, Provider, Secret, Target};
use crate::import::report::At;
use crate::import::yaml::Node;

/// What stands for a key where none is needed.
const NO_KEYS: [&str; 8] =
    ["none", "empty", "fake", "fake-key", "dummy", "not-needed", "no-key", "anything"];

/// LiteLLM's costs (of one token, or of one request), and how they are called here.
const COSTS: [(&str, &str, i32); 8] = [
    ("input_cost_per_token", "input", 6),
    ("output_cost_per_token", "output", 6),
    ("cache_read_input_token_cost", "cached_read", 6),
    ("cache_creation_input_token_cost", "cache_write", 6),
    ("output_cost_per_reasoning_token", "reasoning", 6),
    ("input_cost_per_audio_token", "audio_in", 6),
    ("output_cost_per_audio_token", "audio_out", 6),
    ("input_cost_per_request", "request", 0),
];

/// A deployment's share, in the ways that LiteLLM can be told it.
#[derive(Clone, Copy, Default)]
struct Share {
    weight: Option<Decimal>,
    rpm: Option<Decimal>,
    tpm: Option<Decimal>,
}

/// One that can be reached.
struct Deployment {
    alias: String,
    /// Where it stands, for what becomes of its share.
    at: At,
    target: Target,
    share: Share,
}

/// Where a deployment is.
struct Address {
    preset: Option<&'static str>,
    base_url: Option<String>,
    /// What is not as it was.
    changed: Option<String>,
}

impl Work<'_> {
    /// Takes the whole list.
    pub(super) fn models(&mut self, list: &Node) {
        if list.items().is_empty() {
            self.report.none(&At::new("model_list", list.line), "it is no list of models");
        }
        let mut all: Vec<Deployment> = Vec::new();
        for (at, item) in list.items().iter().enumerate() {
            let place = At::new(format!("model_list[{at}]"), item.line);
            match self.deployment(&place, item) {
                Ok(deployment) => all.push(deployment),
                Err(why) => self.report.none(&place, format!("not taken: {why}")),
            }
        }
        let mut shares: Vec<Vec<(At, Share)>> = Vec::new();
        for Deployment { alias, at: place, target, share } in all {
            let at = self.plan.models.iter().position(|model| model.name == alias);
            let at = at.unwrap_or_else(|| {
                self.plan.models.push(Model { name: alias, ..Model::default() });
                shares.push(Vec::new());
                shares.len() - 1
            });
            self.plan.models[at].targets.push(target);
            shares[at].push((place, share));
        }
        let mut models = std::mem::take(&mut self.plan.models);
        for (model, shares) in models.iter_mut().zip(&shares) {
            if self.is_shuffled {
                self.share_out(model, shares);
            }
            merge(&mut model.targets);
        }
        self.plan.models = models;
    }

    /// The weights of an alias's targets. LiteLLM draws among those of the same order only.
    fn share_out(&mut self, model: &mut Model, shares: &[(At, Share)]) {
        let mut orders: Vec<u64> = model.targets.iter().map(|target| target.priority).collect();
        orders.sort_unstable();
        orders.dedup();
        for order in orders {
            let group: Vec<usize> =
                (0..shares.len()).filter(|&at| model.targets[at].priority == order).collect();
            let own: Vec<Share> = group.iter().map(|&at| shares[at].1).collect();
            let first = &shares[group[0]].0.place;
            let is_weighted = own[0].weight.is_some();
            for (&at, weight) in group.iter().zip(weights(&own)) {
                model.targets[at].weight = weight;
                let (place, share) = &shares[at];
                if weight == 0 {
                    let said = "its weight is 0, so it gets no traffic while another one can be asked: \
                        LiteLLM draws by what the first deployment states";
                    self.report.changed(place, format!("{said} ({first})"));
                } else if share.weight.is_some() && !is_weighted {
                    let said = "its weight counts for nothing, as in LiteLLM: the first deployment has none";
                    self.report.changed(place, format!("{said} ({first})"));
                }
            }
        }
    }

    fn deployment(&mut self, at: &At, item: &Node) -> Result<Deployment, String> {
        let alias = item.text_of("model_name").ok_or("it has no model_name")?;
        let params = item.get("litellm_params").ok_or("it has no litellm_params")?;
        let model = params.get("model").ok_or("its litellm_params have no model")?;
        let model = self.resolved(model)?;
        let base = params.get("api_base").or_else(|| params.get("base_url"));
        let base = base.map(|node| self.resolved(node)).transpose()?;
        let provider = params.text_of("custom_llm_provider");
        let (vendor, upstream) = vendors::find(&model, provider, base.is_some())?;
        let address = self.address(&vendor, base)?;
        let upstream = target_model(alias, upstream)?;
        let (api_key, key_note) = self.api_key(&vendor, params);
        let made = Provider {
            name: String::new(),
            preset: address.preset,
            base_url: address.base_url,
            api_keys: api_key.into_iter().collect(),
            headers: self.headers(params),
            first_content_ms: params.text_of("stream_timeout").and_then(milliseconds),
            total_ms: params.text_of("timeout").and_then(milliseconds),
        };
        let provider = self.plan.provider(&mut self.providers, vendor.prefix, made);
        let name = self.plan.providers[provider].name.clone();
        let mut said = format!("{alias} -> {name}/{upstream}");
        if let Some(note) = key_note {
            said.push_str(&format!("; {note}"));
        }
        match address.changed {
            None => self.report.taken(at, said),
            Some(why) => self.report.changed(at, format!("{said}; {why}")),
        }
        self.params(&at.part("litellm_params", params.line), params);
        let order = params.text_of("order").and_then(|text| text.parse::<u64>().ok());
        self.prices(at, item, params, provider, upstream);
        self.model_info(at, item, alias);
        let number = |key: &str| params.text_of(key).and_then(Decimal::parse);
        Ok(Deployment {
            alias: alias.to_owned(),
            at: at.clone(),
            target: Target {
                provider,
                model: upstream.to_owned(),
                weight: 1,
                priority: order.unwrap_or(0).min(1000),
            },
            share: Share { weight: number("weight"), rpm: number("rpm"), tpm: number("tpm") },
        })
    }

    /// A text, or that of the variable that it names.
    fn resolved(&self, node: &Node) -> Result<String, String> {
        let text = node.text().ok_or("a text is expected where it has something else")?;
        let Some(name) = text.strip_prefix("os.environ/") else { return Ok(text.to_owned()) };
        self.variable(name).ok_or_else(|| {
            format!(
                "it takes a value from the environment variable {name}, which is not set here: set it, and import again"
            )
        })
    }

    fn address(&self, vendor: &Vendor, base: Option<String>) -> Result<Address, String> {
        let base = base.map(|base| clean(&base)).transpose()?;
        let (base, is_cut) = base.unzip();
        let cut = is_cut
            .unwrap_or(false)
            .then(|| "the path of the endpoint is cut off its address".to_owned());
        let own = |changed| Address { preset: None, base_url: base.clone(), changed };
        let prefix = vendor.prefix;
        Ok(match vendor.way {
            Way::Preset(preset) => Address { preset: Some(preset), base_url: base, changed: cut },
            Way::Base(url) => match base {
                Some(_) => own(cut),
                None => Address { base_url: Some(url.to_owned()), ..own(None) },
            },
            Way::Compatible(url) => {
                let foreign = base.as_ref().filter(|base| host(base) != host(url));
                let said = match foreign {
                    None => format!("{prefix} is asked in OpenAI's dialect, at {url}"),
                    Some(base) => format!(
                        "{base} must speak OpenAI's dialect: {prefix}'s own is not available"
                    ),
                };
                let base_url = foreign.cloned().or(Some(url.to_owned()));
                Address { base_url, ..own(Some(said)) }
            }
            Way::Local(preset) => {
                let base_url = base.map(|base| match base.strip_suffix("/v1") {
                    Some(_) => base,
                    None => format!("{}/v1", base.trim_end_matches("/api")),
                });
                let changed = Some(format!("{prefix} is asked in OpenAI's dialect"));
                Address { preset: Some(preset), base_url, changed }
            }
            Way::Azure => {
                let base = match base {
                    Some(base) => base,
                    None => self.variable("AZURE_API_BASE").ok_or("it has no api_base")?,
                };
                let base_url = format!("{}/openai/v1", azure(&clean(&base)?.0));
                let changed =
                    Some(format!("asked at {base_url}, where the deployment is the model"));
                Address { preset: None, base_url: Some(base_url), changed }
            }
            Way::Own if base.is_some() => own(cut),
            Way::Own => return Err(format!("{prefix} needs an api_base")),
            Way::Foreign => {
                return Err(format!("{prefix} has a dialect of its own, which is not available"));
            }
        })
    }

    /// The key, and what is to be said of it.
    fn api_key(&self, vendor: &Vendor, params: &Node) -> (Option<Secret>, Option<String>) {
        let default = |name: &str| {
            let note = format!("its key is in {name}, where LiteLLM looks for it");
            (Some(Secret::Variable(name.to_owned())), Some(note))
        };
        let Some(text) = params.text_of("api_key") else {
            return vendor.key.map_or((None, None), default);
        };
        let is_idle = vendor.key.is_none() && NO_KEYS.contains(&text.to_ascii_lowercase().as_str());
        if is_idle {
            return (None, Some("no key is sent".to_owned()));
        }
        (Some(self.secret(text)), None)
    }

    /// A secret as LiteLLM writes it.
    pub(super) fn secret(&self, text: &str) -> Secret {
        let Some(name) = text.strip_prefix("os.environ/").filter(|name| is_variable(name)) else {
            return Secret::Literal(text.to_owned());
        };
        let own = self.environment.iter().find(|(other, _)| other == name);
        match own.filter(|_| self.options.with_secrets) {
            Some((_, value)) => Secret::Literal(value.clone()),
            None => Secret::Variable(name.to_owned()),
        }
    }

    fn headers(&self, params: &Node) -> Vec<(String, Secret)> {
        let mut headers: Vec<(String, Secret)> = Vec::new();
        let organization = params.text_of("organization");
        headers
            .extend(organization.map(|text| ("openai-organization".to_owned(), self.secret(text))));
        for (name, value) in params.get("extra_headers").map_or(&[][..], Node::entries) {
            let name = name.to_ascii_lowercase();
            if is_header(&name) && headers.iter().all(|(other, _)| *other != name) {
                headers.extend(value.text().map(|text| (name, self.secret(text))));
            }
        }
        headers
    }

    /// Everything else that a deployment says.
    fn params(&mut self, at: &At, params: &Node) {
        for (name, node) in params.entries() {
            let at = at.part(name, node.line);
            let is_number = node.text().and_then(Decimal::parse).is_some();
            match name.as_str() {
                "model" | "api_key" | "api_base" | "base_url" | "custom_llm_provider" => {}
                "order" if is_number => self.report.taken(&at, "the priority of the target"),
                "weight" | "rpm" | "tpm" if is_number && !self.is_shuffled => self.report.none(
                    &at,
                    "left out: LiteLLM's routing_strategy does not draw by it; a target has no limit of its own",
                ),
                "weight" if is_number => self.report.taken(&at, "the weight of the target"),
                "rpm" | "tpm" if is_number => self.report.changed(
                    &at,
                    "the share of the target if it has no weight; a target has no limit of its own",
                ),
                "timeout" | "stream_timeout" if node.text().and_then(milliseconds).is_some() => {
                    self.report.taken(&at, "among the timeouts of the provider");
                }
                "organization" => self.report.taken(&at, "the header openai-organization"),
                "extra_headers" => {
                    let odd = node
                        .entries()
                        .iter()
                        .filter(|(name, _)| !is_header(&name.to_ascii_lowercase()));
                    match odd.count() {
                        0 => self.report.taken(&at, "headers of the provider"),
                        odd => self.report.changed(&at, format!("headers of the provider, without {odd} that are its own or the gateway's")),
                    }
                }
                "api_version" => self.report.none(&at, "the address needs no version"),
                name if COSTS.iter().any(|(cost, ..)| *cost == name) => {}
                _ => self.report.none(&at, "requests pass as callers send them"),
            }
        }
    }

    fn prices(&mut self, at: &At, item: &Node, params: &Node, provider: usize, model: &str) {
        let info = item.get("model_info");
        let mut price = Price { provider, model: model.to_owned(), ..Price::default() };
        for (cost, name, shift) in COSTS {
            let node = params.get(cost).or_else(|| info.and_then(|info| info.get(cost)));
            let Some(node) = node else { continue };
            let at = at.part(cost, node.line);
            let amount = node.text().and_then(Decimal::parse).and_then(|it| it.shifted(shift));
            let Some(amount) = amount else {
                self.report.none(&at, "it is no price");
                continue;
            };
            let (text, is_exact) = amount.text(6, false);
            match is_exact {
                true => self.report.taken(&at, format!("{name} = {text}")),
                false => self.report.changed(&at, format!("{name} = {text}, rounded")),
            }
            price.amounts.push((name, text));
        }
        if price.amounts.is_empty() {
            return;
        }
        let has = |name: &str| price.amounts.iter().any(|(other, _)| *other == name);
        if has("input") && !has("output") {
            price.amounts.push(("output", "0".to_owned()));
        }
        let same = |other: &Price| other.provider == provider && other.model == model;
        match self.plan.prices.iter().find(|other| same(other)) {
            Some(other) if other.amounts != price.amounts => {
                let said = "the price of its first deployment counts: there is one for a provider and a model";
                self.report.changed(at, said);
            }
            Some(_) => {}
            None => self.plan.prices.push(price),
        }
    }

    fn model_info(&mut self, at: &At, item: &Node, alias: &str) {
        let Some(info) = item.get("model_info") else { return };
        let place = at.part("model_info", info.line);
        for (name, node) in info.entries() {
            let at = place.part(name, node.line);
            match name.as_str() {
                "access_groups" => {
                    let groups: Vec<String> = node.texts().map(str::to_owned).collect();
                    let said = "keys with this group are given the models of it";
                    self.report.changed(&at, said);
                    self.access_groups
                        .extend(groups.into_iter().map(|group| (group, alias.to_owned())));
                }
                "max_output_tokens" | "max_tokens" => {
                    let tokens = node.text().and_then(Decimal::parse).and_then(Decimal::to_whole);
                    match tokens.filter(|tokens| (1..=100_000_000).contains(tokens)) {
                        None => self.report.none(&at, "it is no number of tokens"),
                        Some(tokens) => {
                            self.ceilings.push((alias.to_owned(), tokens));
                            self.report.taken(&at, "max_output of the model");
                        }
                    }
                }
                name if COSTS.iter().any(|(cost, ..)| *cost == name) => {}
                _ => self.report.none(&at, "nothing depends on it"),
            }
        }
    }
}

/// The upstream's name of the model, or a star where the name that was asked passes as it is.
fn target_model<'m>(alias: &str, upstream: &'m str) -> Result<&'m str, String> {
    if !is_alias(alias) {
        return Err("a star in a model_name stands alone or behind a slash, at the end".to_owned());
    }
    if !upstream.contains('*') {
        return if is_name(upstream) {
            Ok(upstream)
        } else {
            Err("its model has no name".to_owned())
        };
    }
    if upstream == alias {
        return Ok("*");
    }
    Err(format!(
        "{alias} would pass on the whole name that was asked, and the server knows it as {upstream}: name the models one by one"
    ))
}

/// Seconds as LiteLLM writes them, in milliseconds; within what a timeout may be.
pub(super) fn milliseconds(text: &str) -> Option<u64> {
    const DAY_MS: u64 = 86_400_000;
    let ms = Decimal::parse(text)?.shifted(3)?.text(0, true).0.parse::<u64>().ok()?;
    (ms > 0).then(|| ms.clamp(10, DAY_MS))
}

/// A header that may be set for a provider: not one of the connection, and not the key's.
fn is_header(name: &str) -> bool {
    const OWN: [&str; 14] = [
        "host",
        "content-length",
        "content-type",
        "content-encoding",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "proxy-connection",
        "upgrade",
        "te",
        "trailer",
        "expect",
        "accept-encoding",
        "authorization",
    ];
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.len() <= 128 && name.bytes().all(is_token) && !OWN.contains(&name)
}

/// The weights of an alias's deployments, by what LiteLLM's simple-shuffle draws by: the weight if the
/// first has one, else its rpm, else its tpm, else all the same. Who lacks it then is never drawn.
fn weights(shares: &[Share]) -> Vec<u64> {
    const MOST: u64 = 1_000_000;
    let by: [fn(&Share) -> Option<Decimal>; 3] = [|it| it.weight, |it| it.rpm, |it| it.tpm];
    let Some(by) =
        by.into_iter().find(|by| shares.first().is_some_and(|share| by(share).is_some()))
    else {
        return vec![1; shares.len()];
    };
    // Whole numbers: at most six digits after the point count.
    let whole = |share: &Share| {
        let weight = by(share).unwrap_or(Decimal::ZERO).shifted(6);
        weight.and_then(|weight| weight.text(0, true).0.parse::<u64>().ok()).unwrap_or(u64::MAX)
    };
    let mut weights: Vec<u64> = shares.iter().map(whole).collect();
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let most = weights.iter().max().copied().unwrap_or(0) / divisor;
    let shrink = most.div_ceil(MOST).max(1);
    for weight in &mut weights {
        let own = *weight / divisor;
        *weight = (own / shrink).max(u64::from(own > 0));
    }
    if weights.iter().all(|weight| *weight == 0) { vec![1; shares.len()] } else { weights }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// One target for each provider and model: what stands there twice is drawn twice as often.
fn merge(targets: &mut Vec<Target>) {
    let mut merged: Vec<Target> = Vec::new();
    for target in targets.drain(..) {
        let same =
            |other: &&mut Target| other.provider == target.provider && other.model == target.model;
        match merged.iter_mut().find(same) {
            Some(other) => {
                other.weight = (other.weight + target.weight).min(1_000_000);
                other.priority = other.priority.min(target.priority);
            }
            None => merged.push(target),
        }
    }
    *targets = merged;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(weights: &[&str], rpms: &[&str]) -> Vec<Share> {
        let number = |list: &[&str], at: usize| list.get(at).and_then(|text| Decimal::parse(text));
        let share = |at| Share { weight: number(weights, at), rpm: number(rpms, at), tpm: None };
        (0..weights.len().max(rpms.len())).map(share).collect()
    }

    #[test]
    fn weights_are_whole_numbers_in_the_same_proportion() {
        assert_eq!(weights(&shares(&["0.7", "0.3"], &[])), [7, 3]);
        assert_eq!(weights(&shares(&["2", "x"], &["9", "9"])), [1, 0], "a weight beats rpm");
        assert_eq!(weights(&shares(&["x", "3"], &[])), [1, 1], "the first one decides");
        assert_eq!(weights(&shares(&["x", "3"], &["9", "18"])), [1, 2]);
        assert_eq!(weights(&shares(&["", ""], &["60", "6000"])), [1, 100]);
        assert_eq!(weights(&shares(&["", ""], &[])), [1, 1]);
        assert_eq!(weights(&shares(&["0", "0"], &[])), [1, 1]);
        let huge = weights(&shares(&["123456789012", "1"], &[]));
        assert!(huge.iter().all(|weight| (1..=1_000_000).contains(weight)), "{huge:?}");
    }

    #[test]
    fn a_wildcard_passes_only_the_very_name_that_was_asked() {
        assert_eq!(target_model("*", "*"), Ok("*"));
        assert_eq!(target_model("anthropic/*", "anthropic/*"), Ok("*"));
        assert_eq!(target_model("gpt/*", "gpt-4o"), Ok("gpt-4o"));
        assert!(target_model("openai/*", "*").is_err());
        assert!(target_model("gpt-*", "gpt-4o").is_err());
        assert!(target_model("gpt-4o", "*").is_err());
    }

    #[test]
    fn seconds_become_milliseconds() {
        assert_eq!(milliseconds("600"), Some(600_000));
        assert_eq!(milliseconds("0.5"), Some(500));
        assert_eq!(milliseconds("1e9"), Some(86_400_000));
        assert_eq!(milliseconds("0"), None);
        assert_eq!(milliseconds("soon"), None);
    }
}
