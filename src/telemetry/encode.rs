//! Prints the counters in the text format of Prometheus (version 0.0.4).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::metrics::{
    OVERHEAD_BOUNDS_US, Registry, Series, Shard, TOKEN_KINDS, TTFT_BOUNDS_US, outcome_label,
    status_label,
};
use super::process;
use crate::error::TABLE;

/// What is read at scrape time from other rooms. A label that does not apply stays out.
#[derive(Default, Debug)]
pub struct Gauges {
    families: BTreeMap<Gauge, Vec<(String, String)>>,
}

/// The families, in the order in which they are printed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Gauge {
    BreakerState,
    PoolConnections,
    Connections,
    JournalBytes,
    FlushLag,
    CommitFailures,
    JournalRefused,
    JournalDropped,
    Cost,
    Charge,
    Unpriced,
    SoftBudgets,
    ConfigGeneration,
    ConfigLastReloadSuccess,
    AccessLogDropped,
}

impl Gauge {
    /// Name, type and help.
    fn head(self) -> [&'static str; 3] {
        match self {
            Gauge::BreakerState => [
                "foretoken_breaker_state",
                "gauge",
                "Breaker of the target: 0 closed, 1 half open, 2 open.",
            ],
            Gauge::PoolConnections => {
                ["foretoken_pool_connections", "gauge", "Connections to upstreams."]
            }
            Gauge::Connections => ["foretoken_connections", "gauge", "Connections of callers."],
            Gauge::JournalBytes => [
                "foretoken_journal_bytes",
                "gauge",
                "Bytes of the journal that are not yet stored.",
            ],
            Gauge::FlushLag => [
                "foretoken_flush_lag_seconds",
                "gauge",
                "Age of the oldest record that is not in the store yet.",
            ],
            Gauge::CommitFailures => [
                "foretoken_store_failures_total",
                "counter",
                "Attempts to move the journal into the store that failed and were made again.",
            ],
            Gauge::JournalRefused => [
                "foretoken_journal_refused_total",
                "counter",
                "Requests that were refused because the journal had no room.",
            ],
            Gauge::JournalDropped => [
                "foretoken_journal_dropped_total",
                "counter",
                "Requests that were served without a record, as store.when_full allows.",
            ],
            Gauge::Cost => [
                "foretoken_cost_total",
                "counter",
                "What the upstreams are owed, in units of the account's currency.",
            ],
            Gauge::Charge => [
                "foretoken_charge_total",
                "counter",
                "What the accounts are charged, in units of their currency.",
            ],
            Gauge::Unpriced => [
                "foretoken_unpriced_total",
                "counter",
                "Requests that cost nothing because their model has no price.",
            ],
            Gauge::SoftBudgets => [
                "foretoken_soft_budgets_passed_total",
                "counter",
                "Soft budgets that were passed, each once in its period.",
            ],
            Gauge::ConfigGeneration => [
                "foretoken_config_generation",
                "gauge",
                "Number of the configuration in use; each accepted load adds one.",
            ],
            Gauge::ConfigLastReloadSuccess => [
                "foretoken_config_last_reload_success",
                "gauge",
                "1 if the last attempt to load the configuration was accepted, else 0.",
            ],
            Gauge::AccessLogDropped => [
                "foretoken_access_log_dropped_total",
                "counter",
                "Lines of the access log that were lost because it could not be written fast enough.",
            ],
        }
    }
}

impl Gauges {
    /// The breaker of a target: 0 closed, 1 half open, 2 open.
    pub fn breaker(&mut self, target: &str, state: u8) {
        self.add(Gauge::BreakerState, &[("target", target)], u64::from(state));
    }

    /// Connections to an origin in one state (`idle`, `active`, `connecting`, `draining`).
    pub fn pool(&mut self, origin: &str, protocol: &str, state: &str, count: u64) {
        let labels = [("origin", origin), ("protocol", protocol), ("state", state)];
        self.add(Gauge::PoolConnections, &labels, count);
    }

