//! The warm connections of one worker to one origin.
//!
//! Nothing here is shared between threads. A dial runs in a task of its own: a request that gives
//! up does not waste it, and a dial that hangs holds up nobody but itself (it ends at the origin's
//! `connect` limit). A request takes whatever comes first, a connection that became free or the
//! new one.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::clock;
use crate::error::{Error, Kind};
use crate::upstream::connect::{self, Dialled};
use crate::upstream::exchange::Conn;
use crate::upstream::h1::{self, H1Conn};
use crate::upstream::h2::{self, H2Conn};
use crate::upstream::origin::Origin;

/// Requests that may wait for a connection of one origin in one worker.
const MAX_WAITERS: usize = 10_000;
/// Pause after a failed spare dial, doubling up to the other.
const SPARE_BACKOFF: Duration = Duration::from_millis(500);
const SPARE_BACKOFF_MAX: Duration = Duration::from_secs(30);

/// The pools of one worker, by origin.
pub struct Pools {
    by_slot: RefCell<Vec<Option<Rc<Pool>>>>,
    /// This worker's index and the number of workers: `min_warm` counts for all of them.
    worker: usize,
    workers: usize,
}

impl Pools {
    /// Empty pools.
    pub fn new(worker: usize, workers: usize) -> Self {
        Pools { by_slot: RefCell::default(), worker, workers: workers.max(1) }
    }

    /// Finds a connection to `origin`. Must run inside the worker's runtime.
    pub fn acquire(&self, origin: &Arc<Origin>) -> Acquire {
        self.pool(origin).acquire()
    }

    /// Dials a new connection for this request alone, after a reused one turned out to be dead.
    pub fn acquire_fresh(&self, origin: &Arc<Origin>) -> Acquire {
        let pool = self.pool(origin);
        if pool.speaks_h2.get() {
            // The dead one takes no streams any more, so whatever is found is another; a dial for
            // each of its streams would be a storm.
            return pool.acquire();
        }
        pool.open.set(pool.open.get() + 1);
        let guard = OpenGuard(Rc::downgrade(&pool));
        Acquire::Fresh(Box::pin(async move {
            let dialled = connect::dial(pool.origin.clone()).await?;
            guard.keep();
            pool.adopt(dialled).await
        }))
    }

    fn pool(&self, origin: &Arc<Origin>) -> Rc<Pool> {
        let mut by_slot = self.by_slot.borrow_mut();
        if by_slot.len() <= origin.slot {
            by_slot.resize(origin.slot + 1, None);
        }
        by_slot[origin.slot]
            .get_or_insert_with(|| {
                // The first workers take the remainder.
                let min_warm = origin.settings.pool.min_warm;
                let share = min_warm / self.workers;
                let extra = usize::from(self.worker < min_warm % self.workers);
                Pool::new(origin.clone(), share + extra)
            })
            .clone()
    }

    /// Keeps the pools of `origins`, opening their warm connections, and lets the others drain.
    /// Called after start, after a reload and now and then.
    pub fn maintain<'a>(&self, origins: impl Iterator<Item = &'a Arc<Origin>>) {
        let mut wanted = vec![];
        for origin in origins {
            let pool = self.pool(origin);
            pool.expire(clock::instant());
            pool.warm();
            wanted.push(origin.slot);
        }
        for (slot, pool) in self.by_slot.borrow_mut().iter_mut().enumerate() {
            if !wanted.contains(&slot)
                && let Some(gone) = pool.take()
            {
                gone.close();
            }
        }
    }

    /// Closes everything that is idle. Requests in flight go on.
    pub fn close(&self) {
        for pool in self.by_slot.borrow_mut().drain(..).flatten() {
            pool.close();
        }
    }
}

type Answer = Result<Conn, Error>;

