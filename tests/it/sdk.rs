//! The official OpenAI SDKs against the gateway: both scripts of tests/sdk, with a provider and a
//! gateway of their own each.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use foretoken::sim::{Distribution, Lengths};

use crate::support::SimServer;
use crate::support::tls::Authority;

const KEY: &str = "sk-ft-of-the-sdk-tests";
const PROVIDER_KEY: &str = "sk-provider-of-the-sdk-tests";

/// A launcher made by tests/run; without one the checks cannot run, which a CI run must not hide.
fn launcher(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.peers/bin").join(name);
    if path.exists() {
        return Some(path);
    }
    let complaint = format!("{} is missing: tests/run installs it", path.display());
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{complaint}");
    // Past the capture of the test runner: a skip must be seen.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {complaint}");
    None
}

fn provider() -> SimServer {
    SimServer::with(|settings| {
        settings.ttft = Distribution::constant(Duration::from_millis(5));
        settings.gap = Distribution::constant(Duration::from_millis(3));
        settings.tokens = Lengths::constant(60);
        settings.keys = vec![PROVIDER_KEY.into()];
        settings.refuse_unknown_fields = true;
    })
}

fn configuration(sim: std::net::SocketAddr, cert: &Path, key: &Path) -> String {
    let aliases: String = [
        ("sdk-model", "gpt-4o-mini"),
        ("vendor/sdk-model", "gpt-4o-mini"),
        ("sdk-denied", "gpt-4o-mini"),
        ("sdk-limited", "sim-429"),
        ("sim-stall-head", "sim-stall-head"),
    ]
    .map(|(alias, model)| {
        format!(
            "[[model]]\nname = \"{alias}\"\n\
             targets = [{{ provider = \"sim\", model = \"{model}\" }}]\n"
        )
    })
    .concat();
    format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nworkers = 2\n\
         [server.tls]\nlisten = [\"127.0.0.1:0\"]\n\
         certificates = [{{ cert = \"file:{}\", key = \"file:{}\" }}]\n\
         [admin]\nlisten = \"off\"\n[store]\npath = \":memory:\"\n[log]\naccess = \"off\"\n\
         [[provider]]\nname = \"sim\"\nbase_url = \"http://{sim}/v1\"\n\
         api_key = \"{PROVIDER_KEY}\"\n{aliases}\
         [[key]]\nname = \"sdk\"\nsecret = \"{KEY}\"\ndeny_models = [\"sdk-denied\"]\n",
        cert.display(),
        key.display(),
    )
}

fn drive(launcher_name: &str, script: &str) {
    let Some(launcher) = launcher(launcher_name) else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let authority = Authority::new();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, authority.pem()).expect("written");
    let (cert, key) = authority.issue(&["127.0.0.1", "localhost"]).write(directory.path(), "edge");
    let sim = provider();
    let text = configuration(sim.addr, &cert, &key);
    let loaded = foretoken::config::parse(&text, "sdk", directory.path(), &|_| None)
        .unwrap_or_else(|faults| panic!("{faults}"));
    let options = foretoken::app::Options { loaded, path: None, fault_hook: None };
    let running = foretoken::app::start(options).expect("started");
    let (plain, tls) = (running.listen[0], running.listen_tls[0]);
    let output = Command::new(launcher)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk").join(script))
        .stdin(Stdio::null())
        .env("FORETOKEN_BASE_URL", format!("http://{plain}/v1"))
        .env("FORETOKEN_BARE_URL", format!("http://{plain}"))
        .env("FORETOKEN_H2C_URL", format!("http://{plain}/v1"))
        .env("FORETOKEN_TLS_URL", format!("https://{tls}/v1"))
        .env("FORETOKEN_TLS_CA", &ca)
        .env("FORETOKEN_KEY", KEY)
        .env("FORETOKEN_MODEL", "sdk-model")
        .env("FORETOKEN_DENIED_MODEL", "sdk-denied")
        .env("FORETOKEN_429_MODEL", "sdk-limited")
        .env("FORETOKEN_STALL_MODEL", "sim-stall-head")
        .env("FORETOKEN_SLASH_MODEL", "vendor/sdk-model")
        .env("FORETOKEN_SIM_URL", format!("http://{}", sim.addr))
        .output()
        .expect("the launcher runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {}\n{said}\n{complaints}", output.status);
    assert!(said.lines().filter(|line| line.starts_with("ok ")).count() > 20, "{said}");
    assert_eq!(sim.stats().auth_failures, 0, "the provider's key was not presented");
}

#[test]
fn the_python_sdk_is_served() {
    drive("python", "openai_python.py");
}

#[test]
fn the_node_sdk_is_served() {
    drive("node", "openai_node.mjs");
}