    /// Callers' connections in one state.
    pub fn connections(&mut self, state: &str, count: u64) {
        self.add(Gauge::Connections, &[("state", state)], count);
    }

    /// Size of the journal.
    pub fn journal(&mut self, bytes: u64) {
        self.add(Gauge::JournalBytes, &[], bytes);
    }

    /// Age of the oldest record that is not in the store yet, attempts to store that failed, requests
    /// that the journal had no room for, and those among them that were served all the same.
    pub fn store(&mut self, lag_ms: u64, failures: u64, no_room: u64, dropped: u64) {
        let refused = no_room.saturating_sub(dropped);
        self.add_text(Gauge::FlushLag, &[], Seconds(lag_ms.saturating_mul(1000)).to_string());
        self.add(Gauge::CommitFailures, &[], failures);
        self.add(Gauge::JournalRefused, &[], refused);
        self.add(Gauge::JournalDropped, &[], dropped);
    }

    /// What requests cost and are charged since the start, as decimal texts.
    pub fn money(&mut self, currency: &str, cost: String, charge: String) {
        self.add_text(Gauge::Cost, &[("currency", currency)], cost);
        self.add_text(Gauge::Charge, &[("currency", currency)], charge);
    }

    /// Requests without a price, and soft budgets that were passed.
    pub fn alerts(&mut self, unpriced: u64, soft_budgets: u64) {
        self.add(Gauge::Unpriced, &[], unpriced);
        self.add(Gauge::SoftBudgets, &[], soft_budgets);
    }

    /// The configuration in use, and whether the last attempt to load another was accepted.
    pub fn config(&mut self, generation: u64, last_reload_success: bool) {
        self.add(Gauge::ConfigGeneration, &[], generation);
        self.add(Gauge::ConfigLastReloadSuccess, &[], u64::from(last_reload_success));
    }

    /// Lines that the access log lost since the start.
    pub fn access_log_dropped(&mut self, lines: u64) {
        self.add(Gauge::AccessLogDropped, &[], lines);
    }

    fn add(&mut self, gauge: Gauge, pairs: &[(&str, &str)], value: u64) {
        self.add_text(gauge, pairs, value.to_string());
    }

    fn add_text(&mut self, gauge: Gauge, pairs: &[(&str, &str)], value: String) {
        self.families.entry(gauge).or_default().push((labels(pairs), value));
    }
}

impl Registry {
    /// Everything, as `/metrics` answers it. `read` is asked for the values that other rooms hold.
    /// Counters that never counted are left out, so that unused pairs cost nothing.
    pub fn encode(&self, read: &dyn Fn(&mut Gauges)) -> String {
        let mut out = Text(String::with_capacity(16 * 1024));
        out.head(&[
            "foretoken_build_info",
            "gauge",
            "Always 1; the labels name the program that runs.",
        ]);
        out.value(
            "foretoken_build_info",
            &labels(&[("version", env!("CARGO_PKG_VERSION")), ("os", std::env::consts::OS)]),
            1,
        );
        let series = self.all_series();
        encode_requests(&mut out, &series);
        encode_times(&mut out, &series);
        encode_tokens(&mut out, &series);
        encode_attempts(&mut out, self);
        encode_refused(&mut out, self);
        let mut gauges = Gauges::default();
        read(&mut gauges);
        for (gauge, rows) in &gauges.families {
            let head = gauge.head();
            out.head(&head);
            for (labels, value) in rows {
                out.line(head[0], labels, format_args!("{value}"));
            }
        }
        process::encode(&mut out, self.started_unix_ms);
        out.0
    }
}

fn pair_labels(series: &Series) -> String {
    labels(&[("model", &series.model), ("target", &series.target)])
}

