//! Everything that is not on the path of a request: reloads on a thread of their own, and health,
//! metrics, the admin API and name look-ups on the slow thread.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{oneshot, watch};

use crate::admin::{self, Problem, Token};
use crate::app::books::{Books, tidy};
use crate::app::build::{Builder, certificates, listener_settings};
use crate::app::control::Controls;
use crate::app::governance::{Revisions, file_objects, unrated};
use crate::app::worker::Order;
use crate::clock;
use crate::config::{self, Config, Fault, Fingerprint, How, Loaded};
use crate::listener::{self, Loads, ServerTls};
use crate::proxy::{Shared, Snapshot};
use crate::store::Stats;
use crate::telemetry::AccessLog;

/// How often idle limits are let go and the last use of keys is noted.
const TIDY: Duration = Duration::from_secs(30);
const DAY_MS: u64 = 86_400_000;

/// How often names of upstreams are looked up again, off the path.
const DNS_REFRESH: Duration = Duration::from_secs(30);

/// What the reload thread is asked for.
pub(super) enum Wish {
    /// To load the configuration again, and perhaps to say how it went.
    Reload(Option<oneshot::Sender<Outcome>>),
    /// To put prices and rates to work that were set by the admin API.
    Prices,
}

pub(super) type Outcome = Result<serde_json::Value, Vec<Problem>>;

/// The state of the slow side, shared with the admin API.
pub(super) struct Slow {
    pub shared: Arc<Shared>,
    pub loads: Loads,
    pub access: Arc<AccessLog>,
    pub books: Arc<Books>,
    pub config: ArcSwap<Config>,
    /// What the process was started with: sockets and threads are of that.
    pub started_with: Config,
    pub path: Option<PathBuf>,
    pub ready: AtomicBool,
    pub started_unix_ms: u64,
    pub last_reload: Mutex<LastReload>,
    pub reloads: AtomicU64,
    pub reload_failures: AtomicU64,
    pub journal: ArcSwapOption<JournalView>,
    wishes: mpsc::Sender<Wish>,
    stopped: watch::Sender<bool>,
}

/// What the slow side looks after.
pub(super) struct Parts {
    pub shared: Arc<Shared>,
    pub loads: Loads,
    pub access: Arc<AccessLog>,
    pub books: Arc<Books>,
}

/// Reads the figures of the journal.
pub(super) type JournalView = Box<dyn Fn() -> Stats + Send + Sync>;

/// How the last reload went.
#[derive(Clone, Default)]
pub(super) struct LastReload {
    pub unix_ms: u64,
    pub problems: Vec<Problem>,
    pub needs_restart: Vec<String>,
}

/// What the reload thread owns.
pub(super) struct Reloader {
    pub builder: Builder,
    pub generations: watch::Sender<u64>,
    pub listener_settings: Arc<ArcSwap<listener::Settings>>,
    pub tls: Option<Arc<ServerTls>>,
    revisions: Revisions,
    /// Generations that a worker may still read; freed here, where they were made.
    retired: Vec<Arc<Snapshot>>,
}

impl Reloader {
    pub(super) fn new(
        builder: Builder,
        generations: watch::Sender<u64>,
        listener_settings: Arc<ArcSwap<listener::Settings>>,
        tls: Option<Arc<ServerTls>>,
        revisions: Revisions,
    ) -> Self {
        Reloader { builder, generations, listener_settings, tls, revisions, retired: Vec::new() }
    }
}

