//! What the admin API shows and steers.

use std::net::IpAddr;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

use serde_json::{Value, json};

use crate::admin::{BoxFuture, Control, Outcome, Parameters, Problem};
use crate::app::audit;
use crate::app::slow::{Slow, ending};
use crate::clock;
use crate::directory::{Call, Caller, Refusal, Reply};
use crate::health::Standing;
use crate::money::format_pico;
use crate::proxy::Snapshot;
use crate::route::{Candidate, Route};
use crate::telemetry::Gauges;

/// The slow side as the admin API sees it.
pub(super) struct Controls(pub std::sync::Arc<Slow>);

impl Control for Controls {
    fn ready(&self) -> bool {
        self.0.ready.load(Acquire)
    }

    fn live(&self) -> bool {
        true
    }

    fn metrics(&self) -> String {
        self.0.shared.registry.encode(&|gauges| self.0.gauges(gauges))
    }

    fn status(&self) -> Value {
        self.0.status()
    }

    fn config(&self) -> Value {
        self.0.config.load().masked()
    }

    fn routes(&self) -> Value {
        let snapshot = self.0.shared.snapshot.load_full();
        let routes: Vec<Value> =
            snapshot.table.routes().iter().map(|route| route_of(&snapshot, route)).collect();
        json!({"data": routes, "generation": snapshot.generation})
    }

    fn reload(&self) -> BoxFuture<Result<Value, Vec<Problem>>> {
        let answer = self.0.reload_answer();
        Box::pin(async move { answer.await.unwrap_or_else(|_| Err(ending())) })
    }

    fn caller(&self, token: &[u8], from: IpAddr) -> Option<Caller> {
        let caller = self.0.books.directory.principal(token, clock::now())?;
        Some(Caller { from: from.to_string(), ..caller })
    }

    fn denied(&self, caller: Caller, attempt: String, reason: String) -> BoxFuture<()> {
        let directory = self.0.books.directory.clone();
        let noted = tokio::task::spawn_blocking(move || {
            directory.note_denied_call(&caller, &attempt, &reason, clock::now());
        });
        Box::pin(async move {
            let _ = noted.await;
        })
    }

    fn perform(&self, caller: Caller, call: Call) -> BoxFuture<Outcome> {
        let directory = self.0.books.directory.clone();
        blocking(move || directory.perform(&caller, &call, clock::now()))
    }

    fn usage(&self, caller: Caller, query: Parameters) -> BoxFuture<Outcome> {
        let reports = self.0.books.reports.clone();
        blocking(move || reports.usage(&caller, &query).map(ok))
    }

    fn requests(&self, caller: Caller, query: Parameters) -> BoxFuture<Outcome> {
        let reports = self.0.books.reports.clone();
        blocking(move || reports.requests(&caller, &query).map(ok))
    }

    fn request(&self, caller: Caller, id: String) -> BoxFuture<Outcome> {
        let reports = self.0.books.reports.clone();
        blocking(move || reports.request(&caller, &id).map(ok))
    }

    fn audit(&self, _: Caller, query: Parameters) -> BoxFuture<Outcome> {
        let objects = self.0.books.objects.clone();
        blocking(move || audit::list(&*objects, &query).map(ok))
    }

    fn audit_verify(&self, _: Caller, body: Value) -> BoxFuture<Outcome> {
        let objects = self.0.books.objects.clone();
        blocking(move || audit::verify(&*objects, &body).map(ok))
    }
}

fn ok(body: Value) -> Reply {
    Reply { status: 200, body }
}

/// Runs what reads or writes the disk where it keeps nobody waiting. Goes on when the caller hangs up.
fn blocking(work: impl FnOnce() -> Outcome + Send + 'static) -> BoxFuture<Outcome> {
    Box::pin(async move {
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
            let message = "the operation failed in a way that it should not; see the log";
            Err(Refusal::new(500, "internal_error", message))
        })
    })
}

impl Slow {
    fn status(&self) -> Value {
        let last = self.last_reload.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let now_ms = clock::unix_ms();
        let workers: Vec<Value> = self
            .loads
            .iter()
            .map(|load| {
                json!({
                    "connections": load.connections.load(Relaxed),
                    "streams": load.streams.load(Relaxed),
                })
            })
            .collect();
        let journal = self.journal.load();
        let journal = journal.as_ref().map(|read| {
            let stats = read();
            json!({
                "pending_bytes": stats.pending_bytes,
                "allocated_bytes": stats.allocated_bytes,
                "bound_bytes": stats.bound_bytes,
                "refused": stats.refused,
                "dropped": self.shared.registry.unrecorded_count(),
                "lost_settles": stats.lost_settles,
                "commit_failures": stats.commit_failures,
                "sync_failed": stats.is_sync_failed,
                "flush_lag_ms": stats.flush_lag_ms,
                "last_error": stats.commit_error.as_deref(),
            })
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "ready": self.ready.load(Acquire),
            "uptime_s": now_ms.saturating_sub(self.started_unix_ms) / 1000,
            "generation": self.shared.snapshot.load().generation,
            "config": self.path.as_ref().map(|path| path.display().to_string()),
            "reload": {
                "count": self.reloads.load(Relaxed),
                "failures": self.reload_failures.load(Relaxed),
                "last_ok": last.problems.is_empty(),
                "last_time": (last.unix_ms > 0)
                    .then(|| String::from_utf8_lossy(&clock::rfc3339(last.unix_ms)).into_owned()),
                "problems": last.problems,
                "needs_restart": last.needs_restart,
            },
            "requests": {
                "running": self.shared.requests.used(),
                "limit": self.shared.requests.limit(),
            },
            "body_memory": {
                "used_bytes": self.shared.body_memory.used(),
                "limit_bytes": self.shared.body_memory.limit(),
            },
            "keys": self.shared.keyring.len(),
            "workers": workers,
            "journal": journal,
            "access_log_dropped": self.access.dropped(),
        })
    }

