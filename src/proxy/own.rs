//! What a key may see of itself: `GET /v1/key` and `GET /v1/usage`.

use std::rc::Rc;

use crate::admit::{BudgetFigures, Figures, ScopeKind, Use};
use crate::auth::Grant;
use crate::clock::{self, Now};
use crate::error::Error;
use crate::exchange::Downstream;
use crate::money::format_pico;
use crate::proxy::record::Record;
use crate::proxy::reply;
use crate::proxy::worker::Worker;
use crate::wire::RequestHead;

/// What the key is, what it may do, and what is used of its limits.
///
/// # Errors
/// None: what is known here is in memory.
pub(super) async fn key<D: Downstream>(
    worker: &Rc<Worker>,
    grant: &Grant,
    now: Now,
    down: &mut D,
    record: &mut Record<'_>,
) -> Result<(), Error> {
    let account = worker.account(grant);
    let cell = account.shared();
    let terms = cell.terms();
    // The limits come with the grant: the account knows only keys that were used lately.
    let limits = grant.limits.as_ref();
    let state = cell.state_with(ScopeKind::Key, grant.key_id.as_str(), limits, now);
    let mut used = usage_of(&state.all);
    if !state.models.is_empty() {
        let models = state.models.iter();
        used["models"] =
            models.map(|(alias, figures)| (alias.clone(), usage_of(figures))).collect();
    }
    let value = serde_json::json!({
        "object": "key",
        "name": grant.key_name.as_ref(),
        "models": grant.models.iter().map(|glob| glob.as_ref()).collect::<Vec<&str>>(),
        "endpoints": grant.endpoints.iter().map(|glob| glob.as_ref()).collect::<Vec<&str>>(),
        "expires_at": grant.expires_at_unix_ms.map(time),
        "currency": terms.currency.as_str(),
        "usage": used,
    });
    reply::json(&value, down, record).await;
    Ok(())
}

/// What the key has used, grouped as the query says.
///
/// # Errors
/// A faulty query, or a store that does not answer.
pub(super) async fn usage<D: Downstream>(
    worker: &Rc<Worker>,
    head: &RequestHead,
    grant: &Grant,
    down: &mut D,
    record: &mut Record<'_>,
) -> Result<(), Error> {
    let query = head.path.split_once('?').map_or("", |(_, query)| query);
    let answer = worker.shared.reports.usage(&grant.key_id, query).await?;
    reply::json_text(answer.as_bytes(), down, record).await;
    Ok(())
}

/// The use of each limit, as the admin API shows it too.
fn usage_of(figures: &Figures) -> serde_json::Value {
    let limit = |limit: &Option<Use>| {
        limit.map(|Use { limit, used }| serde_json::json!({"limit": limit, "used": used}))
    };
    let budgets: Vec<serde_json::Value> = figures.budgets.iter().map(budget).collect();
    serde_json::json!({
        "rpm": limit(&figures.rpm),
        "tpm": limit(&figures.tpm),
        "tpd": limit(&figures.tpd),
        "parallel": limit(&figures.parallel),
        "budget": budgets,
    })
}

fn budget(budget: &BudgetFigures) -> serde_json::Value {
    let money = |pico: u128| format_pico(i128::try_from(pico).unwrap_or(i128::MAX));
    serde_json::json!({
        "amount": money(budget.amount_pico),
        "per": budget.period.to_string(),
        "soft": budget.soft,
        "spent": money(budget.spent_pico),
        "reserved": money(budget.reserved_pico),
        "remaining": money(budget.remaining_pico),
        "resets_at": budget.resets_at_unix_ms.map(time),
    })
}

fn time(unix_ms: u64) -> String {
    String::from_utf8_lossy(&clock::rfc3339(unix_ms)).into_owned()
}