impl Slow {
    /// Starts the reload thread, which also watches the files if there are any.
    ///
    /// # Errors
    /// Of starting the thread.
    pub(super) fn start(
        loaded: Loaded,
        path: Option<PathBuf>,
        parts: Parts,
        reloader: Reloader,
        (wishes, wished): (mpsc::Sender<Wish>, mpsc::Receiver<Wish>),
    ) -> std::io::Result<(Arc<Slow>, JoinHandle<()>)> {
        let Parts { shared, loads, access, books } = parts;
        let slow = Arc::new(Slow {
            shared,
            loads,
            access,
            books,
            started_with: loaded.config.clone(),
            config: ArcSwap::from_pointee(loaded.config),
            path,
            ready: AtomicBool::new(false),
            started_unix_ms: clock::unix_ms(),
            last_reload: Mutex::default(),
            reloads: AtomicU64::new(0),
            reload_failures: AtomicU64::new(0),
            journal: ArcSwapOption::empty(),
            wishes,
            stopped: watch::channel(false).0,
        });
        let me = slow.clone();
        let thread = std::thread::Builder::new()
            .name("reload".into())
            .spawn(move || reload_loop(&me, reloader, &wished, loaded.fingerprint))?;
        Ok((slow, thread))
    }

    /// Asks for a reload and does not wait.
    pub(super) fn wish_reload(&self) {
        let _ = self.wishes.send(Wish::Reload(None));
    }

    /// Asks for a reload and waits for it.
    pub(super) fn reload_now(&self) -> Outcome {
        self.reload_answer().blocking_recv().unwrap_or_else(|_| Err(ending()))
    }

    /// Asks for a reload; the answer comes by the channel.
    pub(super) fn reload_answer(&self) -> oneshot::Receiver<Outcome> {
        let (sender, receiver) = oneshot::channel();
        let _ = self.wishes.send(Wish::Reload(Some(sender)));
        receiver
    }

    pub(super) fn drain_time(&self) -> Duration {
        self.config.load().server.timeouts.drain
    }

    /// Ends the slow thread and the reload thread.
    pub(super) fn stop(&self) {
        self.stopped.send_replace(true);
        self.wish_reload();
    }

    fn is_stopped(&self) -> bool {
        *self.stopped.borrow()
    }
}

pub(super) fn ending() -> Vec<Problem> {
    vec![Problem { message: "the process is ending".into(), ..Problem::default() }]
}

fn reload_loop(
    slow: &Arc<Slow>,
    mut reloader: Reloader,
    wished: &mpsc::Receiver<Wish>,
    fingerprint: Fingerprint,
) {
    let wishes = slow.wishes.clone();
    let watch = slow.path.as_ref().and_then(|_| {
        config::watch(fingerprint, move || {
            let _ = wishes.send(Wish::Reload(None));
        })
        .map_err(
            |error| tracing::warn!(%error, "configuration files are not watched; reload by hand"),
        )
        .ok()
    });
    while let Ok(wish) = wished.recv() {
        if slow.is_stopped() {
            return;
        }
        let wish = match wish {
            Wish::Reload(wish) => wish,
            Wish::Prices => {
                reprice(slow, &mut reloader);
                continue;
            }
        };
        // Several wishes at once (a watch that fires beside a signal) are one reload each: whoever
        // waits wants to know of a reload that began after asking.
        let outcome = reload(slow, &mut reloader, watch.as_ref());
        if let Some(answer) = wish {
            let _ = answer.send(outcome);
        }
    }
}

/// Puts prices and rates to work that were set by the admin API.
fn reprice(slow: &Arc<Slow>, reloader: &mut Reloader) {
    let generation = slow.shared.snapshot.load().generation + 1;
    match reloader.builder.build(&slow.config.load(), &slow.books.stored(), generation) {
        Ok(snapshot) => replace(slow, reloader, snapshot),
        Err(error) => tracing::error!(%error, "new prices cannot be put to work"),
    }
}

/// Makes a generation the present one.
fn replace(slow: &Slow, reloader: &mut Reloader, snapshot: Snapshot) {
    slow.books.keep_prices(&snapshot.pricing);
    let generation = snapshot.generation;
    let retired = slow.shared.snapshot.swap(Arc::new(snapshot));
    reloader.retired.push(retired);
    reloader.retired.retain(|old| Arc::strong_count(old) > 1);
    reloader.generations.send_replace(generation);
}