    fn gauges(&self, gauges: &mut Gauges) {
        let snapshot = self.shared.snapshot.load_full();
        let now = clock::instant();
        let mut seen = Vec::new();
        for candidate in snapshot.table.routes().iter().flat_map(|route| &route.candidates) {
            let target = candidate.target.id.as_str();
            if !seen.contains(&target) {
                seen.push(target);
                let resting = candidate.target.state.standing(now) == Standing::Resting;
                gauges.breaker(target, if resting { 2 } else { 0 });
            }
        }
        let mut slots = Vec::new();
        for provider in &snapshot.providers {
            let origin = &provider.origin;
            if slots.contains(&origin.slot) {
                continue;
            }
            slots.push(origin.slot);
            for (protocol, state, gauge) in [
                ("h1", "idle", &origin.h1_idle),
                ("h1", "active", &origin.h1_busy),
                ("h2", "active", &origin.h2_open),
            ] {
                let count = gauge.load(Relaxed).max(0) as u64;
                gauges.pool(&origin.authority, protocol, state, count);
            }
        }
        let open: usize = self.loads.iter().map(|load| load.connections.load(Relaxed)).sum();
        let streams: usize = self.loads.iter().map(|load| load.streams.load(Relaxed)).sum();
        gauges.connections("open", open as u64);
        gauges.connections("serving", streams as u64);
        if let Some(read) = self.journal.load().as_ref() {
            let stats = read();
            gauges.journal(stats.pending_bytes);
            let dropped = self.shared.registry.unrecorded_count();
            gauges.store(stats.flush_lag_ms, stats.commit_failures, stats.refused, dropped);
        }
        for (currency, amounts) in self.shared.counters.amounts() {
            let text = |pico: u128| format_pico(i128::try_from(pico).unwrap_or(i128::MAX));
            let (cost, charge) = (text(amounts.cost_pico), text(amounts.charge_pico));
            gauges.money(currency.as_str(), cost, charge);
        }
        let (unpriced, soft_budgets) = self.shared.registry.alerts();
        gauges.alerts(unpriced, soft_budgets);
        let ok =
            self.last_reload.lock().unwrap_or_else(PoisonError::into_inner).problems.is_empty();
        gauges.config(snapshot.generation, ok);
        gauges.access_log_dropped(self.access.dropped());
    }
}

fn route_of(snapshot: &Snapshot, route: &Route) -> Value {
    let targets: Vec<Value> =
        route.candidates.iter().map(|candidate| target_of(snapshot, candidate)).collect();
    let fallbacks: Vec<&str> =
        route.fallbacks.iter().map(|&at| snapshot.table.route(at).alias.as_str()).collect();
    json!({
        "model": route.alias.as_str(),
        "policy": route.policy.name(),
        "fallbacks": fallbacks,
        "targets": targets,
    })
}

fn target_of(snapshot: &Snapshot, candidate: &Candidate) -> Value {
    let (provider, state) = (snapshot.provider(candidate), &candidate.target.state);
    let now = clock::instant();
    let ttft = state.ttft();
    let origin = &provider.origin;
    let wait_ms = |wait: Option<Duration>| wait.map(|wait| wait.as_millis() as u64);
    let credentials: Vec<Value> = provider
        .credentials
        .iter()
        .map(|keyed| {
            json!({
                "name": keyed.credential.name,
                "cooling_ms": wait_ms(keyed.state.cooling(now)),
                "parked_ms": wait_ms(keyed.state.parked(now)),
            })
        })
        .collect();
    json!({
        "target": candidate.target.id.as_str(),
        "weight": candidate.weight,
        "priority": candidate.priority,
        "in_flight": state.outstanding(),
        "resting_ms": wait_ms(state.resting(now)),
        "ttft_us": {
            "count": ttft.count,
            "p50": ttft.ttft_us_p50,
            "p90": ttft.ttft_us_p90,
            "p99": ttft.ttft_us_p99,
        },
        "pool": {
            "origin": origin.authority,
            "h1_idle": origin.h1_idle.load(Relaxed),
            "h1_active": origin.h1_busy.load(Relaxed),
            "h2": origin.h2_open.load(Relaxed),
            "dials": origin.dials.load(Relaxed),
            "dial_failures": origin.dial_failures.load(Relaxed),
        },
        "credentials": credentials,
    })
}
