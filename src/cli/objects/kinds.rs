//! The options of each kind of object.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};

use super::super::limits::{LimitArgs, object, pair};
use super::super::table::Set;
use super::super::when;
use super::Kind;

/// The most that is read of a file with a secret.
const SECRET_BYTES_MAX: u64 = 4096;

/// Puts a field if it was said.
fn put(body: &mut Map<String, Value>, name: &str, value: &Option<String>) {
    if let Some(value) = value {
        body.insert(name.to_owned(), json!(value));
    }
}

fn put_list(body: &mut Map<String, Value>, name: &str, values: &[String]) {
    if !values.is_empty() {
        body.insert(name.to_owned(), json!(values));
    }
}

fn put_pairs(body: &mut Map<String, Value>, name: &str, pairs: &[(String, String)]) {
    if !pairs.is_empty() {
        body.insert(name.to_owned(), object(pairs));
    }
}

/// `never` removes the end.
fn put_expiry(
    body: &mut Map<String, Value>,
    expires: &Option<String>,
    now_unix_ms: u64,
) -> Result<(), String> {
    match expires.as_deref() {
        None => {}
        Some("never") => {
            body.insert("expires_at".to_owned(), Value::Null);
        }
        Some(text) => {
            body.insert("expires_at".to_owned(), json!(when::ahead(text, now_unix_ms)?));
        }
    }
    Ok(())
}

#[derive(Args)]
pub(crate) struct KeyFields {
    /// Its name, unique within the project
    #[arg(long)]
    name: Option<String>,
    /// The project it belongs to [default: default]
    #[arg(long)]
    project: Option<String>,
    /// The user who owns it
    #[arg(long)]
    user: Option<String>,
    /// Models it may use, comma-separated or repeated; * at the end matches the rest
    #[arg(long, value_delimiter = ',', value_name = "GLOB")]
    models: Vec<String>,
    /// Models it may not use, although --models allows them
    #[arg(long, alias = "denied-models", value_delimiter = ',', value_name = "GLOB")]
    deny_models: Vec<String>,
    /// A name that its callers use for an alias: NAME=ALIAS. May be repeated
    #[arg(long, value_parser = pair, value_name = "NAME=ALIAS")]
    alias: Vec<(String, String)>,
    /// Endpoints it may use, comma-separated or repeated
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    endpoints: Vec<String>,
    /// Addresses from which it works, comma-separated or repeated
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    cidrs: Vec<String>,
    /// When it ends: 30d from now, a date, RFC 3339, or never
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
    /// A label by which usage is grouped. May be repeated
    #[arg(long, alias = "tags", value_delimiter = ',')]
    tag: Vec<String>,
    /// A note of yours: NAME=TEXT. May be repeated
    #[arg(long, value_parser = pair, value_name = "NAME=TEXT")]
    metadata: Vec<(String, String)>,
    /// Keep a secret that callers have already: read from this file, - for stdin
    #[arg(long, value_name = "PATH", help_heading = "Imported keys")]
    secret_from: Option<PathBuf>,
    /// The same, given as the hash of the secret (64 hexadecimal digits)
    #[arg(
        long,
        value_name = "HEX",
        help_heading = "Imported keys",
        conflicts_with = "secret_from"
    )]
    sha256: Option<String>,
    #[command(flatten)]
    limits: LimitArgs,
}

