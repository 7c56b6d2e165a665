//! Accounts, projects, users, keys, and their limits.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::tz::TimeZone;

use super::super::check::{DEFAULT, digest};
use super::super::choices::{Billing, Endpoint};
use super::super::fault::{Sink, quote};
use super::super::secret::Digest;
use super::super::settings::{Account, Key, Project, User};
use super::super::values::{Item, Node, Span, Value};
use super::{chosen, queue, short};
use crate::clock;
use crate::limits::{BudgetLimit, LimitSet, Limits, Overrun};
use crate::money::Currency;

pub(super) fn accounts(root: &Node, sink: &mut Sink<'_>) -> Vec<Account> {
    let nodes = root.nodes("account").iter();
    let mut accounts: Vec<Account> = nodes.map(|node| account(node, sink)).collect();
    if accounts.iter().all(|account| account.name != DEFAULT) {
        accounts.insert(
            0,
            Account {
                name: DEFAULT.into(),
                currency: Currency::USD,
                billing: Billing::Postpaid,
                balance_pico: None,
                time_zone: TimeZone::UTC,
                price_group: None,
                markup_bps: None,
                queue: None,
                limits: None,
                metadata: serde_json::Map::new(),
            },
        );
    }
    accounts
}

fn account(node: &Node, sink: &mut Sink<'_>) -> Account {
    let billing = chosen(node, "billing", Billing::from_name);
    let (balance, is_sound) = (node.item("balance"), !node.item("billing").broken);
    match billing {
        Billing::Prepaid if !balance.given => {
            let name = quote(&node.text("name"));
            let message = format!("[[account]] {name} is prepaid and lacks the key \"balance\"");
            sink.fault(&node.span, message, "add for example balance = \"100.00\"");
        }
        Billing::Postpaid if balance.given && is_sound => {
            let message = "\"balance\" in [[account]] has no effect: billing is \"postpaid\"";
            sink.fault(&balance.span, message, "write billing = \"prepaid\", or remove it");
        }
        _ => {}
    }
    Account {
        name: node.text("name"),
        currency: node.currency("currency"),
        billing,
        balance_pico: node
            .amount_if("balance")
            .map(|pico| i128::try_from(pico).expect("amounts have a bound")),
        time_zone: node.time_zone("timezone"),
        price_group: node.text_if("price_group").filter(|name| !name.is_empty()),
        markup_bps: node.integer_if("markup"),
        queue: queue(node),
        limits: limits(node),
        metadata: node.object("metadata"),
    }
}

pub(super) fn projects(root: &Node) -> Vec<Project> {
    let project = |node: &Node| Project {
        name: node.text("name"),
        account: node.text("account"),
        models: node.texts("models"),
        limits: limits(node),
        tags: node.texts("tags"),
        metadata: node.object("metadata"),
    };
    let mut projects: Vec<Project> = root.nodes("project").iter().map(project).collect();
    if projects.iter().all(|project| project.name != DEFAULT) {
        projects.insert(
            0,
            Project {
                name: DEFAULT.into(),
                account: DEFAULT.into(),
                models: vec!["*".into()],
                limits: None,
                tags: Vec::new(),
                metadata: serde_json::Map::new(),
            },
        );
    }
    projects
}

pub(super) fn users(root: &Node) -> Vec<User> {
    let user = |node: &Node| User {
        name: node.text("name"),
        account: node.text("account"),
        email: node.text_if("email"),
        limits: limits(node),
    };
    root.nodes("user").iter().map(user).collect()
}

/// What limits the scope that `node` describes; nothing if that is nothing.
fn limits(node: &Node) -> Option<Arc<LimitSet>> {
    let node = node.node_if("limits")?;
    let models = node.named("models").iter();
    let models: BTreeMap<String, Limits> =
        models.map(|(alias, node)| (alias.clone(), limits_of(node))).collect();
    // The revision is for whoever puts it in force: here it would make equal files differ.
    let set = LimitSet { all: limits_of(node), models, revision: 0 };
    Some(Arc::new(set)).filter(|set| !set.says_nothing())
}

