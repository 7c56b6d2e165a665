//! Admission: what a request may use at most is reserved in all limits of its key before anything is
//! sent, and grows with an answer that grows.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use crate::admit::{
    AccountCell, Actual, Alerts, Ask, Extended, LimitKind, Permit, QueueSettings, Rates, Refusal,
    Scopes, admit,
};
use crate::clock::{self, Now};
use crate::dialect::Endpoint;
use crate::error::{Error, Kind};
use crate::exchange::Downstream;
use crate::meter::ModelEstimate;
use crate::net::LazyTimer;
use crate::price::Ceiling;
use crate::proxy::ending::Place;
use crate::proxy::plan::Plan;

/// What an answer can have at most where neither the caller nor the configuration says: what strict
/// limits then reserve.
const OUTPUT_MAX: u64 = 128 * 1024;
/// An answer that grows beyond its reservation gets a quarter more each time, at least so much.
const EXTENSION_MIN: u64 = 64;
/// Text makes about a token of four bytes.
pub(super) const BYTES_PER_TOKEN: u64 = 4;

/// What a request is expected to use, and what it can use at most.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Demand {
    pub ask: Ask,
    /// The output within the expectation, over all choices.
    pub output: u64,
    /// The output at most.
    pub output_bound: u64,
    pub ceiling: Ceiling,
}

impl Demand {
    /// Weighs a request: by its size, by what the caller allows and by what was learned of the model.
    pub(super) fn of(
        plan: &Plan,
        estimate: &ModelEstimate,
        max_output: Option<u64>,
        ceiling: Ceiling,
    ) -> Demand {
        let body_bytes = plan.body_bytes as u64;
        let input = estimate.estimate_input(body_bytes);
        let answers = u64::from(plan.candidates);
        let (output, output_bound) = match plan.endpoint {
            Endpoint::Embeddings | Endpoint::Rerank | Endpoint::Moderations => (0, 0),
            _ => match plan.max_output_tokens {
                Some(max) => (max, max),
                None => {
                    let bound = max_output.unwrap_or(OUTPUT_MAX);
                    (estimate.estimate_output().min(bound), bound)
                }
            },
        };
        let (output, output_bound) =
            (output.saturating_mul(answers), output_bound.saturating_mul(answers));
        let pieces = pieces_cost(plan, &ceiling);
        let ask = Ask {
            tokens: input.saturating_add(output),
            tokens_bound: body_bytes.saturating_add(output_bound),
            cost_pico: ceiling.cost_pico(input, output).saturating_add(pieces),
            cost_bound_pico: ceiling.cost_pico(body_bytes, output_bound).saturating_add(pieces),
        };
        Demand { ask, output, output_bound, ceiling }
    }
}

/// What is not billed by tokens: images, characters to speak, searches.
fn pieces_cost(plan: &Plan, ceiling: &Ceiling) -> u128 {
    match plan.endpoint {
        Endpoint::ImageGenerations => u128::from(ceiling.image_pico) * u128::from(plan.candidates),
        Endpoint::Speech => u128::from(ceiling.character_pico) * plan.body_bytes as u128,
        Endpoint::Rerank => u128::from(ceiling.search_unit_pico),
        _ => 0,
    }
}

/// A request that was let in.
pub(super) struct Admitted {
    permit: Permit,
    ceiling: Ceiling,
    output: u64,
    output_bound: u64,
    /// An extension was refused, and the limit says that the answer goes on all the same.
    pub overrun: bool,
}

impl Admitted {
    fn new(permit: Permit, demand: &Demand) -> Self {
        let Demand { ceiling, output, output_bound, .. } = *demand;
        Admitted { permit, ceiling, output, output_bound, overrun: false }
    }

    /// The bytes of text that an answer may have before more must be reserved.
    pub(super) fn until_bytes(&self) -> u64 {
        self.output.saturating_mul(BYTES_PER_TOKEN)
    }

