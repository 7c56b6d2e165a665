//! Fair waiting. Who has no room may stand in the queue of its account for a while; what becomes
//! free is handed over to those who stand there before anybody new gets it, so nobody barges in, and
//! nobody is woken in vain.
//!
//! Every key has one line. The line of the key that was admitted longest ago comes first, and within
//! a line who came first: a key that floods waits behind itself, not others behind it. A line whose
//! first has no room (a limit of that key, say) holds up no other line.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::books::{ACCOUNT, Books, Wakers};
use super::cell::{AccountCell, Scopes};
use super::permit::{Held, Permit};
use super::refusal::{LimitKind, Refusal};
use super::slot::At;
use super::terms::{Actual, Ask, QueueSettings};
use crate::clock::Now;
use crate::ident::KeyId;

/// By when the key was admitted last, then by when its line began.
type Rank = (u64, u64);

/// Who waits in one account.
#[derive(Default, Debug)]
pub(super) struct Queue {
    lines: HashMap<KeyId, Line>,
    order: BTreeMap<Rank, KeyId>,
    waiters: HashMap<u64, Waiter>,
    next: u64,
}

/// The waiters of one key; never empty.
#[derive(Debug)]
struct Line {
    rank: Rank,
    waiters: VecDeque<u64>,
}

#[derive(Debug)]
struct Waiter {
    scopes: Scopes,
    ask: Ask,
    /// The last time that it was tried.
    refusal: Refusal,
    standing: Standing,
}

#[derive(Debug)]
enum Standing {
    InLine(Option<Waker>),
    /// It has its reservation and is being woken.
    Served(Box<Held>),
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Why the first of a key's line waits. `None`: that key has no line.
    pub(super) fn reason(&self, key: &KeyId) -> Option<&Refusal> {
        let first = self.lines.get(key)?.waiters.front()?;
        self.waiters.get(first).map(|waiter| &waiter.refusal)
    }

    fn enter(&mut self, waiter: Waiter, last_admitted: u64) -> u64 {
        let id = self.next;
        self.next += 1;
        let key = &waiter.scopes.names.key;
        if !self.lines.contains_key(key) {
            let rank = (last_admitted, id);
            self.order.insert(rank, key.clone());
            self.lines.insert(key.clone(), Line { rank, waiters: VecDeque::new() });
        }
        self.lines.get_mut(key).expect("it is there now").waiters.push_back(id);
        self.waiters.insert(id, waiter);
        id
    }

    /// The first of the first line behind this rank.
    fn first_behind(&self, rank: Option<Rank>) -> Option<(Rank, u64)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = rank.map_or(Unbounded, Excluded);
        let (rank, key) = self.order.range((from, Unbounded)).next()?;
        Some((*rank, *self.lines.get(key)?.waiters.front()?))
    }

    /// Takes the first of a line out of it; what is left of the line goes to its new rank.
    fn serve(&mut self, id: u64, held: Held) -> Option<Waker> {
        let number = held.first.number;
        let waiter = self.waiters.get_mut(&id)?;
        let served = Standing::Served(Box::new(held));
        let before = std::mem::replace(&mut waiter.standing, served);
        let key = waiter.scopes.names.key.clone();
        if let Some(line) = self.lines.get_mut(&key) {
            line.waiters.pop_front();
            self.order.remove(&line.rank);
            line.rank.0 = number;
            self.order.insert(line.rank, key.clone());
            self.close_if_empty(&key);
        }
        match before {
            Standing::InLine(waker) => waker,
            Standing::Served(_) => None,
        }
    }

    /// Lets somebody go, who may have a reservation by now.
    fn leave(&mut self, id: u64) -> Option<Waiter> {
        let waiter = self.waiters.remove(&id)?;
        let key = &waiter.scopes.names.key;
        if let (Standing::InLine(_), Some(line)) = (&waiter.standing, self.lines.get_mut(key)) {
            line.waiters.retain(|other| *other != id);
            self.close_if_empty(key);
        }
        Some(waiter)
    }

    fn close_if_empty(&mut self, key: &KeyId) {
        if self.lines.get(key).is_some_and(|line| line.waiters.is_empty())
            && let Some(line) = self.lines.remove(key)
        {
            self.order.remove(&line.rank);
        }
    }
}

impl Books {
    /// Hands what is free to those who wait, in their order.
    pub(super) fn serve(&mut self, at: At) -> Wakers {
        let mut wakers = Wakers::new();
        let mut behind = None;
        while let Some((rank, id)) = self.queue.first_behind(behind) {
            if self.slots[ACCOUNT].is_full() {
                break;
            }
            match self.try_waiter(id, at) {
                Some(Ok(held)) => wakers.extend(self.queue.serve(id, held)),
                _ => behind = Some(rank),
            }
        }
        wakers
    }

    fn try_waiter(&mut self, id: u64, at: At) -> Option<Result<Held, Refusal>> {
        let waiter = self.queue.waiters.get(&id)?;
        let (scopes, ask) = (waiter.scopes.clone(), waiter.ask);
        let slots = self.slots_of(&scopes);
        let tried = self.admit(&slots, ask, at);
        if let Err(refusal) = &tried {
            let waiter = self.queue.waiters.get_mut(&id)?;
            waiter.refusal = refusal.clone();
            if scopes.generation != self.generation {
                waiter.scopes = Scopes { slots, generation: self.generation, ..scopes };
            }
        }
        Some(tried)
    }