fn limits_of(node: &Node) -> Limits {
    let budget = |node: &Node| BudgetLimit {
        amount_pico: node.amount_if("amount").unwrap_or(0),
        period: node.period("per"),
        overrun: chosen(node, "overrun", Overrun::parse),
        soft: node.bool_or("soft", false),
    };
    Limits {
        rpm: node.integer_if("rpm"),
        tpm: node.integer_if("tpm"),
        tpd: node.integer_if("tpd"),
        parallel: node.integer_if("parallel"),
        overrun: chosen(node, "overrun", Overrun::parse),
        budgets: node.nodes("budget").iter().map(budget).collect(),
    }
}

pub(super) fn key(node: &Node, projects: &[Project], users: &[User], sink: &mut Sink<'_>) -> Key {
    let (secret, sha256) = (node.item("secret"), node.item("sha256"));
    if secret.given && sha256.given {
        let message = "[[key]] has both \"secret\" and \"sha256\"";
        sink.fault(&sha256.span, message, "remove one of the two");
    } else if !secret.given && !sha256.given {
        let cure = "add for example secret = \"env:CHAT_BACKEND_KEY\"";
        sink.fault(&node.span, "[[key]] has neither \"secret\" nor \"sha256\"", cure);
    }
    short(node, "secret", node.secret_if("secret").as_ref(), sink);
    if let Value::Secret(secret) = &secret.value
        && !secret.expose().bytes().all(|b| b.is_ascii_graphic())
    {
        let message = "\"secret\" in [[key]] has characters that no header line carries";
        sink.fault(node.span("secret"), message, "use letters, digits and signs of ASCII");
    }
    if node.time_if("expires_at").is_some_and(|unix_ms| unix_ms <= clock::unix_ms()) {
        let message = format!("[[key]] {} has expired already", quote(&node.text("name")));
        sink.warn(node.span("expires_at"), message, "set a later time, or remove the key");
    }
    let project = node.text("project");
    let account = projects.iter().find(|other| other.name == project);
    let account = account.map_or(DEFAULT, |project| &project.account).to_owned();
    let user = node.text_if("user").filter(|name| !name.is_empty());
    same_account(node, &account, user.as_deref(), users, node.span("user"), sink);
    let endpoint = |item: &Item| match &item.value {
        Value::Text(word) => Endpoint::from_name(word),
        _ => None,
    };
    Key {
        name: node.text("name"),
        project,
        account,
        user,
        sha256: digest(node).unwrap_or(Digest([0; 32])),
        models: node.texts("models"),
        deny_models: node.texts("deny_models"),
        aliases: aliases(node),
        limits: limits(node),
        endpoints: node.list("endpoints").iter().filter_map(endpoint).collect(),
        cidrs: node.networks("cidrs"),
        expires_at_unix_ms: node.time_if("expires_at"),
        tags: node.texts("tags"),
        metadata: node.object("metadata"),
    }
}

fn aliases(node: &Node) -> Vec<(String, String)> {
    let text = |item: &Item| match &item.value {
        Value::Text(text) => text.clone(),
        _ => String::new(),
    };
    node.pairs("aliases").iter().map(|(name, item)| (name.clone(), text(item))).collect()
}

/// Two accounts could not both pay.
fn same_account(
    node: &Node,
    account: &str,
    user: Option<&str>,
    users: &[User],
    span: &Span,
    sink: &mut Sink<'_>,
) {
    let Some(user) = user.and_then(|name| users.iter().find(|user| user.name == name)) else {
        return;
    };
    if user.account != account {
        let message = format!(
            "[[key]] {} has a project of the account {} and a user of the account {}",
            quote(&node.text("name")),
            quote(account),
            quote(&user.account)
        );
        sink.fault(span, message, "choose a user of the same account");
    }
}
