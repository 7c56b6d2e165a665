//! What one table says of another: duplicate names, references to nothing, circles.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::fault::{Sink, did_you_mean, quote};
use super::itself;
use super::secret::Digest;
use super::values::{Item, Node, Span, Value};

/// What exists without being written down.
pub(super) const DEFAULT: &str = "default";

/// Checks names and references of the whole file.
pub(super) fn names(root: &Node, sink: &mut Sink<'_>) {
    for table in ["provider", "model", "price_group", "account", "project", "user", "key"] {
        duplicates(root.nodes(table), sink);
    }
    itself::check(root, sink);
    listeners(root, sink);
    let names = |table| Names::of(root, table);
    let (providers, models, users) = (names("provider"), names("model"), names("user"));
    let (accounts, projects) = (names("account"), names("project"));
    for model in root.nodes("model") {
        for target in model.nodes("targets") {
            refers(target, "provider", &providers, sink);
        }
        fallbacks(model, &models, sink);
    }
    for price in root.nodes("price") {
        priced(price, &providers, sink);
    }
    price_groups(root, root.nodes("price"), sink);
    let groups = names("price_group");
    for account in root.nodes("account") {
        refers(account, "price_group", &groups, sink);
        limited(account, &models, sink);
    }
    for node in root.nodes("project").iter().chain(root.nodes("user")) {
        refers(node, "account", &accounts, sink);
        limited(node, &models, sink);
    }
    for project in root.nodes("project") {
        reach(project, &models, sink);
    }
    for key in root.nodes("key") {
        limited(key, &models, sink);
        aliases(key, &models, sink);
        refers(key, "project", &projects, sink);
        refers(key, "user", &users, sink);
        reach(key, &models, sink);
    }
    circles(root.nodes("model"), sink);
    secrets(root.nodes("key"), sink);
    emptiness(root, sink);
}

/// Checks the groups of prices, which may stand in another file than `root`.
pub(super) fn price_groups(root: &Node, prices: &[Node], sink: &mut Sink<'_>) {
    let groups = Names::of(root, "price_group");
    for price in prices {
        refers(price, "group", &groups, sink);
    }
}

/// The names that may be referred to.
struct Names {
    label: String,
    names: Vec<String>,
    /// A name was at fault: it may be the one that a reference means.
    partial: bool,
}

impl Names {
    fn of(root: &Node, table: &str) -> Names {
        let nodes = root.nodes(table);
        let mut names: Vec<String> = nodes.iter().filter_map(name).collect();
        let partial = names.len() < nodes.len() || root.item(table).broken;
        if ["account", "project"].contains(&table) {
            names.push(DEFAULT.to_owned());
        }
        Names { label: format!("[[{table}]]"), names, partial }
    }

    fn iter(&self) -> impl Iterator<Item = &str> + Clone {
        self.names.iter().map(String::as_str)
    }

    /// Notes it if `wanted`, the value of `key` at `span`, is none of them.
    fn look_up(&self, node: &Node, key: &str, wanted: &str, span: &Span, sink: &mut Sink<'_>) {
        if self.partial || wanted.is_empty() || self.iter().any(|name| name == wanted) {
            return;
        }
        let (key, what) = (quote(key), &self.label);
        let message =
            format!("{key} in {} names {}, which is no {what}", node.label, quote(wanted));
        sink.fault(span, message, did_you_mean(wanted, self.iter(), what));
    }
}

/// The name of a table of a list, unless that is at fault.
fn name(node: &Node) -> Option<String> {
    node.text_if("name").filter(|name| !name.is_empty())
}

fn duplicates(nodes: &[Node], sink: &mut Sink<'_>) {
    let mut seen = BTreeSet::new();
    for node in nodes {
        let Some(name) = name(node) else { continue };
        if seen.contains(&name) {
            let message = format!("{} has the name {} twice", node.label, quote(&name));
            sink.fault(node.span("name"), message, "choose another name, or merge the two");
        }
        seen.insert(name);
    }
}

fn listeners(root: &Node, sink: &mut Sink<'_>) {
    let server = root.node("server");
    let mut all: Vec<(SocketAddr, Span, &str)> = Vec::new();
    let mut add = |item: &Item, label: &'static str, sink: &mut Sink<'_>| {
        let Value::Address(Some(address)) = item.value else { return };
        // Port 0 is a different one each time.
        let taken = all.iter().find(|(other, _, _)| *other == address && address.port() != 0);
        if let Some((_, _, other)) = taken {
            let message = format!("\"listen\" in {label} has {address}, which {other} has already");
            sink.fault(&item.span, message, "choose another port");
        }
        all.push((address, item.span.clone(), label));
    };
    for item in server.list("listen") {
        add(item, "[server]", sink);
    }
    for item in server.node_if("tls").map_or(&[][..], |tls| tls.list("listen")) {
        add(item, "[server.tls]", sink);
    }
    add(root.node("admin").item("listen"), "[admin]", sink);
}

fn refers(node: &Node, key: &str, names: &Names, sink: &mut Sink<'_>) {
    if let Some(wanted) = node.text_if(key) {
        names.look_up(node, key, &wanted, node.span(key), sink);
    }
}

fn fallbacks(model: &Node, models: &Names, sink: &mut Sink<'_>) {
    for item in model.list("fallbacks") {
        if let Value::Text(wanted) = &item.value {
            models.look_up(model, "fallbacks", wanted, &item.span, sink);
        }
    }
}