impl Kind for KeyFields {
    const PLURAL: &'static str = "keys";
    const NOUN: &'static str = "key";
    const SAMPLE: &'static str = "chat-backend";
    const FILTERS: &'static [&'static str] = &["account", "project", "user"];
    const IS_IN_PROJECT: bool = true;
    const BLOCK: &'static str = "Refuse a key's requests from now on";
    const COLUMNS: &'static [(&'static str, &'static str, Set)] = &[
        ("NAME", "/name", Set::Cut),
        ("PROJECT", "/project", Set::Cut),
        ("STATUS", "/status", Set::Whole),
        ("EXPIRES@", "/expires_at", Set::Whole),
        ("ID", "/id", Set::Whole),
    ];
    const CREATES: &'static [&'static str] = &[
        "{} --rpm 600 --tpm 200000 --parallel 50",
        "{} --models 'gpt-*' --budget 100/monthly",
        "{} --budget 100/monthly --budget 5/daily/soft",
        "ci --project search --expires 30d --cidrs 10.0.0.0/8",
        "{} --set 'limits.models={\"o4\": {\"rpm\": 10}}'",
        "old-service --secret-from old.key",
    ];
    const UPDATES: &'static [&'static str] =
        &["{} --rpm 1200", "{} --clear limits", "{} --clear tpm,expires --models 'gpt-*'"];

    fn fill(&self, body: &mut Map<String, Value>, now_unix_ms: u64) -> Result<(), String> {
        put(body, "name", &self.name);
        put(body, "project", &self.project);
        put(body, "user", &self.user);
        put_list(body, "models", &self.models);
        put_list(body, "deny_models", &self.deny_models);
        put_pairs(body, "aliases", &self.alias);
        put_list(body, "endpoints", &self.endpoints);
        put_list(body, "cidrs", &self.cidrs);
        put_expiry(body, &self.expires, now_unix_ms)?;
        put_list(body, "tags", &self.tag);
        put_pairs(body, "metadata", &self.metadata);
        put(body, "sha256", &self.sha256);
        if let Some(path) = &self.secret_from {
            body.insert("secret".to_owned(), json!(read_secret(path)?));
        }
        self.limits.fill(body);
        Ok(())
    }
}

/// A secret never stands on a command line, where every process of the host could read it.
fn read_secret(path: &std::path::Path) -> Result<String, String> {
    use std::io::Read as _;
    let fault = |error: std::io::Error| format!("{}: cannot be read: {error}", path.display());
    let source: Box<dyn std::io::Read> = match path.as_os_str() == "-" {
        true => Box::new(std::io::stdin()),
        false => Box::new(std::fs::File::open(path).map_err(fault)?),
    };
    let mut text = String::new();
    source.take(SECRET_BYTES_MAX).read_to_string(&mut text).map_err(fault)?;
    match text.trim() {
        "" => Err(format!("{}: holds no secret", path.display())),
        secret => Ok(secret.to_owned()),
    }
}

#[derive(Args)]
pub(crate) struct AccountFields {
    /// Its name
    #[arg(long)]
    name: Option<String>,
    /// In which it is charged, said when it is made [default: USD]
    #[arg(long, value_name = "CODE")]
    currency: Option<String>,
    /// Prepaid accounts are refused when the balance is used up
    #[arg(long, value_parser = ["postpaid", "prepaid"])]
    billing: Option<String>,
    /// What was paid in, for prepaid accounts
    #[arg(long, value_name = "AMOUNT")]
    balance: Option<String>,
    /// Where budgets begin anew, for example Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,
    /// Whose selling prices and markup hold
    #[arg(long, value_name = "NAME")]
    price_group: Option<String>,
    /// Factor on the upstream's cost, for example 1.25
    #[arg(long, value_name = "FACTOR")]
    markup: Option<String>,
    /// Wait so long for room instead of an instant refusal; with --queue-depth
    #[arg(long, value_name = "SPAN", requires = "queue_depth")]
    queue_wait: Option<String>,
    /// How many requests may wait; with --queue-wait
    #[arg(long, value_name = "N", requires = "queue_wait")]
    queue_depth: Option<u64>,
    /// A note of yours: NAME=TEXT. May be repeated
    #[arg(long, value_parser = pair, value_name = "NAME=TEXT")]
    metadata: Vec<(String, String)>,
    #[command(flatten)]
    limits: LimitArgs,
}

