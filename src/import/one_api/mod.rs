//! One-API and new-api: their SQLite file, or a dump of their MySQL database. Channels become
//! providers and the targets of models, users become prepaid accounts, tokens become keys, ratios
//! become prices. Open `channels.rs` first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::value::RawValue;

use super::decimal::Decimal;
use super::names::Names;
use super::plan::Plan;
use super::report::{At, Report};
use super::tables::{Table, cell};
use super::{Fault, Imported, Options, Source, finish, sql, sqlite, text};
use vendors::Flavour;

mod channels;
mod ratios;
mod tokens;
mod vendors;

/// The tables that are looked at.
const TABLES: [&str; 5] = ["channels", "abilities", "tokens", "users", "options"];

/// The largest dump.
const DUMP_MOST_BYTES: usize = 512 << 20;

/// What one US dollar is in quota, unless the options say otherwise.
const QUOTA_PER_USD: u64 = 500_000;

/// Where the tables are.
pub enum Database<'d> {
    /// A SQLite file.
    Sqlite(&'d Path),
    /// A dump as SQL.
    Dump(Source<'d>),
}

/// Is it a SQLite file that begins so?
pub fn is_sqlite(head: &[u8]) -> bool {
    head.starts_with(sqlite::MAGIC)
}

/// What is being put together.
struct Work<'o> {
    options: &'o Options<'o>,
    flavour: Flavour,
    quota_per_usd: u64,
    plan: Plan,
    report: Report,
    /// Names of providers in use.
    providers: Names,
    /// The models that a group of users is served.
    groups: BTreeMap<String, BTreeSet<String>>,
    /// For each provider of the plan the type of its channel.
    kinds: Vec<u64>,
}

/// Imports a database.
///
/// # Errors
/// A file that cannot be read, with the line if it has lines.
pub fn one_api(database: &Database<'_>, options: &Options<'_>) -> Result<Imported, Fault> {
    let (name, tables) = match database {
        Database::Sqlite(path) => (path.display().to_string(), sqlite::read(path, &TABLES)),
        Database::Dump(source) => {
            let text = text(source, DUMP_MOST_BYTES)?;
            (source.name.to_owned(), sql::parse(text, &TABLES))
        }
    };
    let tables = tables.map_err(|fault| fault.of(&name))?;
    let table = |name: &str| tables.iter().find(|table| table.name == name);
    let Some(channels) = table("channels") else {
        let message = "it holds no table channels: a database of One-API or new-api is expected, as SQLite or as a dump in SQL";
        return Err(Fault::new(message).of(&name));
    };
    let empty = Table::default();
    let or_empty = |name: &str| table(name).unwrap_or(&empty);
    let is_new = or_empty("tokens").has("model_limits_enabled") || channels.has("auto_ban");
    let flavour = if is_new { Flavour::NewApi } else { Flavour::OneApi };
    let source = if is_new { "new-api" } else { "One-API" };
    let mut work = Work {
        options,
        flavour,
        quota_per_usd: QUOTA_PER_USD,
        plan: Plan { source: source.to_owned(), ..Plan::default() },
        report: Report::default(),
        providers: Names::default(),
        groups: BTreeMap::new(),
        kinds: Vec::new(),
    };
    work.channels(channels, or_empty("abilities"));
    work.prices(or_empty("options"));
    work.tokens(or_empty("tokens"), or_empty("users"));
    let Work { plan, report, .. } = work;
    finish(plan, report, options).map_err(|fault| fault.of(&name))
}

impl Work<'_> {
    /// Quota as an amount of US dollars.
    fn usd(&self, quota: &str) -> Option<Decimal> {
        Decimal::parse(quota)?.divided(self.quota_per_usd)
    }
}

/// The place of a row.
fn place(table: &str, id: Option<&str>, line: usize) -> At {
    At::new(format!("{table}[{}]", id.unwrap_or("?")), line)
}

/// A list with commas.
fn commas(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// A JSON object of texts or numbers, each as text.
fn object(text: &str) -> Option<BTreeMap<String, String>> {
    let object: BTreeMap<String, Box<RawValue>> = serde_json::from_str(text).ok()?;
    Some(object.into_iter().filter_map(|(name, raw)| Some((name, cell(&raw)?))).collect())
}
