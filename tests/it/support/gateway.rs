//! A gateway in this process, and the configuration it is started with.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use foretoken::app::{Options, Running, Stop, start};
use foretoken::proxy::FaultHook;
use foretoken::wire::RequestHead;

use super::client::{Answer, request};

/// What callers present.
pub const KEY: &str = "sk-caller-0123456789abcdef";
/// What the gateway presents to its upstream.
pub const UPSTREAM_KEY: &str = "sk-upstream-fedcba9876543210";
/// What the admin API asks for.
pub const ADMIN_TOKEN: &str = "admin-token-of-the-tests";

/// A configuration in the making: one provider `up`, one model `*` that passes on whatever name
/// was asked for, one key `caller` with [`KEY`]. Each part can be added to or replaced.
#[derive(Clone)]
pub struct Setup {
    upstream: String,
    listen: String,
    workers: usize,
    server: String,
    access: String,
    store: String,
    provider: String,
    models: String,
    keys: String,
    more: String,
    hook: Option<FaultHook>,
}

impl Setup {
    /// A gateway in front of one upstream without TLS.
    pub fn to(upstream: SocketAddr) -> Setup {
        Setup::to_url(&format!("http://{upstream}/v1"))
    }

    /// A gateway in front of one upstream, given as a base URL.
    pub fn to_url(url: &str) -> Setup {
        Setup {
            upstream: url.to_owned(),
            listen: "\"127.0.0.1:0\"".into(),
            workers: 1,
            server: String::new(),
            access: "off".into(),
            store: ":memory:".into(),
            provider: String::new(),
            models: "[[model]]\nname = \"*\"\ntargets = [{ provider = \"up\", model = \"*\" }]\n"
                .into(),
            keys: format!("[[key]]\nname = \"caller\"\nsecret = \"{KEY}\"\n"),
            more: String::new(),
            hook: None,
        }
    }

    /// The addresses of `[server]`, as the inside of a TOML list.
    pub fn listen(mut self, list: &str) -> Setup {
        self.listen = list.into();
        self
    }

    pub fn workers(mut self, workers: usize) -> Setup {
        self.workers = workers;
        self
    }

    /// Adds lines for the server: keys of `[server]` first, then tables such as
    /// `[server.limits]`.
    pub fn server(mut self, lines: &str) -> Setup {
        self.server.push_str(lines);
        self.server.push('\n');
        self
    }

    /// Adds keys to the provider `up`.
    pub fn provider(mut self, lines: &str) -> Setup {
        self.provider.push_str(lines);
        self.provider.push('\n');
        self
    }

    /// Replaces the models.
    pub fn models(mut self, tables: &str) -> Setup {
        self.models = tables.to_owned();
        self
    }

    /// Replaces the keys.
    pub fn keys(mut self, tables: &str) -> Setup {
        self.keys = tables.to_owned();
        self
    }

    /// Adds tables at the end: further providers, models, keys.
    pub fn more(mut self, tables: &str) -> Setup {
        self.more.push_str(tables);
        self.more.push('\n');
        self
    }

    /// Writes the access log to a file.
    pub fn access_log(mut self, path: &Path) -> Setup {
        self.access = path.display().to_string();
        self
    }

    /// Keeps the books in a file instead of memory.
    pub fn store(mut self, path: &Path) -> Setup {
        self.store = path.display().to_string();
        self
    }

    /// Called with the head of every request.
    pub fn hook(mut self, hook: impl Fn(&RequestHead) + Send + Sync + 'static) -> Setup {
        self.hook = Some(Arc::new(hook));
        self
    }

    /// The configuration file.
    pub fn text(&self) -> String {
        let Setup { upstream, listen, workers, server, access, store, provider, .. } = self;
        let pool = if provider.contains("pool") { "" } else { "pool = { min_warm = 0 }\n" };
        let key = if provider.contains("api_key") {
            String::new()
        } else {
            format!("api_key = \"{UPSTREAM_KEY}\"\n")
        };
        let (models, keys, more) = (&self.models, &self.keys, &self.more);
        format!(
            "[server]\nlisten = [{listen}]\nworkers = {workers}\n{server}\n\
             [admin]\nlisten = \"127.0.0.1:0\"\ntoken = \"{ADMIN_TOKEN}\"\n\
             [store]\npath = \"{store}\"\njournal = \"4MiB\"\nflush = \"100ms\"\n\
             [log]\naccess = \"{access}\"\nlevel = \"error\"\n\
             [[provider]]\nname = \"up\"\nbase_url = \"{upstream}\"\n{key}{pool}{provider}\n\
             {models}\n{keys}\n{more}"
        )
    }

    /// Writes the configuration to a file, so that it can be reloaded or given to the binary.
    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.text()).expect("the configuration is written");
    }

    /// Starts a gateway from memory.
    #[track_caller]
    pub fn start(&self) -> Gateway {
        let parsed = foretoken::config::parse(&self.text(), "test", Path::new("."), &|_| None);
        let loaded = parsed.unwrap_or_else(|faults| panic!("{faults}\n{}", self.text()));
        Gateway::of(Options { loaded, path: None, fault_hook: self.hook.clone() })
    }

    /// Writes the configuration to `path` and starts a gateway from that file, which it watches.
    #[track_caller]
    pub fn start_file(&self, path: &Path) -> Gateway {
        self.write(path);
        let loaded = foretoken::config::load(path, &|name| std::env::var(name).ok());
        let loaded = loaded.unwrap_or_else(|faults| panic!("{faults}\n{}", self.text()));
        let path = Some(PathBuf::from(path));
        Gateway::of(Options { loaded, path, fault_hook: self.hook.clone() })
    }
}

/// A running gateway; stops at once when it is dropped.
pub struct Gateway {
    running: Option<Running>,
    /// Where it serves in clear.
    pub addr: SocketAddr,
    pub admin: SocketAddr,
}

impl Gateway {
    #[track_caller]
    fn of(options: Options) -> Gateway {
        let running = start(options).unwrap_or_else(|fault| panic!("{fault}"));
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
        let addr = running.listen.first().copied().unwrap_or(nowhere);
        let admin = running.admin.expect("the tests always have an admin port");
        Gateway { running: Some(running), addr, admin }
    }

    pub fn running(&self) -> &Running {
        self.running.as_ref().expect("it runs until it is stopped")
    }

    /// Where it serves by TLS.
    pub fn tls(&self) -> SocketAddr {
        *self.running().listen_tls.first().expect("[server.tls] is configured")
    }

    /// Stops gracefully and waits for the end; everything has been written then.
    pub fn finish(mut self) {
        let running = self.running.take().expect("it runs");
        running.stop(Stop::Gracefully);
        running.wait();
    }

    /// A request to the admin port, with the token.
    #[track_caller]
    pub fn admin(&self, method: &str, path: &str) -> Answer {
        let token = format!("Bearer {ADMIN_TOKEN}");
        request(self.admin, method, path, &[("authorization", &token)], b"")
    }

    /// All metrics, as scraped.
    #[track_caller]
    pub fn metrics(&self) -> String {
        let answer = self.admin("GET", "/metrics");
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text()
    }

    /// The sum of the samples whose line begins with `name` and holds all of `labels`.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let metrics = self.metrics();
        let lines = metrics.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        });
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }
}
