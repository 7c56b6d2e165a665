//! Start, reload and drain of the process.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Release;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::{Builder as RuntimeBuilder, LocalOptions};
use tokio::sync::{mpsc, watch};

use crate::admin::{self, Token};
use crate::admit::Budget;
use crate::app::books::{Books, OwnReports, database};
use crate::app::build::{BuildFault, Builder, certificates, listener_settings};
use crate::app::descriptors::connection_limit;
use crate::app::governance::{Revisions, file_objects, unrated};
use crate::app::slow::{self, Reloader, Slow, Wish};
use crate::app::worker::{self, Order, Start};
use crate::clock;
use crate::config::{self, Config, Fault, Loaded, StorePath};
use crate::listener::{Acceptor, Load, Loads, ServerTls, WorkerPort, bind};
use crate::meter::{Counters, Meter};
use crate::proxy::{FaultHook, Shared, Worker};
use crate::store::{self, Database, Fsync, Journal};
use crate::telemetry::{AccessLog, Destination, Registry};

/// What to start.
pub struct Options {
    pub loaded: Loaded,
    /// The file to load again on a reload; `None` for a configuration made in memory.
    pub path: Option<PathBuf>,
    /// Called with every request; tests fail on purpose with it.
    pub fault_hook: Option<FaultHook>,
}

