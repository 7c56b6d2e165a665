//! Graceful end of a worker's connections.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

/// Shared by the connections of one worker.
#[derive(Default)]
pub struct Drain {
    draining: Cell<bool>,
    started: Notify,
    open: Cell<usize>,
    emptied: Notify,
}

impl Drain {
    /// Nothing to drain yet.
    pub fn new() -> Rc<Drain> {
        Rc::default()
    }

    /// Tells every connection to end after what it is doing.
    pub fn start(&self) {
        self.draining.set(true);
        self.started.notify_waiters();
    }

    /// Whether `start` was called.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Ready when `start` is called; at once if that has happened. Cancel-safe.
    pub async fn started(&self) {
        let notified = self.started.notified();
        if !self.draining.get() {
            notified.await;
        }
    }

    /// Counts a connection until the guard is dropped.
    pub fn open(self: &Rc<Self>) -> OpenGuard {
        self.open.set(self.open.get() + 1);
        OpenGuard(self.clone())
    }

    /// Ready when no connection is open.
    pub async fn emptied(&self) {
        while self.open.get() > 0 {
            self.emptied.notified().await;
        }
    }

    /// Connections open now.
    pub fn open_count(&self) -> usize {
        self.open.get()
    }
}

/// One open connection.
pub struct OpenGuard(Rc<Drain>);

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        if self.0.open.get() == 0 {
            self.0.emptied.notify_one();
        }
    }
}
