//! What changed between two configurations, in the words of the file.

use std::collections::BTreeMap;

use serde::Serialize;

use super::settings::Config;
use crate::price::Entry;

/// One difference.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Change {
    /// `[server]` or `[[model]] "gpt-4o"`.
    pub what: String,
    pub how: How,
}

/// The way in which something differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    Added,
    Changed,
    Removed,
}

/// What is different in `new`. Empty means that nothing has to be done.
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    for (what, same) in [
        ("[server]", old.server == new.server),
        ("[admin]", old.admin == new.admin),
        ("[store]", old.store == new.store),
        ("[log]", old.log == new.log),
    ] {
        if !same {
            changes.push(Change { what: what.into(), how: How::Changed });
        }
    }
    list("[[provider]]", &old.providers, &new.providers, |each| &each.name, &mut changes);
    list("[[model]]", &old.models, &new.models, |each| &each.name, &mut changes);
    prices(old, new, &mut changes);
    if old.default_price != new.default_price {
        changes.push(Change { what: "[prices]".into(), how: How::Changed });
    }
    list("[[price_group]]", &old.price_groups, &new.price_groups, |each| &each.name, &mut changes);
    if old.rates != new.rates {
        changes.push(Change { what: "[[rate]]".into(), how: How::Changed });
    }
    list("[[account]]", &old.accounts, &new.accounts, |each| &each.name, &mut changes);
    list("[[project]]", &old.projects, &new.projects, |each| &each.name, &mut changes);
    list("[[user]]", &old.users, &new.users, |each| &each.name, &mut changes);
    list("[[key]]", &old.keys, &new.keys, |each| &each.name, &mut changes);
    changes
}

/// An imported map may change hundreds at once: then only their number is told.
const MOST_PRICES: usize = 20;

/// Prices by provider and model: of one model there may be several, for groups and from times on.
fn prices(old: &Config, new: &Config, changes: &mut Vec<Change>) {
    let by_model = |config: &Config| {
        let mut models: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
        for entry in &config.prices {
            let name = format!("{}/{}", entry.provider, entry.model);
            models.entry(name).or_default().push(entry.clone());
        }
        Vec::from_iter(models)
    };
    let mut told = Vec::new();
    list("[[price]]", &by_model(old), &by_model(new), |(name, _)| name, &mut told);
    if told.len() > MOST_PRICES {
        let what = format!("[[price]] of {} models", told.len());
        told = vec![Change { what, how: How::Changed }];
    }
    changes.append(&mut told);
}

fn list<T: PartialEq>(
    table: &str,
    old: &[T],
    new: &[T],
    name: fn(&T) -> &String,
    changes: &mut Vec<Change>,
) {
    let index = |list: &'_ [T]| -> BTreeMap<String, usize> {
        list.iter().enumerate().map(|(at, each)| (name(each).clone(), at)).collect()
    };
    let (before, after) = (index(old), index(new));
    let mut push = |name: &str, how| {
        changes.push(Change { what: format!("{table} \"{}\"", name.escape_debug()), how });
    };
    for each in new {
        match before.get(name(each)) {
            None => push(name(each), How::Added),
            Some(at) if old[*at] != *each => push(name(each), How::Changed),
            Some(_) => {}
        }
    }
    for each in old {
        if !after.contains_key(name(each)) {
            push(name(each), How::Removed);
        }
    }
}