impl Kind for AccountFields {
    const PLURAL: &'static str = "accounts";
    const NOUN: &'static str = "account";
    const SAMPLE: &'static str = "acme";
    const BLOCK: &'static str = "Block all keys of an account";
    const OWNS: bool = true;
    const COLUMNS: &'static [(&'static str, &'static str, Set)] = &[
        ("NAME", "/name", Set::Cut),
        ("CUR", "/currency", Set::Whole),
        ("BILLING", "/billing", Set::Whole),
        ("PAID IN", "/balance", Set::Right),
        ("STATUS", "/status", Set::Whole),
        ("ID", "/id", Set::Whole),
    ];
    const CREATES: &'static [&'static str] = &[
        "{} --currency EUR --timezone Europe/Berlin",
        "{} --billing prepaid --balance 250",
        "{} --queue-wait 2s --queue-depth 100",
    ];
    const UPDATES: &'static [&'static str] =
        &["{} --budget 2000/monthly", "{} --price-group resellers", "{} --clear queue"];

    fn fill(&self, body: &mut Map<String, Value>, _: u64) -> Result<(), String> {
        put(body, "name", &self.name);
        put(body, "currency", &self.currency);
        put(body, "billing", &self.billing);
        put(body, "balance", &self.balance);
        put(body, "timezone", &self.timezone);
        put(body, "price_group", &self.price_group);
        put(body, "markup", &self.markup);
        if let (Some(wait), Some(depth)) = (&self.queue_wait, self.queue_depth) {
            body.insert("queue".to_owned(), json!({ "wait": wait, "depth": depth }));
        }
        put_pairs(body, "metadata", &self.metadata);
        self.limits.fill(body);
        Ok(())
    }
}

#[derive(Args)]
pub(crate) struct ProjectFields {
    /// Its name
    #[arg(long)]
    name: Option<String>,
    /// The account that pays, said when it is made [default: default]
    #[arg(long)]
    account: Option<String>,
    /// Models that its keys may use at most
    #[arg(long, value_delimiter = ',', value_name = "GLOB")]
    models: Vec<String>,
    /// A label by which usage is grouped. May be repeated
    #[arg(long, alias = "tags", value_delimiter = ',')]
    tag: Vec<String>,
    /// A note of yours: NAME=TEXT. May be repeated
    #[arg(long, value_parser = pair, value_name = "NAME=TEXT")]
    metadata: Vec<(String, String)>,
    #[command(flatten)]
    limits: LimitArgs,
}

impl Kind for ProjectFields {
    const PLURAL: &'static str = "projects";
    const NOUN: &'static str = "project";
    const SAMPLE: &'static str = "search";
    const BLOCK: &'static str = "Block all keys of a project";
    const FILTERS: &'static [&'static str] = &["account"];
    const OWNS: bool = true;
    const COLUMNS: &'static [(&'static str, &'static str, Set)] = &[
        ("NAME", "/name", Set::Cut),
        ("ACCOUNT", "/account", Set::Cut),
        ("STATUS", "/status", Set::Whole),
        ("ID", "/id", Set::Whole),
    ];
    const CREATES: &'static [&'static str] =
        &["{} --account acme --tpm 1000000", "{} --models 'gpt-*' --budget 50/daily"];
    const UPDATES: &'static [&'static str] = &["{} --tpm 2000000", "{} --clear limits"];

    fn fill(&self, body: &mut Map<String, Value>, _: u64) -> Result<(), String> {
        put(body, "name", &self.name);
        put(body, "account", &self.account);
        put_list(body, "models", &self.models);
        put_list(body, "tags", &self.tag);
        put_pairs(body, "metadata", &self.metadata);
        self.limits.fill(body);
        Ok(())
    }
}

#[derive(Args)]
pub(crate) struct UserFields {
    /// Their name
    #[arg(long)]
    name: Option<String>,
    /// The account, said when the user is made [default: default]
    #[arg(long)]
    account: Option<String>,
    /// Where to write to
    #[arg(long)]
    email: Option<String>,
    /// A note of yours: NAME=TEXT. May be repeated
    #[arg(long, value_parser = pair, value_name = "NAME=TEXT")]
    metadata: Vec<(String, String)>,
    #[command(flatten)]
    limits: LimitArgs,
}

