//! The request body, read whole into memory under the request's and the process's bounds, so that
//! it can be sent more than once.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;

use crate::admit::{AccountCell, Taken};
use crate::error::{Error, Kind};
use crate::exchange::Downstream;
use crate::net::LazyTimer;
use crate::proxy::inflate::{Coding, Inflate};
use crate::proxy::snapshot::Settings;
use crate::proxy::worker::Worker;
use crate::wire::{Name, RequestHead};

/// A body that can be sent again. Its memory counts against the process's budget until it is
/// dropped.
pub(super) struct Spooled {
    pub bytes: Bytes,
    /// Bytes that came over the wire.
    pub received: u64,
    _taken: Taken,
}

/// Reads the body.
///
/// # Errors
/// `BodyTooLarge` (413), `BodyTimeout` (408), `Shedding` (503), `UnsupportedMedia` (415), framing
/// faults, or `ClientGone`.
pub(super) async fn take<D: Downstream>(
    worker: &Worker,
    account: &AccountCell,
    head: &RequestHead,
    down: &mut D,
    timer: &mut LazyTimer,
    settings: &Settings,
    started: Instant,
) -> Result<Spooled, Error> {
    let coding = Coding::of(head.headers.get(Name::ContentEncoding)).map_err(|()| {
        Error::downstream(
            Kind::UnsupportedMedia,
            "the request body must be sent as it is, or compressed with gzip or deflate",
        )
    })?;
    let limit = settings.body_bytes;
    let announced = down.body_length();
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit));
    }
    let mut room = Room { worker, account, taken: None };
    // Charged is what has arrived, not what is announced: announcing costs a caller nothing.
    room.grow_to(0)?;
    let mut body = Vec::new();
    timer.set(Some(started + settings.body_time));
    poll_fn(|cx| {
        loop {
            let fits = (limit + 1).saturating_sub(body.len());
            match down.poll_body(cx, &mut body, fits) {
                Poll::Ready(Ok(end)) => {
                    if body.len() > limit {
                        return Poll::Ready(Err(too_large(limit)));
                    }
                    room.grow_to(body.capacity())?;
                    if end {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if timer.poll(cx).is_ready() => {
                    return Poll::Ready(Err(Error::downstream(
                        Kind::BodyTimeout,
                        "the request body did not arrive in time; send it without pauses",
                    )));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await?;
    let received = body.len() as u64;
    if let Some(coding) = coding {
        body = inflate(&body, coding, limit, &mut room)?;
    }
    Ok(Spooled { bytes: Bytes::from(body), received, _taken: room.done()? })
}

fn too_large(limit: usize) -> Error {
    Error::downstream(
        Kind::BodyTooLarge,
        format!(
            "the request body is larger than {limit} bytes; send less, or ask the operator to raise server.limits.body"
        ),
    )
}

fn inflate(
    packed: &[u8],
    coding: Coding,
    limit: usize,
    room: &mut Room<'_>,
) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    let mut inflate = Inflate::new(coding, limit as u64);
    // In steps, so that the budget is asked before the memory is used.
    for piece in packed.chunks(16 * 1024) {
        inflate.feed(piece, &mut |data| out.extend_from_slice(data)).map_err(|error| {
            if error.kind == Kind::BodyTooLarge { too_large(limit) } else { error }
        })?;
        room.grow_to(packed.len() + out.capacity())?;
    }
    if !inflate.ended() {
        return Err(Error::downstream(Kind::InvalidRequest, "the compressed body is incomplete"));
    }
    Ok(out)
}

/// The part of the process's body memory that this request holds.
struct Room<'a> {
    worker: &'a Worker,
    account: &'a AccountCell,
    taken: Option<Taken>,
}

impl Room<'_> {
    fn grow_to(&mut self, bytes: usize) -> Result<(), Error> {
        let budget = &self.worker.shared.body_memory;
        let bytes = bytes as u64;
        let fits = match &mut self.taken {
            None => {
                self.taken = budget.try_take_for(self.account.body_share(), bytes);
                self.taken.is_some()
            }
            Some(taken) if taken.amount() < bytes => taken.grow(bytes - taken.amount()),
            Some(_) => true,
        };
        if fits { Ok(()) } else { Err(no_memory()) }
    }

    fn done(self) -> Result<Taken, Error> {
        self.taken.ok_or_else(no_memory)
    }
}

fn no_memory() -> Error {
    Error::downstream(Kind::Shedding, "too many large requests are under way; try again shortly")
}