/// The connections to one origin.
pub(super) struct Pool {
    origin: Arc<Origin>,
    min_warm: usize,
    /// The most recently used last: it is the most likely to live, and the others can age.
    #[expect(clippy::vec_box, reason = "moves between pool and exchange as a pointer")]
    idle: RefCell<Vec<Box<H1Conn>>>,
    h2: RefCell<Vec<Rc<H2Conn>>>,
    waiters: RefCell<VecDeque<oneshot::Sender<Answer>>>,
    /// Connections open or being dialled.
    open: Cell<usize>,
    dialling: Cell<usize>,
    closed: Cell<bool>,
    spare_after: Cell<Option<Instant>>,
    spare_backoff: Cell<Duration>,
    /// Whether HTTP/2 was negotiated the last time: then one dial serves many.
    speaks_h2: Cell<bool>,
    me: Weak<Pool>,
}

/// A connection that will come.
pub enum Acquire {
    Ready(Option<Conn>),
    Waiting(oneshot::Receiver<Answer>),
    Fresh(Pin<Box<dyn Future<Output = Answer>>>),
    Failed(Option<Error>),
}

impl Acquire {
    /// Cancel-safe; not to be polled again after it was ready.
    ///
    /// # Errors
    /// `Connect` if no connection can be had.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Answer> {
        match self {
            Acquire::Ready(conn) => Poll::Ready(conn.take().ok_or_else(h1::unusable)),
            Acquire::Waiting(receiver) => {
                Pin::new(receiver).poll(cx).map(|sent| sent.unwrap_or_else(|_| Err(h1::unusable())))
            }
            Acquire::Fresh(dial) => dial.as_mut().poll(cx),
            Acquire::Failed(error) => Poll::Ready(Err(error.take().unwrap_or_else(h1::unusable))),
        }
    }
}

impl Pool {
    fn new(origin: Arc<Origin>, min_warm: usize) -> Rc<Pool> {
        Rc::new_cyclic(|me| Pool {
            speaks_h2: Cell::new(origin.settings.protocol == crate::upstream::Protocol::H2),
            origin,
            min_warm,
            idle: RefCell::default(),
            h2: RefCell::default(),
            waiters: RefCell::default(),
            open: Cell::new(0),
            dialling: Cell::new(0),
            closed: Cell::new(false),
            spare_after: Cell::new(None),
            spare_backoff: Cell::new(SPARE_BACKOFF),
            me: me.clone(),
        })
    }

    fn acquire(self: &Rc<Self>) -> Acquire {
        if let Some(conn) = self.take_idle() {
            self.warm();
            return Acquire::Ready(Some(Conn::H1(conn)));
        }
        if let Some(conn) = self.least_loaded() {
            let slot = conn.slot(self);
            self.open_spare();
            return Acquire::Ready(Some(Conn::H2(slot)));
        }
        let mut waiters = self.waiters.borrow_mut();
        if waiters.len() >= MAX_WAITERS {
            waiters.retain(|waiter| !waiter.is_closed());
        }
        if waiters.len() >= MAX_WAITERS {
            return Acquire::Failed(Some(Error::upstream(
                Kind::NoUpstream,
                "too many requests wait for a connection to the upstream; try again shortly",
            )));
        }
        let (sender, receiver) = oneshot::channel();
        waiters.push_back(sender);
        drop(waiters);
        self.dial_for_waiters();
        Acquire::Waiting(receiver)
    }