/// Follows fallbacks from each model; a circle is told once, at the fallback that closes it.
fn circles(models: &[Node], sink: &mut Sink<'_>) {
    let edges: BTreeMap<String, Vec<(String, Span)>> = models
        .iter()
        .filter_map(|model| {
            let edge = |item: &Item| match &item.value {
                Value::Text(to) => Some((to.clone(), item.span.clone())),
                _ => None,
            };
            Some((name(model)?, model.list("fallbacks").iter().filter_map(edge).collect()))
        })
        .collect();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for start in edges.keys() {
        // Depth first with a path of our own: a long chain must not overflow the stack.
        let mut path: Vec<(&str, usize)> = vec![(start, 0)];
        while let Some((at, next)) = path.last_mut() {
            let at = *at;
            let edge = edges.get(at).and_then(|list| list.get(*next));
            *next += 1;
            let Some((to, span)) = edge.filter(|_| !done.contains(at)) else {
                done.insert(at);
                path.pop();
                continue;
            };
            if let Some(from) = path.iter().position(|(name, _)| *name == to) {
                let mut round: Vec<&str> = path[from..].iter().map(|(name, _)| *name).collect();
                round.push(to);
                let message =
                    format!("\"fallbacks\" in [[model]] go in a circle: {}", round.join(" -> "));
                sink.fault(span, message, "remove one of them");
            } else if edges.contains_key(to) && !done.contains(to.as_str()) {
                path.push((to, 0));
            }
        }
    }
}

/// The digest of what callers present for a key.
pub(super) fn digest(key: &Node) -> Option<Digest> {
    match &key.item("sha256").value {
        Value::Digest(digest) => Some(*digest),
        _ => key.secret_if("secret").map(|secret| secret.digest()),
    }
}

fn secrets(keys: &[Node], sink: &mut Sink<'_>) {
    let mut seen: BTreeMap<Digest, String> = BTreeMap::new();
    for key in keys {
        let Some(digest) = digest(key) else { continue };
        let own = name(key).unwrap_or_default();
        let span = if key.is_given("secret") { key.span("secret") } else { key.span("sha256") };
        if let Some(other) = seen.get(&digest) {
            let message =
                format!("[[key]] {} has the same secret as {}", quote(&own), quote(other));
            sink.fault(span, message, "give each key a secret of its own");
        }
        seen.insert(digest, own);
    }
}

/// A price is of no use without its provider; but the provider may be taken out for a while.
fn priced(price: &Node, providers: &Names, sink: &mut Sink<'_>) {
    let wanted = price.text_if("provider").filter(|name| !name.is_empty()).unwrap_or_default();
    if providers.partial || wanted.is_empty() || providers.iter().any(|name| name == wanted) {
        return;
    }
    let message =
        format!("\"provider\" in [[price]] names {}, which is no [[provider]]", quote(&wanted));
    let cure = did_you_mean(&wanted, providers.iter(), "[[provider]]");
    sink.warn(price.span("provider"), message, cure);
}

/// A limit for a model that there is not limits nothing.
fn limited(node: &Node, models: &Names, sink: &mut Sink<'_>) {
    let Some(limits) = node.node_if("limits") else { return };
    for (alias, of_model) in limits.named("models") {
        if models.partial || models.iter().any(|model| overlaps(alias, model)) {
            continue;
        }
        let message =
            format!("\"models\" in limits has {}, which is no [[model]] here", quote(alias));
        sink.warn(&of_model.span, message, did_you_mean(alias, models.iter(), "[[model]]"));
    }
}

/// What a key's own names stand for must be there.
fn aliases(key: &Node, models: &Names, sink: &mut Sink<'_>) {
    for (_, item) in key.pairs("aliases") {
        let Value::Text(wanted) = &item.value else { continue };
        if !models.iter().any(|model| overlaps(wanted, model)) {
            models.look_up(key, "aliases", wanted, &item.span, sink);
        }
    }
}

/// A pattern that lets nothing through is most likely a slip.
fn reach(node: &Node, models: &Names, sink: &mut Sink<'_>) {
    for item in node.list("models") {
        let Value::Text(text) = &item.value else { continue };
        if text.is_empty() || models.names.is_empty() {
            continue;
        }
        if !models.iter().any(|model| overlaps(text, model)) {
            let (label, pattern) = (node.label, quote(text));
            let message =
                format!("\"models\" in {label} has {pattern}, which is no [[model]] here");
            let cure = did_you_mean(text, models.iter(), "[[model]]");
            sink.warn(&item.span, message, cure);
        }
    }
}

/// Could a name match both? Only the parts before the first star are compared, which is enough for
/// a warning.
fn overlaps(pattern: &str, model: &str) -> bool {
    let literal = |text: &str| text.split('*').next().unwrap_or("").len();
    let (a, b) = (literal(pattern), literal(model));
    let common = a.min(b);
    if pattern.as_bytes()[..common] != model.as_bytes()[..common] {
        return false;
    }
    let (pattern_ends, model_ends) = (a == pattern.len(), b == model.len());
    match (pattern_ends, model_ends) {
        (true, true) => a == b,
        (true, false) => a >= b,
        (false, true) => b >= a,
        (false, false) => true,
    }
}

fn emptiness(root: &Node, sink: &mut Sink<'_>) {
    for (table, consequence) in [
        ("provider", "no request can be served"),
        ("model", "no request can be served"),
        ("key", "nobody is let in"),
    ] {
        if root.nodes(table).is_empty() && !root.item(table).broken {
            sink.warn(&(0..0), format!("there is no [[{table}]]: {consequence}"), "add one");
        }
    }
}
