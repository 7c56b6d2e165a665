//! Users and their tokens: each user that has a key is a prepaid account with a project of the same
//! name, and each of its tokens is a key there. Callers go on to present what they have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use sha2::{Digest as _, Sha256};

use super::vendors::Flavour;
use super::{Work, commas, place};
use crate::import::decimal::Decimal;
use crate::import::hex;
use crate::import::names::Names;
use crate::import::plan::{Account, Budget, Key, Limits, Project};
use crate::import::report::At;
use crate::import::tables::{Row, Table};

/// The largest amount that foretoken takes: a billion.
const MOST_USD: u64 = 1_000_000_000;

/// Who owns keys.
struct Owner {
    project: String,
    group: String,
}

impl Work<'_> {
    pub(super) fn tokens(&mut self, tokens: &Table, users: &Table) {
        let with_keys: BTreeSet<&str> =
            tokens.rows().filter_map(|row| row.get("user_id")).collect();
        let mut owners = BTreeMap::new();
        let mut names = Names::default();
        // The project that is always there is nobody's.
        let _ = names.name("default", "");
        for row in users.rows() {
            let Some(id) = row.get("id") else { continue };
            let at = place("users", Some(id), row.line);
            let owner = self.user(&row, &at, with_keys.contains(id), &mut names);
            if let Err(why) = &owner {
                self.report.none(&at, format!("left out: {why}"));
            }
            owners.insert(id, owner);
        }
        if users.rows().next().is_some() {
            let at = At::new("users.password", 0);
            self.report
                .none(&at, "nobody logs in here: passwords, log-ins and invitations stay behind");
        }
        let (mut names, mut seen) = (Names::default(), BTreeMap::new());
        for row in tokens.rows() {
            let at = place("tokens", row.get("id"), row.line);
            match self.token(&row, &at, &owners) {
                Err(why) => self.report.none(&at, format!("left out: {why}")),
                Ok(key) => {
                    if let Some(other) = seen.get(&key.sha256) {
                        self.report.none(&at, format!("left out: it is the key {other} once more"));
                        continue;
                    }
                    let wish = row.get("name").unwrap_or_default();
                    let name = names.name(wish, &format!("token-{}", row.get("id").unwrap_or("?")));
                    self.report.taken(&at, format!("the key {name}"));
                    seen.insert(key.sha256.clone(), name.clone());
                    self.plan.keys.push(Key { name, ..key });
                }
            }
        }
    }

    fn user(
        &mut self,
        row: &Row<'_>,
        at: &At,
        has_keys: bool,
        names: &mut Names,
    ) -> Result<Owner, String> {
        if row.get("deleted_at").is_some() || !matches!(row.get("status"), Some("1") | None) {
            return Err("it is switched off or deleted, and its keys with it".to_owned());
        }
        if !has_keys {
            return Err("it has no key".to_owned());
        }
        let wish = row.get("username").or(row.get("display_name")).unwrap_or_default();
        let name = names.name(wish, &format!("user-{}", row.get("id").unwrap_or("?")));
        // Below zero means that more was used than there was.
        let left = self.usd(row.get("quota").unwrap_or("0")).unwrap_or(Decimal::ZERO);
        let is_huge = Decimal::whole(MOST_USD).minus(left).is_none();
        let (balance, _) = if is_huge { (MOST_USD.to_string(), true) } else { left.text(12, true) };
        let group = row.get("group").unwrap_or("default").to_owned();
        let price_group = self.plan.price_groups.iter().find(|known| known.name == group);
        let price_group = price_group.map(|known| known.name.clone());
        if price_group.is_none() && group != "default" {
            let said = format!("the group {group} has no ratio: charged at the price itself");
            self.report.changed(&at.part("group", row.line), said);
        }
        let said = format!("the account {name}, prepaid, with the {balance} USD that are left");
        match is_huge {
            true => self.report.changed(at, format!("{said}: a billion is the most")),
            false => self.report.taken(at, said),
        }
        if row.get("role").and_then(|role| role.parse::<u64>().ok()).is_some_and(|role| role >= 10)
        {
            let said = "an account like others: administration is by the admin token";
            self.report.none(&at.part("role", row.line), said);
        }
        self.plan.accounts.push(Account {
            name: name.clone(),
            balance: Some(balance),
            price_group,
            limits: Limits::default(),
        });
        self.plan.projects.push(Project {
            name: name.clone(),
            account: Some(name.clone()),
            ..Project::default()
        });
        Ok(Owner { project: name, group })
    }

    fn token(
        &mut self,
        row: &Row<'_>,
        at: &At,
        owners: &BTreeMap<&str, Result<Owner, String>>,
    ) -> Result<Key, String> {
        let secret = row.get("key").map(str::trim).ok_or("it has no key")?;
        if row.get("deleted_at").is_some() {
            return Err("it is deleted".to_owned());
        }
        match row.get("status") {
            Some("1") | None => {}
            Some("3") => return Err("it has expired".to_owned()),
            Some("4") => return Err("its quota is used up".to_owned()),
            Some(_) => return Err("it is switched off".to_owned()),
        }
        let owner = match row.get("user_id").and_then(|id| owners.get(id)) {
            Some(Ok(owner)) => owner,
            Some(Err(why)) => return Err(format!("of its user: {why}")),
            None => return Err("its user is not there".to_owned()),
        };
        let expires_at = self.expiry(row)?;
        let limits = self.quota(row, at)?;
        let models = self.models_of(row, at, owner)?;
        let cidrs = networks(row)?;
        // Callers present it with the prefix, which the table does not hold.
        let bare = secret.strip_prefix("sk-").unwrap_or(secret);
        let sha256 = hex(&Sha256::digest(format!("sk-{bare}").as_bytes()));
        Ok(Key {
            project: Some(owner.project.clone()),
            sha256,
            models,
            cidrs,
            expires_at,
            limits,
            ..Key::default()
        })
    }

    fn expiry(&self, row: &Row<'_>) -> Result<Option<String>, String> {
        let seconds = row.get("expired_time").unwrap_or("-1");
        let seconds: i64 =
            seconds.parse().map_err(|_| format!("it expires at {seconds}, which is no time"))?;
        if seconds == -1 {
            return Ok(None);
        }
        let time = jiff::Timestamp::from_second(seconds)
            .map_err(|_| format!("it expires at {seconds}, which is no time"))?;
        match u64::try_from(time.as_millisecond()) {
            Ok(unix_ms) if unix_ms > self.options.now_unix_ms => Ok(Some(time.to_string())),
            _ => Err(format!("it expired at {time}")),
        }
    }

    /// What is left of the quota, as a budget for ever.
    fn quota(&mut self, row: &Row<'_>, at: &At) -> Result<Limits, String> {
        let mut limits = Limits::default();
        if row.is_true("unlimited_quota") {
            return Ok(limits);
        }
        let left = self.usd(row.get("remain_quota").unwrap_or("0")).unwrap_or(Decimal::ZERO);
        let (amount, _) = left.text(12, true);
        if amount == "0" {
            return Err("its quota is used up".to_owned());
        }
        let at = at.part("remain_quota", row.line);
        if Decimal::whole(MOST_USD).minus(left).is_none() {
            self.report.none(&at, "it is more than a billion dollars: no limit");
            return Ok(limits);
        }
        self.report.taken(&at, format!("a budget of the {amount} USD that are left"));
        limits.budgets.push(Budget { amount, per: "total".to_owned(), soft: false });
        Ok(limits)
    }

    /// The models of a token, within those of its group; `None` is every one.
    fn models_of(
        &mut self,
        row: &Row<'_>,
        at: &At,
        owner: &Owner,
    ) -> Result<Option<Vec<String>>, String> {
        let (column, is_limited) = match self.flavour {
            Flavour::OneApi => ("models", true),
            Flavour::NewApi => ("model_limits", row.is_true("model_limits_enabled")),
        };
        let own = row.get(column).filter(|_| is_limited);
        let own: Option<Vec<&str>> = own.map(|text| commas(text).collect());
        let own_group = row.get("group").filter(|group| *group != owner.group && *group != "auto");
        if own_group.is_some() {
            let said = "the models of this group, at the prices of the account's";
            self.report.changed(&at.part("group", row.line), said);
        }
        let group = own_group.unwrap_or(&owner.group);
        let served =
            self.groups.get(group).ok_or_else(|| format!("no channel serves the group {group}"))?;
        if own.is_none() && served.len() == self.plan.models.len() {
            return Ok(None);
        }
        let is_allowed =
            |model: &String| own.as_ref().is_none_or(|own| own.contains(&model.as_str()));
        let models: Vec<String> =
            served.iter().filter(|model| is_allowed(model)).cloned().collect();
        if models.is_empty() {
            return Err("none of its models is served".to_owned());
        }
        for name in own.unwrap_or_default() {
            if !models.iter().any(|model| model == name) {
                let said = format!("{name} is no model that its group is served");
                self.report.none(&at.part(column, row.line), said);
            }
        }
        Ok(Some(models))
    }
}

