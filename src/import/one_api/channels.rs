//! Channels: each is a provider, and a target of every model that it serves.

use std::collections::{BTreeMap, BTreeSet};

use super::vendors::{self, Way};
use super::{Work, commas, object, place};
use crate::import::address::{azure, clean};
use crate::import::names::{is_alias, is_name};
use crate::import::plan::{Model, Provider, Secret, Target};
use crate::import::report::At;
use crate::import::tables::{Row, Table};

/// Columns that nothing here answers to, if there is something in them.
const WITHOUT_COUNTERPART: [&str; 8] = [
    "other",
    "config",
    "setting",
    "settings",
    "param_override",
    "header_override",
    "status_code_mapping",
    "system_prompt",
];

/// A model that a channel serves.
struct Served {
    alias: String,
    target: Target,
    /// The higher, the earlier: the other way round than in the result.
    priority: i64,
}

impl Work<'_> {
    pub(super) fn channels(&mut self, channels: &Table, abilities: &Table) {
        let off: BTreeSet<(&str, &str)> = abilities
            .rows()
            .filter(|row| row.get("enabled").is_some() && !row.is_true("enabled"))
            .filter_map(|row| Some((row.get("channel_id")?, row.get("model")?)))
            .collect();
        let mut served = Vec::new();
        for row in channels.rows() {
            let at = place("channels", row.get("id"), row.line);
            match self.channel(&row, &at, &off) {
                Ok(models) => served.extend(models),
                Err(why) => self.report.none(&at, format!("not taken: {why}")),
            }
        }
        self.route(served);
    }

    fn channel(
        &mut self,
        row: &Row<'_>,
        at: &At,
        off: &BTreeSet<(&str, &str)>,
    ) -> Result<Vec<Served>, String> {
        match row.get("status") {
            Some("1") | None => {}
            Some("3") => return Err("it was switched off after failures".to_owned()),
            Some(_) => return Err("it is switched off".to_owned()),
        }
        let id = row.get("id").unwrap_or("?");
        let kind = row.get("type").and_then(|text| text.parse().ok()).unwrap_or(0);
        let (vendor, way) = vendors::find(kind, self.flavour);
        let (base_url, changed) = address(vendor, way, row.get("base_url"))?;
        let keys = row.get("key").unwrap_or_default().lines().map(str::trim);
        let mut api_keys: Vec<Secret> = Vec::new();
        for key in keys.filter(|key| !key.is_empty()) {
            let key = Secret::Literal(key.to_owned());
            if !api_keys.contains(&key) {
                api_keys.push(key);
            }
        }
        let aliases = self.aliases(row, at, &|model| off.contains(&(id, model)));
        if aliases.is_empty() {
            return Err("it serves no model".to_owned());
        }
        let organization = row.get("openai_organization");
        let organization = organization
            .map(|text| ("openai-organization".to_owned(), Secret::Literal(text.to_owned())));
        let preset = vendors::preset(&base_url);
        let made = Provider {
            preset,
            base_url: Some(base_url).filter(|_| preset.is_none()),
            api_keys,
            headers: organization.into_iter().collect(),
            ..Provider::default()
        };
        // A name of its own even for two channels that are alike: each is a row of the source.
        let name = self.providers.slug(row.get("name").unwrap_or(vendor), &format!("channel-{id}"));
        let provider = self.plan.providers.len();
        self.plan.providers.push(Provider { name: name.clone(), ..made });
        self.kinds.push(kind);
        let count = aliases.len();
        let said = format!("the provider {name} ({vendor}) for {count} models");
        match changed {
            None => self.report.taken(at, said),
            Some(why) => self.report.changed(at, format!("{said}; {why}")),
        }
        self.join_groups(row, aliases.iter().map(|(alias, _)| alias));
        self.leftovers(row, at);
        let priority = row.get("priority").and_then(|text| text.parse().ok()).unwrap_or(0);
        let weight = row.get("weight").and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let served = aliases.into_iter().map(|(alias, model)| Served {
            alias,
            target: Target { provider, model, weight: weight.min(1_000_000), priority: 0 },
            priority,
        });
        Ok(served.collect())
    }

    /// The models of a channel by the names that callers use, each with its name at the server.
    fn aliases(
        &mut self,
        row: &Row<'_>,
        at: &At,
        is_off: &dyn Fn(&str) -> bool,
    ) -> Vec<(String, String)> {
        let mapping = row.get("model_mapping").filter(|text| *text != "{}").map(object);
        if let Some(None) = mapping {
            let at = at.part("model_mapping", row.line);
            self.report.none(&at, "it is no JSON object: models keep their names");
        }
        let mapping = mapping.flatten().unwrap_or_default();
        let mut aliases: Vec<(String, String)> = Vec::new();
        for alias in commas(row.get("models").unwrap_or_default()) {
            let model = mapping.get(alias).map_or(alias, String::as_str);
            let at = at.part("models", row.line);
            if !is_alias(alias) || alias.contains('*') || !is_name(model) || model.contains('*') {
                self.report.none(&at, format!("{alias} cannot be the name of a model"));
            } else if is_off(alias) {
                self.report.none(&at, format!("{alias} is switched off for this channel"));
            } else if aliases.iter().all(|(known, _)| known != alias) {
                if model != alias {
                    let at = At::new(at.place.replace(".models", ".model_mapping"), at.line);
                    self.report.taken(&at, format!("{alias} is {model} there"));
                }
                aliases.push((alias.to_owned(), model.to_owned()));
            }
        }
        aliases
    }

    fn join_groups<'m>(&mut self, row: &Row<'_>, models: impl Iterator<Item = &'m String> + Clone) {
        for group in commas(row.get("group").unwrap_or("default")) {
            self.groups.entry(group.to_owned()).or_default().extend(models.clone().cloned());
        }
    }

    fn leftovers(&mut self, row: &Row<'_>, at: &At) {
        for column in WITHOUT_COUNTERPART {
            let text = row.get(column).filter(|text| !["{}", "[]", "null"].contains(text));
            if text.is_some() {
                self.report.none(&at.part(column, row.line), "foretoken has nothing like it");
            }
        }
    }

    /// From what the channels serve to models with targets.
    fn route(&mut self, served: Vec<Served>) {
        let mut models: BTreeMap<String, Vec<(Target, i64)>> = BTreeMap::new();
        for Served { alias, target, priority } in served {
            models.entry(alias).or_default().push((target, priority));
        }
        for (name, targets) in models {
            let ranks: BTreeSet<i64> = targets.iter().map(|(_, priority)| *priority).collect();
            let rank = |priority: i64| ranks.iter().rev().position(|other| *other == priority);
            let is_weighted = targets.iter().any(|(target, _)| target.weight > 0);
            let targets = targets.into_iter().map(|(target, priority)| Target {
                priority: rank(priority).unwrap_or(0).min(1000) as u64,
                // Both gateways still draw channels of weight 0, if seldom.
                weight: if is_weighted { target.weight.max(1) } else { 1 },
                ..target
            });
            let targets = targets.collect();
            self.plan.models.push(Model { name, policy: "priority", targets, ..Model::default() });
        }
    }
}