fn reload(slow: &Arc<Slow>, reloader: &mut Reloader, watch: Option<&config::Watch>) -> Outcome {
    if slow.path.is_none() {
        // Nothing to load: not a failure of a reload.
        return Err(problem("this gateway was started without a configuration file"));
    }
    slow.reloads.fetch_add(1, Relaxed);
    let outcome = try_reload(slow, reloader, watch);
    let mut last = slow.last_reload.lock().unwrap_or_else(PoisonError::into_inner);
    last.unix_ms = clock::unix_ms();
    match &outcome {
        Ok(report) => {
            last.problems.clear();
            tracing::info!(%report, "configuration reloaded");
        }
        Err(problems) => {
            slow.reload_failures.fetch_add(1, Relaxed);
            last.problems.clone_from(problems);
            for problem in problems {
                let file = slow.path.as_ref().map(|path| path.display().to_string());
                let file = file.unwrap_or_default();
                tracing::error!(%file, %problem, "the configuration was not reloaded; the old one goes on serving");
            }
        }
    }
    outcome
}

fn try_reload(slow: &Slow, reloader: &mut Reloader, watch: Option<&config::Watch>) -> Outcome {
    let Some(path) = &slow.path else {
        return Err(problem("this gateway was started without a configuration file"));
    };
    let loaded = match config::load(path, &|name| std::env::var(name).ok()) {
        Ok(loaded) => loaded,
        Err(faults) => {
            if let Some(watch) = watch {
                watch.follow(faults.fingerprint);
            }
            return Err(faults.faults.iter().map(|fault| problem_of(fault, path)).collect());
        }
    };
    if let Some(watch) = watch {
        watch.follow(loaded.fingerprint.clone());
    }
    if let Some(what) = emptied(&slow.config.load(), &loaded.config) {
        return Err(problem(&format!(
            "there is no [[{what}]] any more, as in a file that is being written; to serve such a configuration, restart"
        )));
    }
    // Whether a rate is missing is known here.
    let missing = unrated(&loaded, &slow.books.stored());
    if !missing.is_empty() {
        return Err(missing.iter().map(|fault| problem_of(fault, path)).collect());
    }
    let is_known = |warning: &&Fault| !loaded.unrated.iter().any(|it| it.warning == **warning);
    for warning in loaded.warnings.iter().filter(is_known) {
        tracing::warn!(%warning, "configuration");
    }
    apply(slow, reloader, loaded.config)
}

/// Puts a configuration to work, all of it or nothing.
fn apply(slow: &Slow, reloader: &mut Reloader, config: Config) -> Outcome {
    let old = slow.config.load_full();
    let changes = config::diff(&old, &config);
    let generation = slow.shared.snapshot.load().generation + 1;
    if let (Some(server), Some(tls)) = (&reloader.tls, &config.server.tls) {
        server.reload(&certificates(tls)).map_err(|e| problem(&e.to_string()))?;
    }
    let snapshot = reloader
        .builder
        .build(&config, &slow.books.stored(), generation)
        .map_err(|e| problem(&e.to_string()))?;
    let file = file_objects(&config, &mut reloader.revisions, generation);
    let keys = slow
        .books
        .directory
        .set_file_objects(file, clock::now())
        .map_err(|e| problem(&e.to_string()))?;
    let warnings = slow.books.shadowed();
    reloader.listener_settings.store(Arc::new(listener_settings(&config)));
    slow.shared.requests.set_limit(config.server.limits.requests as u64);
    slow.shared.body_memory.set_limit(config.server.limits.body_memory_bytes);
    let needs_restart = needs_restart(&slow.started_with, &config);
    for what in &needs_restart {
        tracing::warn!(%what, "takes effect only after a restart");
    }
    slow.config.store(Arc::new(config));
    replace(slow, reloader, snapshot);
    let mut last = slow.last_reload.lock().unwrap_or_else(PoisonError::into_inner);
    last.needs_restart.clone_from(&needs_restart);
    let list: Vec<serde_json::Value> = changes
        .iter()
        .map(|change| {
            let how = match change.how {
                How::Added => "added",
                How::Changed => "changed",
                How::Removed => "removed",
            };
            serde_json::json!({"what": change.what, "how": how})
        })
        .collect();
    Ok(serde_json::json!({
        "generation": generation,
        "changes": list,
        "keys": {"added": keys.added, "changed": keys.replaced, "removed": keys.removed},
        "needs_restart": needs_restart,
        "warnings": warnings,
    }))
}