impl Kind for UserFields {
    const PLURAL: &'static str = "users";
    const NOUN: &'static str = "user";
    const SAMPLE: &'static str = "ana";
    const BLOCK: &'static str = "Block all keys of a user";
    const FILTERS: &'static [&'static str] = &["account"];
    const OWNS: bool = true;
    const COLUMNS: &'static [(&'static str, &'static str, Set)] = &[
        ("NAME", "/name", Set::Cut),
        ("ACCOUNT", "/account", Set::Cut),
        ("EMAIL", "/email", Set::Cut),
        ("STATUS", "/status", Set::Whole),
        ("ID", "/id", Set::Whole),
    ];
    const CREATES: &'static [&'static str] = &["{} --account acme --email ana@acme.example"];
    const UPDATES: &'static [&'static str] = &["{} --budget 40/monthly", "{} --clear limits"];

    fn fill(&self, body: &mut Map<String, Value>, _: u64) -> Result<(), String> {
        put(body, "name", &self.name);
        put(body, "account", &self.account);
        put(body, "email", &self.email);
        put_pairs(body, "metadata", &self.metadata);
        self.limits.fill(body);
        Ok(())
    }
}

#[derive(Args)]
pub(crate) struct PriceFields {
    /// The provider's name
    #[arg(long)]
    provider: Option<String>,
    /// The upstream's model; * at the end matches the rest
    #[arg(long)]
    model: Option<String>,
    /// The price group to which it is sold; without it, what the upstream costs
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// [default: USD]
    #[arg(long, value_name = "CODE")]
    currency: Option<String>,
    /// From when it holds: now, a date, RFC 3339, or 7d from now; without it, always, until a dated
    /// one takes over
    #[arg(long, value_name = "WHEN")]
    valid_from: Option<String>,
    /// Input, per million tokens
    #[arg(long, value_name = "AMOUNT")]
    input: Option<String>,
    /// Output, per million tokens
    #[arg(long, value_name = "AMOUNT")]
    output: Option<String>,
    /// Input read from a cache, per million tokens
    #[arg(long, value_name = "AMOUNT")]
    cached_read: Option<String>,
    /// Input written to a cache, per million tokens
    #[arg(long, value_name = "AMOUNT")]
    cache_write: Option<String>,
    /// Reasoning, per million tokens, if priced apart
    #[arg(long, value_name = "AMOUNT")]
    reasoning: Option<String>,
    /// Each request
    #[arg(long, value_name = "AMOUNT")]
    request: Option<String>,
    /// Any other price: NAME=AMOUNT, for example audio_in=40. May be repeated
    #[arg(long, value_parser = pair, value_name = "NAME=AMOUNT")]
    price: Vec<(String, String)>,
}

impl Kind for PriceFields {
    const PLURAL: &'static str = "prices";
    const NOUN: &'static str = "price";
    const SAMPLE: &'static str = "prc_01JDXK3V5M8Q2W7RZ4T6Y9BCDE";
    const IS_NAMED: bool = false;
    const COLUMNS: &'static [(&'static str, &'static str, Set)] = &[
        ("PROVIDER", "/provider", Set::Cut),
        ("MODEL", "/model", Set::Cut),
        ("GROUP", "/group", Set::Cut),
        ("CUR", "/currency", Set::Whole),
        ("INPUT", "/input", Set::Right),
        ("OUTPUT", "/output", Set::Right),
        ("VALID FROM@", "/valid_from", Set::Whole),
        ("ID", "/id", Set::Whole),
    ];
    const CREATES: &'static [&'static str] = &[
        "--provider up --model 'o4*' --input 1 --output 4",
        "--provider up --model m --group resellers --input 3",
        "--provider up --model m --price audio_in=40",
        "--provider up --model m --set 'tiers.batch.input=\"1\"'",
    ];
    const UPDATES: &'static [&'static str] = &["{} --input 0.12"];

    fn fill(&self, body: &mut Map<String, Value>, now_unix_ms: u64) -> Result<(), String> {
        put(body, "provider", &self.provider);
        put(body, "model", &self.model);
        put(body, "group", &self.group);
        put(body, "currency", &self.currency);
        if let Some(text) = &self.valid_from {
            body.insert("valid_from".to_owned(), json!(when::ahead(text, now_unix_ms)?));
        }
        put(body, "input", &self.input);
        put(body, "output", &self.output);
        put(body, "cached_read", &self.cached_read);
        put(body, "cache_write", &self.cache_write);
        put(body, "reasoning", &self.reasoning);
        put(body, "request", &self.request);
        for (name, amount) in &self.price {
            body.insert(name.clone(), json!(amount));
        }
        Ok(())
    }
}

