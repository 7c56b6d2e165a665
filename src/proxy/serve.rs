//! The path of one request, from its head to its record.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use crate::admit::{AccountCell, Rates, Taken, Terms};
use crate::auth::{Grant, Held};
use crate::clock::{self, Now};
use crate::dialect::{Asked, Endpoint, Found, find, peek, spoken_chars};
use crate::error::{Error, Kind};
use crate::exchange::Downstream;
use crate::ident::Alias;
use crate::net::LazyTimer;
use crate::proxy::admission::{Turned, enter};
use crate::proxy::attempts::{Ask, client_gone, first_content};
use crate::proxy::body;
use crate::proxy::head::{MAX_HOPS, client_address, hops_of, presented_key};
use crate::proxy::labels;
use crate::proxy::own;
use crate::proxy::plan::{Plan, unknown_model};
use crate::proxy::record::{OpeningParts, Record};
use crate::proxy::relay::{Flow, key_ended, relay};
use crate::proxy::reply;
use crate::proxy::snapshot::Snapshot;
use crate::proxy::worker::{Kept, Worker};
use crate::wire::{Name, RequestHead, Version};

/// Serves one request. Whatever happens, the caller gets one answer and the request one record.
pub async fn serve<D: Downstream>(
    worker: &Rc<Worker>,
    head: &RequestHead,
    down: &mut D,
    timer: &mut LazyTimer,
) {
    let now = clock::now();
    let generation = worker.generation();
    let snapshot = generation.snapshot();
    let client = client_address(head, down.peer(), &snapshot.settings.trusted_proxies);
    let mut record = Record::new(worker, snapshot, now, client, head.version);
    if let Some(hook) = &worker.shared.fault_hook {
        hook(head);
    }
    if let Err(error) = path(worker, snapshot, head, down, timer, &mut record, now).await {
        if error.kind != Kind::ClientGone {
            reply::error_anywhere(&error, down, &mut record).await;
        }
        record.fail(&error);
    }
}

/// Answers a request that could not even be read.
pub async fn refuse<D: Downstream>(worker: &Rc<Worker>, error: Error, down: &mut D) {
    let client = down.peer().ip().to_canonical();
    let generation = worker.generation();
    let snapshot = generation.snapshot();
    let mut record = Record::new(worker, snapshot, clock::now(), client, Version::Http11);
    reply::error(&error, down, &mut record).await;
    record.fail(&error);
}

/// head → auth → resolve → admit → pick → attempt → relay → settle.
async fn path<D: Downstream>(
    worker: &Rc<Worker>,
    snapshot: &Snapshot,
    head: &RequestHead,
    down: &mut D,
    timer: &mut LazyTimer,
    record: &mut Record<'_>,
    now: Now,
) -> Result<(), Error> {
    let found = endpoint(head)?;
    let held = authenticate(worker, head, now)?;
    record.key(held.clone());
    let grant = held.grant();
    let endpoint = match found {
        Found::Endpoint(endpoint) => endpoint,
        _ => Endpoint::Models,
    };
    record.endpoint(endpoint);
    usable(grant, now)?;
    hops(head)?;
    // What a key is and has used, it may always see.
    let is_own = matches!(found, Found::OwnUsage | Found::OwnKey);
    authorise(grant, Some(endpoint).filter(|_| !is_own), record)?;
    match found {
        Found::Endpoint(Endpoint::Models) => {
            reply::models(snapshot, grant, down, record).await;
            return Ok(());
        }
        Found::Model(id) => return one_model(snapshot, grant, &id, down, record).await,
        Found::OwnUsage => return own::usage(worker, head, grant, down, record).await,
        Found::OwnKey => return own::key(worker, grant, now, down, record).await,
        _ => {}
    }
    held.note_used(now.unix_ms);
    let account = worker.account(grant);
    let _running = shed(worker, account.shared(), down, timer).await?;
    let (winner, plan) = {
        let settings = &snapshot.settings;
        let body =
            body::take(worker, account.shared(), head, down, timer, settings, now.instant).await?;
        record.body(body.received);
        let asked = peek(&body.bytes, endpoint).map_err(|error| not_json(error, head))?;
        let model = Alias::from(&*asked.model.name);
        record.asked(model.clone(), asked.stream);
        if endpoint == Endpoint::Speech {
            record.spoken(spoken_chars(&body.bytes));
        }
        let plan = Plan::resolve(snapshot, grant, &asked, model)?;
        let entering = Entering { worker, snapshot, head, plan: &plan, held: &held, asked: &asked };
        let terms = admit(&entering, down, timer, record).await?;
        let ask = Ask {
            worker,
            snapshot,
            settings,
            head,
            plan: &plan,
            asked: &asked,
            body: &body.bytes,
            terms: terms.shared(),
            now,
        };
        let winner = first_content(&ask, down, timer, record).await?;
        // The body's memory is given back here: a long answer does not hold its prompt.
        (winner, plan)
    };
    record.winner(winner.pick);
    let route = snapshot.table.route(winner.pick.route);
    let provider = snapshot.provider(&route.candidates[winner.pick.candidate]);
    let flow = Flow {
        settings: &snapshot.settings,
        timeouts: provider.timeouts,
        kind: plan.stream_kind(),
        rewrite_model: route.rewrite_model,
        model: plan.model.as_str(),
        drain: snapshot.drain(winner.pick),
    };
    relay(winner, &flow, down, timer, record).await
}