fn encode_requests(out: &mut Text, series: &[Arc<Series>]) {
    let name = "foretoken_requests_total";
    out.head(&[name, "counter", "Requests that have ended, by the status that the caller saw."]);
    for series in series {
        let base = pair_labels(series);
        for (slot, count) in sums(series.shards().map(|shard| &shard.requests)).enumerate() {
            if count != 0 {
                out.value(name, &format!("{base},status=\"{}\"", status_label(slot)), count);
            }
        }
    }
    let name = "foretoken_inflight";
    out.head(&[name, "gauge", "Requests that are running."]);
    for series in series.iter().filter(|series| series.shards().next().is_some()) {
        // A scrape that meets a request between two shards' reads could see a sum below zero.
        let running: i64 = series.shards().map(|shard| shard.inflight.load(Relaxed)).sum();
        out.value(name, &pair_labels(series), running.max(0) as u64);
    }
}

fn encode_times(out: &mut Text, series: &[Arc<Series>]) {
    let name = "foretoken_ttft_seconds";
    out.head(&[name, "histogram", "Time from a request to the first content of its answer."]);
    for series in series {
        let (counts, sum_us) =
            histogram(series.shards(), |shard| (&shard.ttft.counts[..], &shard.ttft.sum_us));
        if counts.iter().any(|&count| count != 0) {
            out.histogram(name, &pair_labels(series), &TTFT_BOUNDS_US, &counts, sum_us);
        }
    }
    let name = "foretoken_overhead_seconds";
    out.head(&[
        name,
        "histogram",
        "Own time before the first upstream byte was sent, queue wait included.",
    ]);
    let (counts, sum_us) = histogram(series.iter().flat_map(|series| series.shards()), |shard| {
        (&shard.overhead.counts[..], &shard.overhead.sum_us)
    });
    let counts = if counts.is_empty() { vec![0; OVERHEAD_BOUNDS_US.len() + 1] } else { counts };
    out.histogram(name, "", &OVERHEAD_BOUNDS_US, &counts, sum_us);
}

fn encode_tokens(out: &mut Text, series: &[Arc<Series>]) {
    let name = "foretoken_tokens_total";
    out.head(&[name, "counter", "Tokens by the model asked for and by kind."]);
    let mut by_model: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for series in series {
        let totals = by_model.entry(&series.model).or_insert_with(|| vec![0; TOKEN_KINDS.len()]);
        for (total, count) in
            totals.iter_mut().zip(sums(series.shards().map(|shard| &shard.tokens)))
        {
            *total += count;
        }
    }
    for (model, totals) in by_model {
        for (kind, total) in TOKEN_KINDS.iter().zip(totals).filter(|&(_, total)| total != 0) {
            out.value(name, &labels(&[("model", model), ("kind", kind)]), total);
        }
    }
}

fn encode_attempts(out: &mut Text, registry: &Registry) {
    let name = "foretoken_attempts_total";
    out.head(&[name, "counter", "Attempts at targets, by how they ended."]);
    for series in registry.all_targets() {
        for (slot, count) in sums(series.shards().map(|shard| &shard.attempts)).enumerate() {
            if count != 0 {
                let labels =
                    labels(&[("target", &series.target), ("outcome", outcome_label(slot))]);
                out.value(name, &labels, count);
            }
        }
    }
}

fn encode_refused(out: &mut Text, registry: &Registry) {
    let name = "foretoken_requests_refused_total";
    out.head(&[name, "counter", "Requests that were refused before they came to a target."]);
    for row in TABLE {
        let count = registry.refused(row.kind);
        if count != 0 {
            out.value(name, &labels(&[("kind", row.name)]), count);
        }
    }
}

/// Adds the shards of an array up; empty when no worker has one.
fn sums<'a, const N: usize>(
    shards: impl Iterator<Item = &'a [AtomicU64; N]>,
) -> impl Iterator<Item = u64> {
    let mut totals = [0; N];
    for shard in shards {
        for (total, count) in totals.iter_mut().zip(shard) {
            *total += count.load(Relaxed);
        }
    }
    totals.into_iter()
}