#[derive(Args)]
pub(crate) struct RateFields {
    /// One unit of this currency …
    #[arg(long, value_name = "CODE")]
    from: Option<String>,
    /// … in this one …
    #[arg(long, value_name = "CODE")]
    to: Option<String>,
    /// … is worth so much
    #[arg(long, value_name = "NUMBER")]
    rate: Option<String>,
    /// From when it holds: now, a date, RFC 3339, or 7d from now; without it, always, until a dated
    /// one takes over
    #[arg(long, value_name = "WHEN")]
    valid_from: Option<String>,
}

impl Kind for RateFields {
    const PLURAL: &'static str = "rates";
    const NOUN: &'static str = "rate";
    const SAMPLE: &'static str = "rat_01JDXK3V5M8Q2W7RZ4T6Y9BCDE";
    const IS_NAMED: bool = false;
    const COLUMNS: &'static [(&'static str, &'static str, Set)] = &[
        ("FROM", "/from", Set::Whole),
        ("TO", "/to", Set::Whole),
        ("RATE", "/rate", Set::Right),
        ("VALID FROM@", "/valid_from", Set::Whole),
        ("STATUS", "/status", Set::Whole),
        ("ID", "/id", Set::Whole),
    ];
    const CREATES: &'static [&'static str] = &[
        "--from USD --to EUR --rate 0.92",
        "--from USD --to EUR --rate 0.93 --valid-from 2026-02-01",
    ];
    const UPDATES: &'static [&'static str] = &["{} --rate 0.925"];

    fn fill(&self, body: &mut Map<String, Value>, now_unix_ms: u64) -> Result<(), String> {
        put(body, "from", &self.from);
        put(body, "to", &self.to);
        put(body, "rate", &self.rate);
        if let Some(text) = &self.valid_from {
            body.insert("valid_from".to_owned(), json!(when::ahead(text, now_unix_ms)?));
        }
        Ok(())
    }
}

#[derive(Args)]
pub(crate) struct PrincipalFields {
    /// Their name
    #[arg(long)]
    name: Option<String>,
    /// What they may do: everything, one account, one project, or reading
    #[arg(long, value_parser = ["owner", "admin", "manager", "viewer"])]
    role: Option<String>,
    /// The account that they are bound to
    #[arg(long)]
    account: Option<String>,
    /// The project that they are bound to
    #[arg(long)]
    project: Option<String>,
    /// When the token ends: 90d from now, a date, RFC 3339, or never
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
}

impl Kind for PrincipalFields {
    const PLURAL: &'static str = "principals";
    const NOUN: &'static str = "principal";
    const SAMPLE: &'static str = "ana";
    const BLOCK: &'static str = "Refuse a principal's token from now on";
    const FILTERS: &'static [&'static str] = &["account", "project"];
    const COLUMNS: &'static [(&'static str, &'static str, Set)] = &[
        ("NAME", "/name", Set::Cut),
        ("ROLE", "/role", Set::Whole),
        ("ACCOUNT", "/account", Set::Cut),
        ("PROJECT", "/project", Set::Cut),
        ("EXPIRES@", "/expires_at", Set::Whole),
        ("ID", "/id", Set::Whole),
    ];
    const CREATES: &'static [&'static str] = &[
        "{} --role admin --account acme --expires 90d",
        "ci --role manager --project search",
        "auditor --role viewer",
    ];
    const UPDATES: &'static [&'static str] = &["{} --role viewer", "{} --expires 365d"];

    fn fill(&self, body: &mut Map<String, Value>, now_unix_ms: u64) -> Result<(), String> {
        put(body, "name", &self.name);
        put(body, "role", &self.role);
        put(body, "account", &self.account);
        put(body, "project", &self.project);
        put_expiry(body, &self.expires, now_unix_ms)
    }
}