/// Reserves what the request may use, and opens its record.
///
/// # Errors
/// Limits that are reached, a model without a price, or a journal that is full.
async fn admit<D: Downstream>(
    ask: &Entering<'_>,
    down: &mut D,
    timer: &mut LazyTimer,
    record: &mut Record<'_>,
) -> Result<Rc<Kept<Terms>>, Error> {
    let Entering { worker, snapshot, head, plan, held, asked } = *ask;
    let grant = held.grant();
    let route = snapshot.table.route(plan.route);
    let payer = worker.payer_of(grant, &route.alias, plan.asked_name());
    let demand = record.demand(plan, &payer)?;
    let mut labels = String::new();
    let end_user = labels::end_user(head, asked);
    let tags = labels::tags(head, grant, &mut labels)?;
    let parts = OpeningParts { plan, grant, end_user: end_user.as_deref(), tags };
    let terms = payer.terms();
    let queue = snapshot.terms[plan.route].queue.or(terms.shared().queue);
    let (cell, scopes) = (&payer.cell, payer.scopes());
    let mut rates = Rates::default();
    let place = record.worker().running.enter(held.clone());
    match enter(cell, &scopes, &demand, queue, &place, down, timer, &mut rates).await {
        Ok((admitted, waited)) => record.admitted(admitted, rates, waited),
        Err(Turned::Away(refusal)) => return Err(record.refused(&refusal, &parts)),
        Err(Turned::Left) => return Err(record.left_queue(client_gone(), &parts)),
        Err(Turned::Ended) => return Err(record.left_queue(key_ended(), &parts)),
    }
    record.under_way(place);
    record.open(&parts)?;
    Ok(terms)
}

/// Who enters.
struct Entering<'a> {
    worker: &'a Worker,
    snapshot: &'a Snapshot,
    head: &'a RequestHead,
    plan: &'a Plan,
    held: &'a Rc<Held>,
    asked: &'a Asked<'a>,
}

/// Which endpoint is called.
fn endpoint(head: &RequestHead) -> Result<Found, Error> {
    match find(head.method.text(), &head.path) {
        Found::WrongMethod { allow } => Err(Error::downstream(
            Kind::MethodNotAllowed,
            format!("this endpoint is called with {allow}"),
        )
        .param(allow)),
        Found::Unknown { hint } => Err(Error::downstream(Kind::UnknownUrl, hint)),
        found => Ok(found),
    }
}