/// Why the process could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartFault {
    #[error("cannot listen on {address}: {cause}{}", hint(.cause))]
    Listen { address: SocketAddr, cause: io::Error },
    #[error("{0}")]
    Build(#[from] BuildFault),
    #[error("{0}")]
    Certificate(#[from] crate::listener::CertificateFault),
    #[error("{}", journal_text(.0))]
    Journal(#[from] store::OpenError),
    #[error("{}", store_text(.0))]
    Store(#[from] store::StoreError),
    #[error("log.access: {destination} cannot be written to: {cause}; {}", write_cure(.cause, "log.access"))]
    AccessLog { destination: String, cause: io::Error },
    #[error("{}", lines(.0))]
    Unrated(Vec<Fault>),
    #[error("admin.token is empty; give it a value, or remove it")]
    EmptyToken,
    #[error("the admin token cannot be kept in {}: {cause}; {}, or set admin.token", .file.display(), write_cure(.cause, "store.path"))]
    Token { file: PathBuf, cause: io::Error },
    #[error("a thread could not be started: {0}")]
    Thread(io::Error),
}

impl StartFault {
    /// Is the configuration at fault? Else it is the machine: the same file may do another time.
    pub fn is_of_the_configuration(&self) -> bool {
        match self {
            StartFault::Build(_)
            | StartFault::Certificate(_)
            | StartFault::Unrated(_)
            | StartFault::EmptyToken => true,
            StartFault::Journal(store::OpenError::TooSmall { .. }) => true,
            StartFault::Journal(store::OpenError::Io { cause, .. })
            | StartFault::Journal(store::OpenError::Store(store::StoreError::Io {
                cause, ..
            }))
            | StartFault::Store(store::StoreError::Io { cause, .. })
            | StartFault::AccessLog { cause, .. } => is_of_the_path(cause),
            _ => false,
        }
    }
}

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("\n")
}

/// What `verify` finds as well: the path itself is wrong.
fn is_of_the_path(cause: &io::Error) -> bool {
    use io::ErrorKind::{
        IsADirectory, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem,
    };
    let kinds = [IsADirectory, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem];
    kinds.contains(&cause.kind())
}

/// What to do about a file that cannot be written.
fn write_cure(cause: &io::Error, setting: &str) -> String {
    let first = match cause.kind() {
        io::ErrorKind::NotFound => "create its directory",
        io::ErrorKind::PermissionDenied => "let the user that foretoken runs as write there",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room there",
        _ => "see to it that it can be written",
    };
    format!("{first}, or name another place in {setting}")
}

fn journal_text(fault: &store::OpenError) -> String {
    match fault {
        store::OpenError::Store(fault) => store_text(fault),
        store::OpenError::TooSmall { .. } => {
            format!("store.journal: {fault}; raise it, or lower server.workers")
        }
        store::OpenError::Io { cause, .. } => {
            format!("store.path: {fault}; {}", write_cure(cause, "store.path"))
        }
        _ => format!("store.path: {fault}"),
    }
}

fn store_text(fault: &store::StoreError) -> String {
    match fault {
        store::StoreError::Io { cause, .. } => {
            format!("store.path: {fault}; {}", write_cure(cause, "store.path"))
        }
        _ => format!("store.path: {fault}"),
    }
}

/// The path as somebody in another directory would write it.
pub(super) fn whole(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn hint(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::AddrInUse => {
            "; another process listens there: stop it, or change the address"
        }
        io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege: use a higher one",
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        _ => "",
    }
}

/// How to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// Finish what is under way, within the configured drain time.
    Gracefully,
    /// Cut everything.
    Now,
}

/// A running gateway. Dropping it stops it at once.
pub struct Running {
    /// Addresses that callers can use, as bound.
    pub listen: Vec<SocketAddr>,
    pub listen_tls: Vec<SocketAddr>,
    pub admin: Option<SocketAddr>,
    /// The admin token, if one was made at this start; to be shown once.
    pub made_token: Option<String>,
    pub shared: Arc<Shared>,
    slow: Arc<Slow>,
    orders: watch::Sender<Order>,
    workers: Vec<JoinHandle<()>>,
    slow_threads: Vec<JoinHandle<()>>,
    journal: Option<Arc<Journal>>,
    access: Arc<AccessLog>,
}

/// Starts everything; when this returns, callers are served.
///
/// # Errors
/// What could not be opened, with the place in the configuration and a cure.
pub fn start(options: Options) -> Result<Running, StartFault> {
    let config = &options.loaded.config;
    let workers = worker_count(config);
    let registry = Registry::new(workers, clock::unix_ms());
    let journal = Arc::new(open_journal(config, workers)?);
    let destination = match &config.log.access {
        config::AccessLog::Stdout => Destination::Stdout,
        config::AccessLog::Stderr => Destination::Stderr,
        config::AccessLog::Off => Destination::Off,
        config::AccessLog::File(path) => Destination::File(path.clone()),
    };
    let access = access_log(destination)?;
    let mut builder = Builder::new(workers, registry.clone());
    let (wishes, wished) = std::sync::mpsc::channel();
    let wish = std::sync::Mutex::new(wishes.clone());
    let changed = move |_| {
        let wish = wish.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let _ = wish.send(Wish::Prices);
    };
    let now = clock::now();
    let mut revisions = Revisions::default();
    let file = file_objects(config, &mut revisions, 1);
    let books = Arc::new(Books::open(config, file, &journal, changed, now)?);
    let stored = books.stored();
    let missing = unrated(&options.loaded, &stored);
    if !missing.is_empty() {
        return Err(StartFault::Unrated(missing));
    }
    let snapshot = builder.build(config, &stored, 1)?;
    books.keep_prices(&snapshot.pricing);
    books.restore(&snapshot, now)?;
    books.tell_audit_head();
    books.shadowed();
    let shared = Arc::new(Shared {
        snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
        keyring: books.keyring.clone(),
        accounts: books.accounts.clone(),
        counters: Counters::new(workers),
        registry,
        requests: Budget::new(config.server.limits.requests as u64),
        body_memory: Budget::new(config.server.limits.body_memory_bytes),
        fault_hook: options.fault_hook.clone(),
        reports: Arc::new(OwnReports::new(books.reports.clone())),
    });
    let sockets = Sockets::open(config)?;
    let (token, made_token) = admin_token(config)?;
    let (orders, order) = watch::channel(Order::Run);
    let (generations, generation) = watch::channel(1);
    let (endings, ending) = watch::channel(0);
    books.keyring.on_ended(move || endings.send_modify(|count| *count += 1));
    let settings = Arc::new(ArcSwap::from_pointee(listener_settings(config)));
    let loads: Loads = (0..workers).map(|_| Load::default()).collect();
    let mut ports: Vec<WorkerPort> = Vec::new();
    let mut threads = Vec::new();
    for index in 0..workers {
        let (port, connections) = mpsc::unbounded_channel();
        ports.push(port);
        let start = Start {
            index,
            connections,
            orders: order.clone(),
            generations: generation.clone(),
            endings: ending.clone(),
            settings: settings.clone(),
            loads: loads.clone(),
        };
        let part = (journal.clone(), shared.counters.shard(index).unwrap_or_default());
        threads.push(worker_thread(start, workers, shared.clone(), part, access.worker(index))?);
    }
    let (listen, listen_tls, admin_address) = sockets.addresses();
    let reloader = Reloader::new(builder, generations, settings, sockets.tls.clone(), revisions);
    let Options { loaded, path, .. } = options;
    let (slow, reload_thread) = Slow::start(
        loaded,
        path,
        slow::Parts { shared: shared.clone(), loads: loads.clone(), access: access.clone(), books },
        reloader,
        (wishes, wished),
    )
    .map_err(StartFault::Thread)?;
    let view = Arc::downgrade(&journal);
    let stats = move || view.upgrade().map(|journal| journal.stats()).unwrap_or_default();
    slow.journal.store(Some(Arc::new(Box::new(stats))));
    let slow_thread = slow_thread(slow.clone(), sockets, ports, loads, token, order)?;
    slow.ready.store(true, Release);
    Ok(Running {
        listen,
        listen_tls,
        admin: admin_address,
        made_token,
        shared,
        slow,
        orders,
        workers: threads,
        slow_threads: vec![slow_thread, reload_thread],
        journal: Some(journal),
        access,
    })
}

pub(super) fn worker_count(config: &Config) -> usize {
    match config.server.workers {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
        n => n,
    }
}

fn access_log(destination: Destination) -> Result<Arc<AccessLog>, StartFault> {
    let name = match &destination {
        Destination::File(path) => whole(path).display().to_string(),
        Destination::Stdout => "the standard output".to_owned(),
        Destination::Stderr => "the standard error output".to_owned(),
        Destination::Off => String::new(),
    };
    AccessLog::new(destination).map_err(|cause| StartFault::AccessLog { destination: name, cause })
}

/// Where the journal is; nowhere for a store in memory.
pub(super) fn journal_dir(config: &Config) -> Option<PathBuf> {
    match &config.store.path {
        StorePath::Memory => None,
        StorePath::File(path) => Some(whole(Path::new(&format!("{}.journal", path.display())))),
    }
}

/// How the journal is kept.
pub(super) fn journal_settings(config: &Config, workers: usize) -> store::Settings {
    let fsync = match config.store.fsync {
        config::Fsync::Always => Fsync::Always,
        config::Fsync::Every(every) => Fsync::Every(every),
    };
    let bound = config.store.journal_bytes as usize;
    let settings = store::Settings::new(journal_dir(config), workers, bound, fsync);
    let retention = config.store.retention.unwrap_or(Duration::MAX);
    store::Settings { retention, flush: config.store.flush, ..settings }
}

fn open_journal(config: &Config, workers: usize) -> Result<Journal, StartFault> {
    let settings = journal_settings(config, workers);
    if let Some(dir) = &settings.dir {
        std::fs::create_dir_all(dir)
            .map_err(|cause| store::OpenError::Io { path: dir.clone(), cause })?;
    }
    let database = match database(config) {
        None => Database::in_memory()?,
        Some(path) => Database::open(&path)?,
    };
    let (journal, report) = Journal::open(&settings, Arc::new(database))?;
    tell_replayed(&report);
    Ok(journal)
}

/// What was lost is told louder than what was found.
fn tell_replayed(report: &store::Report) {
    const TAKEN_IN: &str = "the journal of the last run was taken in";
    if report.damaged_segments > 0 {
        tracing::error!(%report, "{TAKEN_IN}; its damaged segments are set aside");
    } else if report.torn_segments > 0 {
        tracing::warn!(%report, "{TAKEN_IN}");
    } else if !report.is_empty() {
        tracing::info!(%report, "{TAKEN_IN}");
    }
}

/// The admin token: the configured one, else one that is made and kept for the commands on this
/// host.
fn admin_token(config: &Config) -> Result<(Token, Option<String>), StartFault> {
    let made = |text: &str| Token::new(text).ok_or(StartFault::EmptyToken);
    if let Some(secret) = &config.admin.token {
        return Ok((made(secret.expose())?, None));
    }
    let file = match &config.store.path {
        StorePath::Memory => None,
        StorePath::File(path) => admin::token_file(&path.display().to_string()),
    };
    let secret = admin::token::make(rand::random());
    if let Some(file) = file {
        let kept = admin::token::save(&file, &secret);
        kept.map_err(|cause| StartFault::Token { file: whole(&file), cause })?;
    }
    Ok((made(secret.reveal())?, Some(secret.reveal().to_owned())))
}

/// All listening sockets, opened before anything else can fail late.
struct Sockets {
    plain: Vec<std::net::TcpListener>,
    encrypted: Vec<std::net::TcpListener>,
    admin: Option<std::net::TcpListener>,
    tls: Option<Arc<ServerTls>>,
    max_connections: usize,
}

impl Sockets {
    fn open(config: &Config) -> Result<Sockets, StartFault> {
        let bind_all = |addresses: &[SocketAddr]| -> Result<Vec<_>, StartFault> {
            addresses
                .iter()
                .map(|&address| {
                    bind(address).map_err(|cause| StartFault::Listen { address, cause })
                })
                .collect()
        };
        let tls = match &config.server.tls {
            Some(tls) => Some(ServerTls::new(&certificates(tls))?),
            None => None,
        };
        let encrypted = config.server.tls.as_ref().map_or(&[][..], |tls| &tls.listen);
        Ok(Sockets {
            plain: bind_all(&config.server.listen)?,
            encrypted: bind_all(encrypted)?,
            admin: bind_all(config.admin.listen.as_slice())?.pop(),
            tls,
            max_connections: connection_limit(config.server.limits.connections),
        })
    }

    fn addresses(&self) -> (Vec<SocketAddr>, Vec<SocketAddr>, Option<SocketAddr>) {
        let of = |sockets: &[std::net::TcpListener]| {
            sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect()
        };
        let admin = self.admin.as_ref().and_then(|socket| socket.local_addr().ok());
        (of(&self.plain), of(&self.encrypted), admin)
    }
}

fn worker_thread(
    start: Start,
    workers: usize,
    shared: Arc<Shared>,
    (journal, shard): (Arc<Journal>, Arc<crate::meter::Shard>),
    lane: crate::telemetry::Lane,
) -> Result<JoinHandle<()>, StartFault> {
    let name = format!("worker-{}", start.index);
    std::thread::Builder::new()
        .name(name)
        .spawn(move || {
            let runtime = RuntimeBuilder::new_current_thread()
                .enable_all()
                .build_local(LocalOptions::default())
                .expect("a runtime needs only descriptors, and the process has just started");
            runtime.block_on(async move {
                let writer = match journal.writer(start.index) {
                    Ok(writer) => writer,
                    Err(error) => {
                        tracing::error!(%error, "a worker cannot write its journal");
                        return;
                    }
                };
                drop(journal);
                let meter = Meter::new(writer, shard);
                let worker = Worker::new(start.index, workers, shared, meter, lane);
                worker::run(worker, start).await;
            });
        })
        .map_err(StartFault::Thread)
}

fn slow_thread(
    slow: Arc<Slow>,
    sockets: Sockets,
    ports: Vec<WorkerPort>,
    loads: Loads,
    token: Token,
    order: watch::Receiver<Order>,
) -> Result<JoinHandle<()>, StartFault> {
    std::thread::Builder::new()
        .name("slow".into())
        .spawn(move || {
            let runtime = RuntimeBuilder::new_current_thread()
                .enable_all()
                .build_local(LocalOptions::default())
                .expect("a runtime needs only descriptors, and the process has just started");
            runtime.block_on(async move {
                let acceptor = |listener, tls| Acceptor {
                    listener,
                    tls,
                    workers: ports.clone(),
                    loads: loads.clone(),
                    max_connections: sockets.max_connections,
                };
                for listener in sockets.plain {
                    accept(acceptor(listener, None), order.clone());
                }
                for listener in sockets.encrypted {
                    accept(acceptor(listener, sockets.tls.clone()), order.clone());
                }
                // The workers end when the last port is gone.
                drop(ports);
                slow::run(slow, sockets.admin, token, order).await;
            });
        })
        .map_err(StartFault::Thread)
}

fn accept(acceptor: Acceptor, mut order: watch::Receiver<Order>) {
    tokio::task::spawn_local(async move {
        let stop = async move {
            let _ = order.wait_for(|order| *order != Order::Run).await;
        };
        if let Err(error) = acceptor.run(stop).await {
            tracing::error!(%error, "a listening socket failed");
        }
    });
}

impl Running {
    /// Loads the configuration again, and waits for the outcome.
    ///
    /// # Errors
    /// All faults of the file; the old generation goes on serving.
    pub fn reload(&self) -> Result<serde_json::Value, Vec<admin::Problem>> {
        self.slow.reload_now()
    }

    /// A hand on the gateway for threads that wait for signals.
    pub fn reloader(&self) -> impl Fn() + Send + Sync + 'static {
        let slow = self.slow.clone();
        move || {
            slow.access.reopen();
            slow.wish_reload();
        }
    }

    /// A hand to stop the gateway with while another thread waits for its end.
    pub fn stopper(&self) -> impl Fn(Stop) + Send + Sync + 'static {
        let (orders, drain) = (self.orders.clone(), self.slow.drain_time());
        move |stop| {
            orders.send_replace(match stop {
                Stop::Gracefully => Order::Drain(drain),
                Stop::Now => Order::Quit,
            });
        }
    }

    /// Begins to stop; `wait` returns when it is done.
    pub fn stop(&self, stop: Stop) {
        self.slow.ready.store(false, Release);
        self.stopper()(stop);
    }

    /// Waits until every worker has ended, and closes the books.
    pub fn wait(mut self) {
        self.join();
    }

    fn join(&mut self) {
        for thread in self.workers.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
        // The slow thread serves health and metrics until the last stream has ended.
        self.slow.stop();
        for thread in self.slow_threads.drain(..) {
            let _ = thread.join();
        }
        if let Some(journal) = self.journal.take().and_then(Arc::into_inner)
            && let Err(error) = journal.close()
        {
            tracing::error!(%error, "the journal could not be emptied; the next start takes it in");
        }
        self.access.flush(Duration::from_secs(5));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.workers.is_empty() {
            self.stop(Stop::Now);
            self.join();
        }
    }
}
