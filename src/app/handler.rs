//! Joins the listener to the proxy: neither knows the other.

use std::rc::Rc;

use crate::error::Error;
use crate::exchange::Downstream;
use crate::listener::Handler;
use crate::net::LazyTimer;
use crate::proxy::{self, Worker};
use crate::wire::RequestHead;

/// Hands requests to a worker's proxy.
pub(super) struct WorkerHandler(pub Rc<Worker>);

impl Handler for WorkerHandler {
    async fn serve<D: Downstream>(&self, head: &RequestHead, down: &mut D, timer: &mut LazyTimer) {
        proxy::serve(&self.0, head, down, timer).await;
    }

    async fn refuse<D: Downstream>(&self, error: Error, down: &mut D) {
        proxy::refuse(&self.0, error, down).await;
    }
}