/// A form instead of JSON is the likeliest reason for a body that is none.
fn not_json(error: Error, head: &RequestHead) -> Error {
    let form = head.headers.text(Name::ContentType).filter(|text| text.contains("form-data"));
    match form {
        Some(_) if error.kind == Kind::InvalidJson => Error::downstream(
            Kind::UnsupportedMedia,
            "this endpoint takes JSON, not multipart/form-data; send content-type: application/json",
        ),
        _ => error,
    }
}

/// Who is calling.
fn authenticate(worker: &Worker, head: &RequestHead, now: Now) -> Result<Rc<Held>, Error> {
    let Some(presented) = presented_key(head) else {
        let message = match head.headers.get(Name::Authorization) {
            Some(_) => "the authorization header lacks `Bearer `; send `Authorization: Bearer KEY`",
            None => "no API key was given; send it as `Authorization: Bearer KEY`",
        };
        return Err(Error::downstream(Kind::InvalidKey, message));
    };
    let held = worker.grant(&presented, now).ok_or_else(|| {
        Error::downstream(
            Kind::InvalidKey,
            "the API key is not known here; check that it is the gateway's key and was copied whole",
        )
    })?;
    Ok(held)
}

/// Whether the key is good now.
fn usable(grant: &Grant, now: Now) -> Result<(), Error> {
    grant.usable_at(now.unix_ms).map_err(|kind| {
        let what = if grant.blocked { "is blocked" } else { "has expired" };
        Error::downstream(kind, format!("this API key {what}; ask for another one"))
    })
}

/// A gateway whose upstream is, by some way round, itself would send each request in circles until
/// nothing else fits in.
fn hops(head: &RequestHead) -> Result<(), Error> {
    if hops_of(head) < MAX_HOPS {
        return Ok(());
    }
    Err(Error {
        status: Some(508),
        ..Error::downstream(
            Kind::BadFraming,
            format!(
                "the request has passed {MAX_HOPS} gateways; a provider's base_url leads back to this one"
            ),
        )
    })
}

/// Whether the key may be used like this.
fn authorise(grant: &Grant, endpoint: Option<Endpoint>, record: &Record<'_>) -> Result<(), Error> {
    if !grant.allows_address(record.client()) {
        return Err(Error::downstream(
            Kind::AddressNotAllowed,
            "this API key may not be used from this address",
        ));
    }
    if let Some(endpoint) = endpoint
        && !grant.allows_endpoint(endpoint.name())
    {
        return Err(Error::downstream(
            Kind::EndpointNotAllowed,
            format!("this API key may not call {}", endpoint.name()),
        ));
    }
    Ok(())
}

/// Above the limit of requests under way, refusing fast serves those that are under way. An account
/// whose requests may wait gets in line instead.
async fn shed<D: Downstream>(
    worker: &Worker,
    account: &AccountCell,
    down: &mut D,
    timer: &mut LazyTimer,
) -> Result<Taken, Error> {
    let (requests, share) = (&worker.shared.requests, account.requests_share());
    if !requests.has_line()
        && let Some(taken) = requests.try_take_for(share, 1)
    {
        return Ok(taken);
    }
    let full =
        || Error::downstream(Kind::Shedding, "too many requests are under way; try again shortly");
    let queue = account.terms().queue.ok_or_else(full)?;
    let mut place = requests.wait_for(share, queue.depth).ok_or_else(full)?;
    timer.set(Some(clock::instant() + queue.wait));
    poll_fn(|cx| {
        if let Poll::Ready(taken) = place.poll(cx) {
            return Poll::Ready(Ok(taken));
        }
        if down.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(client_gone()));
        }
        timer.poll(cx).map(|()| Err(full()))
    })
    .await
}

async fn one_model<D: Downstream>(
    snapshot: &Snapshot,
    grant: &Grant,
    id: &str,
    down: &mut D,
    record: &mut Record<'_>,
) -> Result<(), Error> {
    // A model that the key may not use does not exist for it.
    if !grant.allows_model(id) || snapshot.table.find(id).is_none() {
        return Err(unknown_model(id));
    }
    reply::model(id, down, record).await;
    Ok(())
}
