//! From values to settings, table by table, with the rules that hold within one table. What is at
//! fault is noted; a `Config` of which anything was noted is thrown away by the caller.

use std::collections::BTreeSet;
use std::time::Duration;

use super::choices::{
    AccessLog, Dialect, Level, OnDisconnect, Policy, Protocol, Unpriced, WhenFull,
};
use super::fault::{Sink, quote};
use super::net::{BaseUrl, is_host_name};
use super::presets::{self, ProviderPreset};
use super::secret::Secret;
use super::settings::{
    Admin, Certificate, Config, Fsync, Limits, Log, Model, Pool, Provider, ProviderTimeouts,
    ProviderTls, Queue, Retry, Server, Store, StorePath, Target, TargetModel, Timeouts, Tls,
};
use super::values::{Node, Value};

mod callers;
mod prices;

pub(super) use prices::{Included, currencies, documents, is_between};

/// Below this a secret can be guessed.
const SHORT_SECRET_CHARS: usize = 8;

/// Builds the settings of the whole file; `included` are the further files of prices.
pub(super) fn config(root: &Node, included: &mut [Included<'_>], sink: &mut Sink<'_>) -> Config {
    let accounts = callers::accounts(root, sink);
    let projects = callers::projects(root);
    let users = callers::users(root);
    let keys = root.nodes("key").iter();
    let keys = keys.map(|node| callers::key(node, &projects, &users, sink)).collect();
    let providers: Vec<Provider> =
        root.nodes("provider").iter().map(|node| provider(node, sink)).collect();
    let models: Vec<Model> = root.nodes("model").iter().map(|node| model(node, sink)).collect();
    let config = Config {
        server: server(root.node("server"), sink),
        admin: admin(root.node("admin"), sink),
        store: store(root.node("store")),
        log: Log {
            access: AccessLog::from_text(&root.node("log").text("access")),
            level: chosen(root.node("log"), "level", Level::from_name),
        },
        prices: prices::entries(root, included, (&providers, &models), sink),
        default_price: prices::default(root.node("prices"), sink),
        price_groups: prices::groups(root),
        rates: prices::rates(root, sink),
        providers,
        models,
        accounts,
        projects,
        users,
        keys,
    };
    prices::unpriced(&config, root, sink);
    prices::free_budgets(&config, root, sink);
    config
}

/// The setting behind a word that reading has already found among the choices.
fn chosen<T>(node: &Node, key: &str, from_name: fn(&str) -> Option<T>) -> T {
    from_name(&node.text(key)).expect("reading lets only words of the list through")
}

/// What is waiting instead of a refusal, if anything is.
fn queue(node: &Node) -> Option<Queue> {
    let queue = node.node_if("queue")?;
    Some(Queue { wait: queue.duration("wait"), depth: queue.integer("depth") })
}

/// The setting behind a word, if there is one.
fn chosen_if<T>(node: &Node, key: &str, from_name: fn(&str) -> Option<T>) -> Option<T> {
    node.text_if(key).and_then(|word| from_name(&word))
}

fn server(node: &Node, sink: &mut Sink<'_>) -> Server {
    let tls = node.node_if("tls").map(|node| tls(node, sink));
    if node.list("listen").is_empty() && tls.is_none() && !node.item("listen").broken {
        let message = "\"listen\" in [server] is empty, and there is no [server.tls]";
        sink.fault(node.span("listen"), message, "write listen = [\"127.0.0.1:8080\"]");
    }
    let (limits, timeouts, retry) =
        (node.node("limits"), node.node("timeouts"), node.node("retry"));
    Server {
        listen: node.addresses("listen"),
        workers: node.integer("workers"),
        trusted_proxies: node.networks("trusted_proxies"),
        keep_alive_comment: node.duration_or_word("keep_alive_comment"),
        over_budget_status: node.integer("over_budget_status"),
        tls,
        limits: Limits {
            body_bytes: limits.size("body"),
            headers_bytes: limits.size("headers"),
            header_count: limits.integer("header_count"),
            uri_bytes: limits.size("uri"),
            connections: limits.integer("connections"),
            streams_per_connection: limits.integer("streams_per_connection"),
            requests: limits.integer("requests"),
            body_memory_bytes: body_memory(limits, sink),
        },
        timeouts: Timeouts {
            header: timeouts.duration("header"),
            body: timeouts.duration("body"),
            idle: timeouts.duration("idle"),
            write: timeouts.duration("write"),
            tls_handshake: timeouts.duration("tls_handshake"),
            drain: timeouts.duration("drain"),
        },
        retry: Retry {
            attempts: retry.integer("attempts"),
            budget_share: retry.number("budget"),
            budget_min_per_second: retry.integer("budget_min"),
            hold_max: retry.duration("hold_max"),
            hold_bytes: retry.size("hold_bytes"),
        },
    }
}

/// A body that may be sent must also fit.
fn body_memory(limits: &Node, sink: &mut Sink<'_>) -> u64 {
    let (one, all) = (limits.size("body"), limits.size("body_memory"));
    let sound = !limits.item("body").broken && !limits.item("body_memory").broken;
    if all < one && sound {
        let message =
            "\"body_memory\" in [server.limits] is less than body: no body of that size fits";
        let given = if limits.is_given("body_memory") { "body_memory" } else { "body" };
        sink.fault(limits.span(given), message, "raise body_memory, or lower body");
    }
    all
}

fn tls(node: &Node, sink: &mut Sink<'_>) -> Tls {
    if node.bool_or("http3", false) {
        let message = "\"http3\" is not available in this version of foretoken";
        sink.fault(node.span("http3"), message, "remove it");
    }
    let certificate = |node: &Node| Certificate {
        cert: node.pem_if("cert").unwrap_or_default(),
        key: node.pem_if("key").unwrap_or_default(),
    };
    for key in ["listen", "certificates"] {
        let none = node.list(key).is_empty() && node.nodes(key).is_empty();
        if none && !node.item(key).broken {
            let message = format!("\"{key}\" in [server.tls] is empty");
            sink.fault(node.span(key), message, "add one, or remove the table [server.tls]");
        }
    }
    Tls {
        listen: node.addresses("listen"),
        certificates: node.nodes("certificates").iter().map(certificate).collect(),
    }
}

fn admin(node: &Node, sink: &mut Sink<'_>) -> Admin {
    let listen = match node.item("listen").value {
        Value::Address(address) => address,
        _ => None,
    };
    let token = node.secret_if("token");
    if let (Some(address), None) = (listen, &token)
        && !address.ip().to_canonical().is_loopback()
        && !node.item("token").broken
    {
        let message =
            format!("[admin] listens on {address}, which others can reach, without a token");
        sink.fault(node.span("listen"), message, "add token = \"env:FORETOKEN_ADMIN_TOKEN\"");
    }
    short(node, "token", token.as_ref(), sink);
    Admin { listen, token }
}

fn short(node: &Node, key: &str, secret: Option<&Secret>, sink: &mut Sink<'_>) {
    if secret.is_some_and(|secret| secret.expose().chars().count() < SHORT_SECRET_CHARS) {
        let message = format!(
            "{} in {} has fewer than {SHORT_SECRET_CHARS} characters and can be guessed",
            quote(key),
            node.label
        );
        sink.warn(node.span(key), message, "use a longer one");
    }
}

fn store(node: &Node) -> Store {
    let path = match &node.item("path").value {
        Value::Path(path) if path.as_os_str() == ":memory:" => StorePath::Memory,
        Value::Path(path) => StorePath::File(path.clone()),
        _ => StorePath::Memory,
    };
    let fsync = node.duration_or_word("fsync").map_or(Fsync::Always, Fsync::Every);
    Store {
        path,
        journal_bytes: node.size("journal"),
        fsync,
        flush: node.duration("flush"),
        when_full: chosen(node, "when_full", WhenFull::from_name),
        retention: node.duration_or_word("retention"),
    }
}

fn provider(node: &Node, sink: &mut Sink<'_>) -> Provider {
    let preset = node.text_if("preset").and_then(|name| presets::find(&name));
    let base_url = base_url(node, preset.map(|preset| preset.base_url), sink);
    let api_keys = api_keys(node, sink);
    if base_url.is_exposed() && !api_keys.is_empty() {
        let message = format!(
            "the keys of [[provider]] {} go over {base_url} in clear",
            quote(&node.text("name"))
        );
        sink.warn(node.span("base_url"), message, "use https");
    }
    keyless(node, preset, &api_keys, sink);
    let dialect = match preset {
        Some(preset) if !node.is_given("dialect") => preset.dialect,
        _ => chosen(node, "dialect", Dialect::from_name),
    };
    let (timeouts, pool) = (node.node("timeouts"), node.node("pool"));
    Provider {
        name: node.text("name"),
        preset: preset.map(|preset| preset.name),
        dialect,
        api_keys,
        protocol: chosen(node, "protocol", Protocol::from_name),
        timeouts: ProviderTimeouts {
            connect: timeouts.duration("connect"),
            first_content: timeouts.duration("first_content"),
            idle: timeouts.duration("idle"),
            total: timeouts.duration_or_word("total").filter(|total| *total > Duration::ZERO),
            drain_max: timeouts.duration("drain_max"),
        },
        pool: Pool {
            min_warm: pool.integer("min_warm"),
            max_streams: pool.integer("max_streams"),
            max_connections: pool.integer("max_connections"),
            max_age: pool.duration_or_word("max_age"),
            idle: pool.duration_or_word("idle"),
        },
        tls: provider_tls(node, &base_url, sink),
        include_usage: node
            .bool_or("include_usage", preset.is_none_or(|preset| preset.include_usage)),
        headers: provider_headers(node, sink),
        on_disconnect: chosen_if(node, "on_disconnect", OnDisconnect::from_name),
        base_url,
    }
}

/// A hosted provider lets nobody in without a key.
fn keyless(node: &Node, preset: Option<&ProviderPreset>, api_keys: &[Secret], sink: &mut Sink<'_>) {
    let Some(preset) = preset.filter(|preset| preset.base_url.starts_with("https://")) else {
        return;
    };
    let headers = match &node.item("headers").value {
        Value::Headers(headers) => headers.as_slice(),
        _ => &[],
    };
    let in_header =
        headers.iter().any(|(name, _)| name == "authorization" || name.ends_with("api-key"));
    // Behind a base URL of its own may be a proxy that adds the key.
    if api_keys.is_empty() && !in_header && !node.is_given("base_url") {
        let message = format!(
            "[[provider]] {} has no key, and {} refuses requests without one",
            quote(&node.text("name")),
            preset.name
        );
        let variable = preset.name.to_ascii_uppercase();
        sink.warn(
            node.span("preset"),
            message,
            format!("add for example api_key = \"env:{variable}_API_KEY\""),
        );
    }
}

/// `authorization` is api_key's, unless there is none.
fn provider_headers(node: &Node, sink: &mut Sink<'_>) -> Vec<(String, Secret)> {
    let Value::Headers(headers) = &node.item("headers").value else { return Vec::new() };
    let keyed = node.is_given("api_key") || node.is_given("api_keys");
    if keyed && headers.iter().any(|(name, _)| name == "authorization") {
        let message = "\"headers\" in [[provider]] has authorization beside a key";
        sink.fault(node.span("headers"), message, "remove one of the two");
    }
    headers.clone()
}

fn base_url(node: &Node, preset: Option<&str>, sink: &mut Sink<'_>) -> BaseUrl {
    if let Value::Url(url) = &node.item("base_url").value {
        return url.clone();
    }
    let known = !node.item("base_url").broken && !node.item("preset").broken;
    if preset.is_none() && known {
        let message = "[[provider]] lacks the key \"base_url\"";
        let cure = "add for example base_url = \"https://api.openai.com/v1\", or a preset";
        sink.fault(&node.span, message, cure);
    }
    // Without one the configuration is at fault already.
    BaseUrl::parse(preset.unwrap_or("http://localhost")).expect("presets are tested")
}

fn api_keys(node: &Node, sink: &mut Sink<'_>) -> Vec<Secret> {
    let one = node.secret_if("api_key");
    let list = node.item("api_keys");
    if one.is_some() && list.given {
        let message = "[[provider]] has both \"api_key\" and \"api_keys\"";
        sink.fault(&list.span, message, "remove one of the two");
    }
    if list.given && !list.broken && node.list("api_keys").is_empty() {
        sink.fault(&list.span, "\"api_keys\" in [[provider]] is empty", "add a key, or remove it");
    }
    let mut keys: Vec<Secret> = one.into_iter().collect();
    for item in node.list("api_keys") {
        let Value::Secret(secret) = &item.value else { continue };
        if keys.contains(secret) && node.secret_if("api_key").is_none() {
            sink.fault(
                &item.span,
                "\"api_keys\" in [[provider]] has the same key twice",
                "remove one",
            );
        }
        keys.push(secret.clone());
    }
    keys
}

fn provider_tls(node: &Node, base_url: &BaseUrl, sink: &mut Sink<'_>) -> ProviderTls {
    let tls = node.node("tls");
    let server_name = tls.text_if("server_name").filter(|name| !name.is_empty());
    if let Some(name) = &server_name
        && !is_host_name(name)
    {
        let message = format!(
            "\"server_name\" in tls of [[provider]] must be a host name, not {}",
            quote(name)
        );
        sink.fault(tls.span("server_name"), message, "write for example \"llm.internal\"");
    }
    if node.is_given("tls") && node.is_given("base_url") && !base_url.https {
        let message = "\"tls\" in [[provider]] has no effect: base_url begins with http://";
        sink.warn(node.span("tls"), message, "use https, or remove it");
    }
    ProviderTls { ca: tls.pem_if("ca"), server_name }
}

fn model(node: &Node, sink: &mut Sink<'_>) -> Model {
    let name = node.text("name");
    if let Some(at) = name.find('*')
        && (at + 1 != name.len() || (at > 0 && !name[..at].ends_with('/')))
    {
        let message = format!("\"name\" in [[model]] has a misplaced star: {}", quote(&name));
        sink.fault(node.span("name"), message, "write a whole name, \"prefix/*\" or \"*\"");
    }
    let targets = node.nodes("targets");
    if targets.is_empty() && !node.item("targets").broken {
        let cure = "add for example { provider = \"openai\" }";
        sink.fault(node.span("targets"), "\"targets\" in [[model]] is empty", cure);
    }
    let targets: Vec<Target> =
        targets.iter().map(|target| self::target(target, &name, sink)).collect();
    let mut seen = BTreeSet::new();
    for (target, node) in targets.iter().zip(node.nodes("targets")) {
        let upstream = match &target.model {
            TargetModel::AsAsked => "*",
            TargetModel::Named(name) => name,
        };
        if !target.provider.is_empty() && !seen.insert((&target.provider, upstream)) {
            let message =
                format!("\"targets\" in [[model]] has {}/{upstream} twice", target.provider);
            sink.fault(&node.span, message, "remove one, and give the other its weight");
        }
    }
    weights(node, &targets, sink);
    Model {
        name,
        policy: chosen(node, "policy", Policy::from_name),
        targets,
        fallbacks: node.texts("fallbacks"),
        rewrite_model: node.bool_or("rewrite_model", false),
        max_output_tokens: node.integer_if("max_output"),
        unpriced: chosen(node, "unpriced", Unpriced::from_name),
        queue: queue(node),
        on_disconnect: chosen_if(node, "on_disconnect", OnDisconnect::from_name),
    }
}

fn weights(node: &Node, targets: &[Target], sink: &mut Sink<'_>) {
    let sound = node.nodes("targets").iter().all(|target| !target.item("weight").broken);
    if sound && !targets.is_empty() && targets.iter().all(|target| target.weight == 0) {
        let message = "\"targets\" in [[model]] all have the weight 0: none is ever asked";
        sink.fault(node.span("targets"), message, "give one of them a weight");
    }
}

fn target(node: &Node, alias: &str, sink: &mut Sink<'_>) -> Target {
    let name = node.text_if("model").unwrap_or_else(|| alias.to_owned());
    let model = if name == "*" || (!node.is_given("model") && name.ends_with('*')) {
        TargetModel::AsAsked
    } else {
        if name.contains('*') && node.is_given("model") {
            let message =
                format!("\"model\" in {} has a misplaced star: {}", node.label, quote(&name));
            sink.fault(
                node.span("model"),
                message,
                "write the model's name, or \"*\" to pass on what was asked for",
            );
        }
        TargetModel::Named(name)
    };
    Target {
        provider: node.text("provider"),
        model,
        weight: node.integer("weight"),
        priority: node.integer("priority"),
        on_disconnect: chosen_if(node, "on_disconnect", OnDisconnect::from_name),
    }
}