/// What was there and is gone altogether.
fn emptied(old: &Config, new: &Config) -> Option<&'static str> {
    [
        ("provider", !old.providers.is_empty() && new.providers.is_empty()),
        ("model", !old.models.is_empty() && new.models.is_empty()),
        ("key", !old.keys.is_empty() && new.keys.is_empty()),
    ]
    .into_iter()
    .find_map(|(what, is_gone)| is_gone.then_some(what))
}

/// Settings that are read once, at the start.
fn needs_restart(old: &Config, new: &Config) -> Vec<String> {
    let tls_listen = |config: &Config| config.server.tls.as_ref().map(|tls| tls.listen.clone());
    [
        ("server.listen", old.server.listen == new.server.listen),
        ("server.tls.listen", tls_listen(old) == tls_listen(new)),
        ("server.workers", old.server.workers == new.server.workers),
        (
            "server.limits.connections",
            old.server.limits.connections == new.server.limits.connections,
        ),
        ("[admin]", old.admin == new.admin),
        ("[store]", old.store == new.store),
        ("[log]", old.log == new.log),
    ]
    .into_iter()
    .filter(|(_, same)| !same)
    .map(|(what, _)| what.to_owned())
    .collect()
}

fn problem(message: &str) -> Vec<Problem> {
    vec![Problem { message: message.to_owned(), ..Problem::default() }]
}

fn problem_of(fault: &Fault, path: &Path) -> Problem {
    let known = |at: usize| Some(at).filter(|&at| at > 0);
    let cure = if fault.cure.is_empty() { String::new() } else { format!("; {}", fault.cure) };
    Problem {
        field: None,
        file: (Path::new(&fault.file) != path).then(|| fault.file.clone()),
        message: format!("{}{cure}", fault.message),
        line: known(fault.line),
        column: known(fault.column),
    }
}

/// Runs on the slow thread until `Slow::stop`.
pub(super) async fn run(
    slow: Arc<Slow>,
    admin: Option<std::net::TcpListener>,
    token: Token,
    order: watch::Receiver<Order>,
) {
    tokio::task::spawn_local(refresh_names(slow.clone()));
    tokio::task::spawn_local(tidy_up(slow.clone()));
    let mut stopped = slow.stopped.subscribe();
    let ended = async move {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    let listener = admin.map(tokio::net::TcpListener::from_std);
    match listener {
        Some(Ok(listener)) => {
            let controls = Arc::new(Controls(slow.clone()));
            admin::serve(listener, controls, token, ended).await;
        }
        Some(Err(error)) => {
            tracing::error!(%error, "the admin listener cannot be used");
            ended.await;
        }
        None => ended.await,
    }
    drop(order);
}

/// Looks after what is kept, and tells the head of the audit log at every day's end.
async fn tidy_up(slow: Arc<Slow>) {
    let mut day = clock::unix_ms() / DAY_MS;
    let mut noted_unix_ms = 0;
    loop {
        tokio::time::sleep(TIDY).await;
        let books = slow.books.clone();
        let today = clock::unix_ms() / DAY_MS;
        let is_new_day = std::mem::replace(&mut day, today) != today;
        let done = tokio::task::spawn_blocking(move || {
            tidy(&books, &mut noted_unix_ms);
            if is_new_day {
                books.tell_audit_head();
            }
            noted_unix_ms
        });
        noted_unix_ms = done.await.unwrap_or(noted_unix_ms);
    }
}

/// Looks up the names of upstreams again, so that no request has to wait for it.
async fn refresh_names(slow: Arc<Slow>) {
    loop {
        tokio::time::sleep(DNS_REFRESH).await;
        let snapshot = slow.shared.snapshot.load_full();
        for provider in &snapshot.providers {
            if provider.origin.is_named()
                && let Err(error) = provider.origin.refresh().await
            {
                tracing::warn!(provider = %provider.name, %error, "name look-up failed; the known addresses stay in use");
            }
        }
    }
}