    fn take_idle(&self) -> Option<Box<H1Conn>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(mut conn) = idle.pop() {
            if conn.usable() && !self.too_old(conn.born, conn.uses) {
                conn.set_idle(false);
                return Some(conn);
            }
            // Dropping tells the pool, which must not be borrowed then.
            drop(idle);
            drop(conn);
            idle = self.idle.borrow_mut();
        }
        None
    }

    /// Connections of one burst must not all end in the same second: the age limit is spread by
    /// up to a tenth, by something that differs between them.
    fn too_old(&self, born: Instant, salt: u32) -> bool {
        let limit = self.origin.settings.pool.max_age;
        let spread = limit / 10 * (salt % 8) / 8;
        born.elapsed() > limit.saturating_sub(spread)
    }

    fn least_loaded(&self) -> Option<Rc<H2Conn>> {
        let h2 = self.h2.borrow();
        h2.iter().filter(|c| c.room() > 0).min_by_key(|c| c.inflight()).cloned()
    }

    /// A new HTTP/2 connection is opened before the present ones are full.
    fn open_spare(self: &Rc<Self>) {
        let (mut used, mut capacity) = (0, 0);
        for conn in self.h2.borrow().iter().filter(|c| !c.draining.get()) {
            used += conn.inflight();
            capacity += conn.capacity();
        }
        if used * 10 >= capacity * 7 && self.dialling.get() == 0 {
            self.dial_spare();
        }
    }

    /// Dials as many connections as those who wait need.
    fn dial_for_waiters(self: &Rc<Self>) {
        let waiting = self.waiters.borrow().iter().filter(|w| !w.is_closed()).count();
        let each = if self.speaks_h2.get() { self.origin.settings.pool.max_streams } else { 1 };
        let needed = waiting.div_ceil(each.max(1));
        while self.dialling.get() < needed
            && self.open.get() < self.origin.settings.pool.max_connections
        {
            self.dial();
        }
    }

    fn dial(self: &Rc<Self>) {
        self.open.set(self.open.get() + 1);
        self.dialling.set(self.dialling.get() + 1);
        let pool = self.clone();
        tokio::task::spawn_local(async move {
            let guard = OpenGuard(Rc::downgrade(&pool));
            let outcome = match connect::dial(pool.origin.clone()).await {
                Ok(dialled) => {
                    guard.keep();
                    pool.adopt(dialled).await
                }
                Err(error) => {
                    drop(guard);
                    Err(error)
                }
            };
            pool.dialling.set(pool.dialling.get() - 1);
            match outcome {
                Ok(conn) => {
                    pool.spare_backoff.set(SPARE_BACKOFF);
                    pool.hand_out(conn);
                    pool.dial_for_waiters();
                }
                Err(error) => pool.dial_failed(error),
            }
        });
    }

    /// Makes a connection of a dialled socket; for HTTP/2 the pool keeps it and gives room on it.
    async fn adopt(self: &Rc<Self>, dialled: Dialled) -> Answer {
        self.speaks_h2.set(dialled.h2);
        if !dialled.h2 {
            let conn = H1Conn::new(dialled.io, self.origin.clone(), self.me.clone());
            return Ok(Conn::H1(conn));
        }
        match h2::handshake(dialled.io, self.origin.settings.pool.max_streams).await {
            Ok((send, connection)) => {
                let conn = h2::start(send, connection, self.origin.clone(), self);
                self.h2.borrow_mut().push(conn.clone());
                Ok(Conn::H2(conn.slot(self)))
            }
            Err(error) => {
                self.connection_closed();
                Err(connect::failed(format!("HTTP/2: {error}")))
            }
        }
    }

    /// Gives a connection to whoever waits longest, else keeps it.
    fn hand_out(self: &Rc<Self>, conn: Conn) {
        let mut conn = conn;
        while let Some(waiter) = self.next_waiter() {
            match waiter.send(Ok(conn)) {
                Ok(()) => {
                    let Some(next) = self.least_loaded() else { return };
                    if self.waiters.borrow().is_empty() {
                        return;
                    }
                    conn = Conn::H2(next.slot(self));
                }
                Err(Ok(back)) => conn = back,
                Err(Err(_)) => return,
            }
        }
        if let Conn::H1(h1) = conn {
            self.keep(h1);
        }
    }

    fn next_waiter(&self) -> Option<oneshot::Sender<Answer>> {
        self.waiters.borrow_mut().pop_front()
    }

    fn keep(&self, mut conn: Box<H1Conn>) {
        if self.closed.get() {
            return;
        }
        conn.idle_since = clock::instant();
        conn.set_idle(true);
        self.idle.borrow_mut().push(conn);
    }

    /// A connection whose answer is complete.
    pub(super) fn give_back(self: &Rc<Self>, conn: Box<H1Conn>) {
        if self.waiters.borrow().is_empty() {
            self.keep(conn);
        } else {
            self.hand_out(Conn::H1(conn));
        }
    }

    /// Room has become free on an HTTP/2 connection.
    pub(super) fn h2_room(self: &Rc<Self>, conn: &Rc<H2Conn>) {
        if !self.waiters.borrow().is_empty() && conn.room() > 0 {
            self.hand_out(Conn::H2(conn.slot(self)));
        }
    }

    /// The task of an HTTP/2 connection has ended.
    pub(super) fn h2_closed(&self) {
        self.h2.borrow_mut().retain(|c| !c.draining.get() || c.inflight() > 0);
        self.connection_closed();
    }

    pub(super) fn connection_closed(&self) {
        self.open.set(self.open.get().saturating_sub(1));
    }

    /// One of those who wait learns of the failure; the others have dials of their own under way,
    /// or get one now.
    fn dial_failed(self: &Rc<Self>, error: Error) {
        tracing::debug!(origin = %self.origin.authority, %error, "dial failed");
        let backoff = self.spare_backoff.get();
        self.spare_after.set(Some(clock::instant() + backoff));
        self.spare_backoff.set((backoff * 2).min(SPARE_BACKOFF_MAX));
        let served = if self.speaks_h2.get() { usize::MAX } else { 1 };
        let mut told = 0;
        while told < served {
            let Some(waiter) = self.next_waiter() else { break };
            if waiter.send(Err(error.clone())).is_ok() {
                told += 1;
            }
        }
        self.dial_for_waiters();
    }

    /// Opens what `min_warm` asks for beyond the connections in use.
    fn warm(self: &Rc<Self>) {
        let h2_live = self.h2.borrow().iter().filter(|c| c.room() > 0).count();
        let have = self.idle.borrow().len() + h2_live + self.dialling.get();
        for _ in have..self.min_warm {
            self.dial_spare();
        }
    }

    fn dial_spare(self: &Rc<Self>) {
        let paused = self.spare_after.get().is_some_and(|at| clock::instant() < at);
        let full = self.open.get() >= self.origin.settings.pool.max_connections;
        if !paused && !full && !self.closed.get() {
            self.dial();
        }
    }

    /// Closes what is idle too long, too old or dead.
    fn expire(&self, now: Instant) {
        let limit = self.origin.settings.pool.idle;
        let all = std::mem::take(&mut *self.idle.borrow_mut());
        let mut kept = Vec::with_capacity(all.len());
        for mut conn in all {
            let fresh = now.saturating_duration_since(conn.idle_since) < limit;
            if fresh && !self.too_old(conn.born, conn.uses) && conn.usable() {
                kept.push(conn);
            }
        }
        kept.shrink_to(64);
        *self.idle.borrow_mut() = kept;
        for conn in self.h2.borrow().iter() {
            let idle = conn.inflight() == 0
                && now.saturating_duration_since(conn.idle_since.get()) > limit;
            if idle || self.too_old(conn.born, 0) {
                conn.draining.set(true);
            }
        }
        self.h2.borrow_mut().retain(|c| !c.draining.get() || c.inflight() > 0);
        self.waiters.borrow_mut().retain(|w| !w.is_closed());
    }

    /// No new connections; idle ones close now, busy ones when their request ends.
    fn close(&self) {
        self.closed.set(true);
        drop(std::mem::take(&mut *self.idle.borrow_mut()));
        for conn in self.h2.borrow_mut().drain(..) {
            conn.draining.set(true);
        }
    }
}

/// Takes a dial back out of the count if it is dropped or fails.
struct OpenGuard(Weak<Pool>);

impl OpenGuard {
    /// The connection exists now and counts for itself.
    fn keep(mut self) {
        self.0 = Weak::new();
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        if let Some(pool) = self.0.upgrade() {
            pool.connection_closed();
        }
    }
}