/// The networks that a token may be used from.
///
/// # Errors
/// One that cannot be read: to leave it out would let everybody in.
fn networks(row: &Row<'_>) -> Result<Vec<String>, String> {
    let text = row.get("subnet").or(row.get("allow_ips")).unwrap_or_default();
    let parts = text.split([',', '\n', ' ', '\r']).filter(|part| !part.is_empty());
    parts.map(|part| network(part).ok_or_else(|| format!("{part} is no network"))).collect()
}

/// A network with the bits beyond its prefix cleared, as the configuration wants it.
fn network(text: &str) -> Option<String> {
    let (address, bits) = text.split_once('/').unwrap_or((text, ""));
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits: u32 = if text.contains('/') { bits.parse().ok()? } else { most };
    let first: IpAddr = match address {
        _ if bits > most => return None,
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            std::net::Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            std::net::Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    };
    Some(format!("{first}/{bits}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_as_the_configuration_wants_them() {
        for (text, want) in [
            ("10.1.2.3/8", Some("10.0.0.0/8")),
            ("192.168.0.7", Some("192.168.0.7/32")),
            ("fd00::1/16", Some("fd00::/16")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("10.0.0.0/33", None),
            ("10.0.0.0/", None),
            ("here", None),
        ] {
            assert_eq!(network(text).as_deref(), want, "{text}");
        }
    }
}