/// The base URL of a channel, and what is not as it was.
fn address(vendor: &str, way: Way, own: Option<&str>) -> Result<(String, Option<String>), String> {
    let own = own.map(clean).transpose()?.map(|(url, _)| url);
    let versioned = |url: String| if url.ends_with("/v1") { url } else { format!("{url}/v1") };
    let placed = |base: &str, path: &str| match &own {
        None => base.to_owned(),
        Some(url) if url.ends_with(path) => url.clone(),
        Some(url) => format!("{url}{path}"),
    };
    Ok(match way {
        Way::Host(host) => (versioned(own.unwrap_or_else(|| host.to_owned())), None),
        Way::Base(base, path) => (placed(base, path), None),
        Way::Compatible(base, path) => {
            let url = placed(base, path);
            let said = format!("{vendor} is asked in OpenAI's dialect, at {url}");
            (url, Some(said))
        }
        Way::Own => match own {
            Some(url) => (versioned(url), None),
            None => return Err("it has no base_url".to_owned()),
        },
        Way::Azure => {
            let url = own.ok_or("it has no base_url")?;
            let url = format!("{}/openai/v1", azure(&url));
            let said = format!("asked at {url}, where the deployment is the model");
            (url, Some(said))
        }
        Way::Foreign => {
            return Err(format!(
                "a channel {vendor} has a dialect of its own, which is not available"
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::one_api::vendors::Flavour;

    #[test]
    fn a_type_of_channel_is_an_address() {
        let at = |kind, flavour, own| {
            let (vendor, way) = vendors::find(kind, flavour);
            address(vendor, way, own).map(|(url, changed)| (url, changed.is_some()))
        };
        for (kind, flavour, own, want, is_changed) in [
            (1, Flavour::OneApi, None, "https://api.openai.com/v1", false),
            (1, Flavour::OneApi, Some("https://proxy.example/"), "https://proxy.example/v1", false),
            (
                1,
                Flavour::NewApi,
                Some("https://proxy.example/v1"),
                "https://proxy.example/v1",
                false,
            ),
            (
                3,
                Flavour::OneApi,
                Some("https://x.openai.azure.com"),
                "https://x.openai.azure.com/openai/v1",
                true,
            ),
            (14, Flavour::NewApi, None, "https://api.anthropic.com/v1", true),
            (36, Flavour::OneApi, None, "https://api.deepseek.com/v1", false),
            (43, Flavour::NewApi, None, "https://api.deepseek.com/v1", false),
            (26, Flavour::NewApi, None, "https://open.bigmodel.cn/api/paas/v4", false),
            (
                17,
                Flavour::OneApi,
                Some("https://dashscope-intl.aliyuncs.com"),
                "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
                true,
            ),
        ] {
            assert_eq!(at(kind, flavour, own), Ok((want.to_owned(), is_changed)), "{kind}");
        }
        assert!(at(33, Flavour::OneApi, None).is_err());
        assert!(at(8, Flavour::OneApi, None).is_err(), "no address");
        assert!(at(9999, Flavour::NewApi, Some("https://a.b")).is_err());
    }
}