/// Adds a histogram of several shards up: counts by bucket, and the sum.
fn histogram<'a>(
    shards: impl Iterator<Item = &'a Shard>,
    part: impl Fn(&'a Shard) -> (&'a [AtomicU64], &'a AtomicU64),
) -> (Vec<u64>, u64) {
    let (mut totals, mut sum_us) = (Vec::new(), 0);
    for shard in shards {
        let (counts, sum) = part(shard);
        totals.resize(counts.len(), 0);
        for (total, count) in totals.iter_mut().zip(counts) {
            *total += count.load(Relaxed);
        }
        sum_us += sum.load(Relaxed);
    }
    (totals, sum_us)
}

/// Label pairs as they stand between the braces.
fn labels(pairs: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        let comma = if out.is_empty() { "" } else { "," };
        let _ = write!(out, "{comma}{name}=\"");
        for c in value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                other => out.push(other),
            }
        }
        out.push('"');
    }
    out
}

/// The document that is being written.
pub(super) struct Text(String);

impl Text {
    /// `# HELP` and `# TYPE`: name, type, help.
    pub(super) fn head(&mut self, [name, kind, help]: &[&str; 3]) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(super) fn value(&mut self, name: &str, labels: &str, value: u64) {
        self.line(name, labels, format_args!("{value}"));
    }

    /// A value that is counted in microseconds and printed in seconds.
    pub(super) fn seconds(&mut self, name: &str, labels: &str, us: u64) {
        self.line(name, labels, format_args!("{}", Seconds(us)));
    }

    fn line(&mut self, name: &str, labels: &str, value: std::fmt::Arguments<'_>) {
        let _ = match labels {
            "" => writeln!(self.0, "{name} {value}"),
            _ => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }

    /// `_bucket` (cumulative), `_sum` and `_count`. The count is the sum of the buckets, so that the two
    /// agree even while workers go on counting.
    fn histogram(
        &mut self,
        name: &str,
        labels: &str,
        bounds_us: &[u64],
        counts: &[u64],
        sum_us: u64,
    ) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut so_far = 0;
        for (at, count) in counts.iter().enumerate() {
            so_far += count;
            let _ = match bounds_us.get(at) {
                Some(&us) => {
                    write!(self.0, "{name}_bucket{{{labels}{comma}le=\"{}\"}}", Seconds(us))
                }
                None => write!(self.0, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}}"),
            };
            let _ = writeln!(self.0, " {so_far}");
        }
        self.seconds(&format!("{name}_sum"), labels, sum_us);
        self.value(&format!("{name}_count"), labels, so_far);
    }
}

