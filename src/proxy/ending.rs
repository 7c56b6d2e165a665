//! Requests under way, so that those of a key that is blocked at once can be woken to end.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Waker};

use crate::auth::Held;

/// The requests of one worker that wait for an upstream or pass an answer on.
#[derive(Default)]
pub(super) struct Running {
    slots: RefCell<Slots>,
}

#[derive(Default)]
struct Slots {
    all: Vec<Option<Slot>>,
    /// Places that are free in `all`.
    free: Vec<usize>,
}

struct Slot {
    held: Rc<Held>,
    waker: Option<Waker>,
}

impl Running {
    /// A place for a request of this key, given back on drop.
    pub(super) fn enter(&self, held: Rc<Held>) -> Place<'_> {
        let slot = Some(Slot { held: held.clone(), waker: None });
        let mut slots = self.slots.borrow_mut();
        let at = match slots.free.pop() {
            Some(at) => {
                slots.all[at] = slot;
                at
            }
            None => {
                slots.all.push(slot);
                slots.all.len() - 1
            }
        };
        Place { running: self, held, at }
    }

    /// Wakes the requests whose key has been ended. Slow: looks at all of them.
    pub(super) fn wake_ended(&self) {
        let mut wakers = Vec::new();
        for slot in self.slots.borrow_mut().all.iter_mut().flatten() {
            if slot.held.is_ended() {
                wakers.extend(slot.waker.take());
            }
        }
        // Outside of the borrow: waking may run anything.
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// One request among those under way.
pub(super) struct Place<'a> {
    running: &'a Running,
    held: Rc<Held>,
    at: usize,
}

impl Place<'_> {
    /// Whether the key has been ended; if not, the task is woken when that happens.
    pub(super) fn poll_ended(&self, cx: &mut Context<'_>) -> bool {
        if self.held.is_ended() {
            return true;
        }
        if let Some(Some(slot)) = self.running.slots.borrow_mut().all.get_mut(self.at)
            && !slot.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            slot.waker = Some(cx.waker().clone());
        }
        false
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut slots = self.running.slots.borrow_mut();
        slots.all[self.at] = None;
        slots.free.push(self.at);
    }
}