    /// Whether room may come while somebody waits for so long: what runs may use less than it has
    /// reserved, but a request of the last minute stays one.
    fn may_help(&self, refusal: &Refusal, settings: QueueSettings) -> bool {
        let Some(wait) = refusal.retry_after else { return false };
        let is_soon = wait <= settings.wait;
        match refusal.limit {
            LimitKind::Parallel => true,
            LimitKind::Requests => is_soon,
            LimitKind::Tokens | LimitKind::TokensPerDay => {
                let at = self.index.get(&refusal.scope);
                is_soon || at.is_some_and(|&at| self.slots[at as usize].running > 0)
            }
            LimitKind::Budget(_) | LimitKind::Balance => false,
        }
    }

    fn last_admitted(&self, scopes: &Scopes) -> u64 {
        let at = self.index.get(&scopes.names.key_scope());
        at.map_or(0, |&at| self.slots[at as usize].last_admitted)
    }
}

/// A place in the queue of an account. Dropped, it is given up, and so is a reservation that was
/// made for it meanwhile.
#[derive(Debug)]
#[must_use = "who is not polled is never served"]
pub struct Waiting {
    cell: Arc<AccountCell>,
    id: u64,
    deadline: Instant,
    next_try: Instant,
}

impl AccountCell {
    /// Waits for room, if the refusal allows it. `settings` are those of the account's terms, or of
    /// the alias that was asked for.
    ///
    /// # Errors
    /// The same refusal, where waiting would not help or the queue is full.
    pub fn wait(
        self: &Arc<Self>,
        scopes: &Scopes,
        ask: Ask,
        refusal: Refusal,
        settings: QueueSettings,
        now: Now,
    ) -> Result<Waiting, Refusal> {
        let (waiting, wakers) = {
            let mut books = self.books();
            let at = books.tick(now);
            let is_full = books.queue.waiters.len() >= settings.depth;
            if is_full || !books.may_help(&refusal, settings) {
                return Err(refusal);
            }
            let deadline = now.instant + settings.wait;
            let next_try = next_try(&refusal, now.instant, deadline);
            let standing = Standing::InLine(None);
            let last_admitted = books.last_admitted(scopes);
            let waiter = Waiter { scopes: scopes.clone(), ask, refusal, standing };
            let id = books.queue.enter(waiter, last_admitted);
            // Room may have come between the refusal and now.
            let wakers = books.serve(at);
            (Waiting { cell: self.clone(), id, deadline, next_try }, wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
        Ok(waiting)
    }
}

impl Waiting {
    /// When to poll again even if nobody wakes us: a window frees itself, or the wait is over.
    pub fn next_try(&self) -> Instant {
        self.next_try
    }

    /// Whether it is our turn. When the wait is over, the last refusal.
    ///
    /// Cancel safe: a turn that came is kept until the next call, or passed on by Drop.
    pub fn poll(&mut self, cx: &mut Context<'_>, now: Now) -> Poll<Result<Permit, Refusal>> {
        let cell = self.cell.clone();
        let (wakers, polled) = {
            let mut books = cell.books();
            let is_due = now.instant >= self.next_try;
            let at = books.tick(now);
            let wakers = if is_due { books.serve(at) } else { Wakers::new() };
            (wakers, self.poll_in(&mut books, cx, now, at))
        };
        wakers.into_iter().for_each(Waker::wake);
        polled
    }

    fn poll_in(
        &mut self,
        books: &mut Books,
        cx: &mut Context<'_>,
        now: Now,
        at: At,
    ) -> Poll<Result<Permit, Refusal>> {
        let is_over = now.instant >= self.deadline;
        match books.queue.waiters.get_mut(&self.id).map(|waiter| &mut waiter.standing) {
            Some(Standing::InLine(waker)) if !is_over => {
                if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
            }
            Some(Standing::InLine(_)) => {
                // Those before it had their chance just now.
                let tried = books.try_waiter(self.id, at).expect("it was there just now");
                books.queue.leave(self.id);
                return Poll::Ready(tried.map(|held| Permit::new(self.cell.clone(), held)));
            }
            Some(Standing::Served(_)) => {
                let waiter = books.queue.leave(self.id).expect("it was there just now");
                let Standing::Served(held) = waiter.standing else {
                    unreachable!("nobody goes back into a line")
                };
                return Poll::Ready(Ok(Permit::new(self.cell.clone(), *held)));
            }
            None => panic!("a place in a queue was polled after its end"),
        }
        if now.instant >= self.next_try
            && let Some(waiter) = books.queue.waiters.get(&self.id)
        {
            self.next_try = next_try(&waiter.refusal, now.instant, self.deadline);
        }
        Poll::Pending
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let wakers = {
            let mut books = self.cell.books();
            let at = books.at;
            match books.queue.leave(self.id).map(|waiter| waiter.standing) {
                Some(Standing::Served(held)) => {
                    books.settle(&held, &Actual::default(), at);
                    books.serve(at)
                }
                // Who was behind it in its line may have room where it had none.
                Some(Standing::InLine(_)) => books.serve(at),
                None => Wakers::new(),
            }
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

fn next_try(refusal: &Refusal, now: Instant, deadline: Instant) -> Instant {
    match (refusal.limit, refusal.retry_after) {
        // Nobody knows when a request ends; it hands its place over when it does.
        (LimitKind::Parallel, _) | (_, None) => deadline,
        (_, Some(wait)) => now.checked_add(wait).map_or(deadline, |at| at.min(deadline)),
    }
}