/// Microseconds, printed exactly as seconds without trailing zeros.
struct Seconds(u64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (whole, fraction) = (self.0 / 1_000_000, self.0 % 1_000_000);
        match fraction {
            0 => write!(f, "{whole}"),
            _ => write!(f, "{whole}.{}", format!("{fraction:06}").trim_end_matches('0')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::telemetry::metrics::{Record, TokenKind};

    const TOKENS: &[(TokenKind, u64)] = &[(TokenKind::InText, 100), (TokenKind::OutText, 7)];

    fn has(text: &str, line: &str) {
        assert!(text.lines().any(|have| have == line), "no line {line:?} in\n{text}");
    }

    #[test]
    fn workers_shards_add_up() {
        let registry = Registry::new(2, 0);
        let series = registry.series("gpt", "openai/gpt-4o");
        let _running = series.shard(1).enter();
        for worker in [0, 1, 1] {
            series.shard(worker).record(&Record {
                status: 200,
                ttft_us: Some(120_000),
                overhead_us: Some(40),
                tokens: TOKENS,
            });
        }
        registry.series("gpt", "azure/gpt-4o").shard(0).record(&Record {
            status: 529,
            ttft_us: None,
            overhead_us: Some(2_000_000),
            tokens: TOKENS,
        });
        let text = registry.encode(&|_| {});
        let pair = r#"model="gpt",target="openai/gpt-4o""#;
        has(&text, &format!(r#"foretoken_requests_total{{{pair},status="200"}} 3"#));
        has(&text, r#"foretoken_requests_total{model="gpt",target="azure/gpt-4o",status="529"} 1"#);
        has(&text, &format!("foretoken_inflight{{{pair}}} 1"));
        has(&text, &format!(r#"foretoken_ttft_seconds_bucket{{{pair},le="0.1"}} 0"#));
        has(&text, &format!(r#"foretoken_ttft_seconds_bucket{{{pair},le="0.15"}} 3"#));
        has(&text, &format!(r#"foretoken_ttft_seconds_bucket{{{pair},le="+Inf"}} 3"#));
        has(&text, &format!("foretoken_ttft_seconds_sum{{{pair}}} 0.36"));
        has(&text, &format!("foretoken_ttft_seconds_count{{{pair}}} 3"));
        has(&text, r#"foretoken_overhead_seconds_bucket{le="0.00005"} 3"#);
        has(&text, r#"foretoken_overhead_seconds_bucket{le="+Inf"} 4"#);
        has(&text, "foretoken_overhead_seconds_sum 2.00012");
        has(&text, r#"foretoken_tokens_total{model="gpt",kind="in_text"} 400"#);
        has(&text, r#"foretoken_tokens_total{model="gpt",kind="out_text"} 28"#);
    }

    #[test]
    fn attempts_refusals_and_gauges_are_there() {
        let registry = Registry::new(1, 1_700_000_000_500);
        let target = registry.target("openai/gpt-4o");
        target.attempt(0, None);
        target.attempt(0, Some(Kind::Connect));
        target.attempt(0, Some(Kind::Connect));
        registry.refuse(0, Kind::InvalidKey);
        registry.unrouted().shard(0).record(&Record {
            status: 401,
            ttft_us: None,
            overhead_us: None,
            tokens: &[],
        });
        let text = registry.encode(&|gauges| {
            gauges.config(3, false);
            gauges.breaker("openai/gpt-4o", 0);
            gauges.pool("https://api", "h2", "idle", 2);
            gauges.pool("https://api", "h2", "active", 1);
            gauges.connections("open", 9);
            gauges.journal(4096);
            gauges.access_log_dropped(5);
        });
        for line in [
            r#"foretoken_attempts_total{target="openai/gpt-4o",outcome="ok"} 1"#,
            r#"foretoken_attempts_total{target="openai/gpt-4o",outcome="connect"} 2"#,
            r#"foretoken_requests_refused_total{kind="invalid_key"} 1"#,
            r#"foretoken_requests_total{model="",target="",status="401"} 1"#,
            "foretoken_config_generation 3",
            "foretoken_config_last_reload_success 0",
            r#"foretoken_breaker_state{target="openai/gpt-4o"} 0"#,
            r#"foretoken_pool_connections{origin="https://api",protocol="h2",state="idle"} 2"#,
            r#"foretoken_connections{state="open"} 9"#,
            "foretoken_journal_bytes 4096",
            "foretoken_access_log_dropped_total 5",
            "process_start_time_seconds 1700000000.5",
        ] {
            has(&text, line);
        }
    }

    #[test]
    fn labels_cannot_break_out_and_families_are_whole() {
        let registry = Registry::new(1, 0);
        let nasty = "a\"} 1\nforged{x=\"\\";
        registry.series(nasty, "t").shard(0).record(&Record {
            status: 200,
            ttft_us: Some(1),
            overhead_us: Some(1),
            tokens: TOKENS,
        });
        let text = registry.encode(&|gauges| gauges.pool("o", "h1", "idle", 1));
        has(&text, r#"foretoken_tokens_total{model="a\"} 1\nforged{x=\"\\",kind="in_text"} 100"#);
        assert!(!text.lines().any(|line| line.starts_with("forged")));
        let mut family = "";
        let mut seen = std::collections::HashSet::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                family = help.split(' ').next().expect("name");
                assert!(seen.insert(family), "{family} comes twice");
            } else if !line.starts_with("# TYPE ") {
                assert!(line.starts_with(family), "{line} stands under {family}");
            }
        }
        assert!(text.ends_with('\n'));
    }
}