    /// Reserves more for an answer of so many bytes.
    ///
    /// # Errors
    /// A limit without room that says that the answer is then cut.
    pub(super) fn extend(&mut self, bytes: u64, now: Now) -> Result<(), Refusal> {
        let so_far = bytes / BYTES_PER_TOKEN;
        let step = (self.output / 4).max(EXTENSION_MIN).max(so_far.saturating_sub(self.output));
        let output = self.output.saturating_add(step);
        let beyond = output.saturating_sub(self.output_bound);
        let extra = Ask {
            tokens: step,
            tokens_bound: beyond,
            cost_pico: self.ceiling.cost_pico(0, step),
            cost_bound_pico: self.ceiling.cost_pico(0, beyond),
        };
        match self.permit.extend(extra, now) {
            Extended::Granted => {}
            Extended::Overrun => self.overrun = true,
            Extended::Cut(refusal) => return Err(refusal),
        }
        self.output = output;
        self.output_bound = self.output_bound.max(output);
        Ok(())
    }

    /// Replaces the reservation by what was used.
    pub(super) fn settle(self, tokens: u64, cost_pico: u128, now: Now) -> Alerts {
        self.permit.settle(Actual { tokens, cost_pico }, now)
    }

    /// What counts as used if nobody ever learns what was.
    pub(super) fn reserved(&self) -> Actual {
        self.permit.counted()
    }

    /// Nobody knows what was used: the reservation counts as used.
    pub(super) fn forfeit(self, now: Now) {
        let counted = self.permit.counted();
        let _ = self.permit.settle(counted, now);
    }
}

/// Why a request was not let in.
pub(super) enum Turned {
    /// A limit has no room.
    Away(Box<Refusal>),
    /// The caller left while it waited.
    Left,
    /// The key was blocked at once while it waited.
    Ended,
}

/// Lets a request in, or says why not, and whether it had to wait. Where the account or the alias says so it waits for room, in
/// fair turn with the other keys of the account.
///
/// # Errors
/// The limit that has no room, the caller's leaving, or the end of its key.
#[expect(clippy::too_many_arguments)]
pub(super) async fn enter<D: Downstream>(
    cell: &Arc<AccountCell>,
    scopes: &Scopes,
    demand: &Demand,
    queue: Option<QueueSettings>,
    place: &Place<'_>,
    down: &mut D,
    timer: &mut LazyTimer,
    rates: &mut Rates,
) -> Result<(Admitted, bool), Turned> {
    let refusal = match admit(cell, scopes, demand.ask, clock::now()) {
        Ok(permit) => {
            *rates = permit.rates();
            return Ok((Admitted::new(permit, demand), false));
        }
        Err(refusal) => refusal,
    };
    let Some(queue) = queue else { return Err(Turned::Away(Box::new(refusal))) };
    let mut waiting = match cell.wait(scopes, demand.ask, refusal, queue, clock::now()) {
        Ok(waiting) => waiting,
        Err(refusal) => return Err(Turned::Away(Box::new(refusal))),
    };
    let outcome = poll_fn(|cx| {
        loop {
            if let Poll::Ready(outcome) = waiting.poll(cx, clock::now()) {
                return Poll::Ready(outcome.map_err(|refusal| Turned::Away(Box::new(refusal))));
            }
            if place.poll_ended(cx) {
                return Poll::Ready(Err(Turned::Ended));
            }
            if down.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(Turned::Left));
            }
            timer.set(Some(waiting.next_try()));
            if timer.poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await;
    outcome.map(|permit| {
        *rates = permit.rates();
        (Admitted::new(permit, demand), true)
    })
}

/// A refusal as an error for the caller.
pub(super) fn error_of(refusal: &Refusal, over_budget_status: u16) -> Error {
    let kind = match refusal.limit {
        LimitKind::Requests | LimitKind::Parallel => Kind::KeyLimited,
        LimitKind::Tokens | LimitKind::TokensPerDay => Kind::KeyTokensLimited,
        LimitKind::Budget(_) | LimitKind::Balance => Kind::KeyQuota,
    };
    let mut error = Error::downstream(kind, refusal.to_string());
    error.retry_after_ms =
        refusal.retry_after.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
    if kind == Kind::KeyQuota {
        error.status = Some(over_budget_status);
    }
    error
}
