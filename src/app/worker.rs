//! One worker thread: a runtime of its own, the connections it was handed, and its warm pools.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use crate::app::handler::WorkerHandler;
use crate::listener::{self, Accepted, Drain, Loads, serve_connection};
use crate::proxy::Worker;

/// How often pools are looked after when nothing happens.
const MAINTAIN: Duration = Duration::from_secs(5);

/// What a worker is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    Run,
    /// End gracefully within this time.
    Drain(Duration),
    /// End now.
    Quit,
}

/// What a worker thread starts with.
pub(super) struct Start {
    pub index: usize,
    pub connections: mpsc::UnboundedReceiver<Accepted>,
    pub orders: watch::Receiver<Order>,
    /// Changes with every new generation.
    pub generations: watch::Receiver<u64>,
    /// Changes whenever a key was blocked at once.
    pub endings: watch::Receiver<u64>,
    pub settings: Arc<ArcSwap<listener::Settings>>,
    pub loads: Loads,
}

/// Serves until told to end. `worker` is made on the thread that runs it.
pub(super) async fn run(worker: Rc<Worker>, mut start: Start) {
    let drain = Drain::new();
    let handler = Rc::new(WorkerHandler(worker.clone()));
    let mut settings = Rc::new(listener::Settings::clone(&start.settings.load()));
    maintain(&worker);
    let mut tick = tokio::time::interval(MAINTAIN);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            accepted = start.connections.recv() => {
                let Some(accepted) = accepted else { break };
                let (handler, settings) = (handler.clone(), settings.clone());
                let (drain, loads, index) = (drain.clone(), start.loads.clone(), start.index);
                tokio::task::spawn_local(serve_connection(
                    accepted, handler, settings, drain, loads, index,
                ));
            }
            _ = tick.tick() => maintain(&worker),
            changed = start.generations.changed() => {
                if changed.is_err() {
                    break;
                }
                settings = Rc::new(listener::Settings::clone(&start.settings.load()));
                maintain(&worker);
            }
            changed = start.endings.changed() => {
                if changed.is_err() {
                    break;
                }
                worker.wake_ended();
            }
            changed = start.orders.changed() => {
                if changed.is_err() || *start.orders.borrow() != Order::Run {
                    break;
                }
            }
        }
    }
    end(&worker, &drain, start).await;
}

fn maintain(worker: &Worker) {
    let generation = worker.generation();
    worker.pools.maintain(generation.snapshot().providers.iter().map(|provider| &provider.origin));
}

/// Lets the connections end by themselves for a while.
async fn end(worker: &Worker, drain: &Rc<Drain>, mut start: Start) {
    drain.start();
    let order = *start.orders.borrow();
    if let Order::Drain(limit) = order {
        let endings = async {
            while start.endings.changed().await.is_ok() {
                worker.wake_ended();
            }
            std::future::pending::<()>().await;
        };
        let quit = async {
            while start.orders.changed().await.is_ok() {
                if *start.orders.borrow() == Order::Quit {
                    return;
                }
            }
        };
        tokio::select! {
            () = drain.emptied() => {}
            () = endings => {}
            () = tokio::time::sleep(limit) => {
                let left = drain.open_count();
                tracing::warn!(worker = start.index, left, "connections cut at the end of the drain");
            }
            () = quit => {}
        }
    }
    worker.pools.close();
}
