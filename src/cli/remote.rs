//! Commands that ask a running gateway: `reload`, `status`, `routes`.

use std::path::Path;

use clap::Args;
use serde_json::Value;

use super::{ConfigArgs, FAILED, Failure, UNREACHABLE, print};
use crate::admin::{self, token_file};
use crate::auth::Secret;

#[derive(Args)]
#[command(after_help = "Finds the gateway by the configuration's [admin] table; --admin and \
FORETOKEN_ADMIN_URL say otherwise. The token comes from FORETOKEN_ADMIN_TOKEN, from admin.token, or \
from the file that a gateway on this host keeps beside its store.")]
pub(crate) struct RemoteArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The admin API, for example http://127.0.0.1:9090
    #[arg(long, value_name = "URL", env = "FORETOKEN_ADMIN_URL")]
    admin: Option<String>,
    /// The admin token
    #[arg(long, value_name = "TOKEN", env = "FORETOKEN_ADMIN_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

impl RemoteArgs {
    fn call(&self, method: &str, path: &str) -> Result<(u16, Value), Failure> {
        let local = Local::read(&self.config);
        let url = match (&self.admin, &local.listen) {
            (Some(url), _) => url.clone(),
            (None, Some(address)) => format!("http://{address}"),
            (None, None) => "http://127.0.0.1:9090".into(),
        };
        let token = self.token.clone().map(Secret::new).or(local.token);
        admin::request(method, &url, token.as_ref(), path, None).map_err(|error| {
            let code = if error.is_unreachable() { UNREACHABLE } else { FAILED };
            Failure::new(code, error.to_string())
        })
    }

    fn ask(&self, method: &str, path: &str) -> Result<Value, Failure> {
        let (status, answer) = self.call(method, path)?;
        if status < 300 {
            return Ok(answer);
        }
        let message = answer["error"]["message"].as_str().unwrap_or("the gateway refused");
        let hint = if status == 401 { "; give the token in FORETOKEN_ADMIN_TOKEN" } else { "" };
        for problem in answer["error"]["problems"].as_array().into_iter().flatten() {
            eprintln!("{}", problem_text(problem));
        }
        Err(Failure::new(FAILED, format!("{message}{hint}")))
    }
}

/// What this host's configuration says of the admin API. Read by itself, because these commands
/// must work while the rest of the file is broken, or holds variables that only the gateway has.
#[derive(Default)]
struct Local {
    listen: Option<String>,
    token: Option<Secret>,
}

impl Local {
    fn read(args: &ConfigArgs) -> Local {
        let Ok(path) = args.path() else { return Local::default() };
        let Ok(text) = std::fs::read_to_string(&path) else { return Local::default() };
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(_) => {
                eprintln!(
                    "note: {} is not TOML; looking for the gateway on 127.0.0.1:9090 (--admin says otherwise)",
                    path.display()
                );
                return Local::default();
            }
        };
        let text_of =
            |section: &str, key: &str| table.get(section)?.get(key)?.as_str().map(str::to_owned);
        let token = text_of("admin", "token").and_then(|text| resolve(&text, &path));
        let store = text_of("store", "path").unwrap_or_else(|| "foretoken.db".into());
        Local {
            listen: text_of("admin", "listen"),
            token: token.or_else(|| admin::token::load(&token_file(&store)?).ok()?),
        }
    }
}

/// The text of a secret: literal, from the environment or from a file.
fn resolve(text: &str, config: &Path) -> Option<Secret> {
    let found = if let Some(name) = text.strip_prefix("env:") {
        std::env::var(name).ok()?
    } else if let Some(file) = text.strip_prefix("file:") {
        let file = config.parent().unwrap_or(Path::new("")).join(file);
        std::fs::read_to_string(file).ok()?.trim_end().to_owned()
    } else {
        text.to_owned()
    };
    (!found.is_empty()).then(|| Secret::new(found))
}

fn problem_text(problem: &Value) -> String {
    let place = match (problem["line"].as_u64(), problem["column"].as_u64()) {
        (Some(line), Some(column)) => format!("{line}:{column}: "),
        _ => String::new(),
    };
    format!("{place}{}", problem["message"].as_str().unwrap_or(""))
}

pub(crate) fn reload(args: &RemoteArgs) -> Result<(), Failure> {
    let answer = args.ask("POST", "/admin/v1/reload")?;
    if args.json {
        print(&format!("{answer:#}\n"));
        return Ok(());
    }
    print(&format!("generation {} is serving\n", answer["generation"]));
    for change in answer["changes"].as_array().into_iter().flatten() {
        print(&format!("  {} {}\n", text(&change["how"]), text(&change["what"])));
    }
    for what in answer["needs_restart"].as_array().into_iter().flatten() {
        print(&format!("  {} takes effect only after a restart\n", text(what)));
    }
    Ok(())
}

pub(crate) fn status(args: &RemoteArgs) -> Result<(), Failure> {
    let status = args.ask("GET", "/admin/v1/status")?;
    if args.json {
        print(&format!("{status:#}\n"));
        return Ok(());
    }
    let reload = &status["reload"];
    print(&format!(
        "foretoken {} (pid {}), {}, up {} s\n",
        text(&status["version"]),
        status["pid"],
        if status["ready"] == true { "ready" } else { "not ready" },
        status["uptime_s"]
    ));
    print(&format!(
        "configuration  generation {} of {}, {} reloads, {} failed\n",
        status["generation"],
        status["config"].as_str().unwrap_or("memory"),
        reload["count"],
        reload["failures"]
    ));
    if reload["last_ok"] == false {
        print("               THE LAST RELOAD FAILED; the generation above goes on serving:\n");
        for problem in reload["problems"].as_array().into_iter().flatten() {
            print(&format!("               {}\n", problem_text(problem)));
        }
    }
    for what in reload["needs_restart"].as_array().into_iter().flatten() {
        print(&format!("               {} takes effect only after a restart\n", text(what)));
    }
    print(&format!("keys           {}\n", status["keys"]));
    print(&format!(
        "requests       {} under way (limit {})\n",
        status["requests"]["running"], status["requests"]["limit"]
    ));
    for (at, worker) in status["workers"].as_array().into_iter().flatten().enumerate() {
        print(&format!(
            "worker {at:<8}{} connections, {} streams\n",
            worker["connections"], worker["streams"]
        ));
    }
    let journal = &status["journal"];
    print(&format!(
        "journal        {} of {} bytes pending, {} requests refused\n",
        journal["pending_bytes"], journal["bound_bytes"], journal["refused"]
    ));
    Ok(())
}

pub(crate) fn routes(args: &RemoteArgs) -> Result<(), Failure> {
    let answer = args.ask("GET", "/admin/v1/routes")?;
    if args.json {
        print(&format!("{answer:#}\n"));
        return Ok(());
    }
    for route in answer["data"].as_array().into_iter().flatten() {
        print(&format!("{}  ({})\n", text(&route["model"]), text(&route["policy"])));
        for target in route["targets"].as_array().into_iter().flatten() {
            let ttft = &target["ttft_us"];
            let ms = |value: &Value| {
                value.as_f64().map_or("-".to_owned(), |us| format!("{:.1} ms", us / 1000.0))
            };
            let rest = target["resting_ms"]
                .as_u64()
                .map_or(String::new(), |ms| format!(", resting {} s", ms.div_ceil(1000)));
            print(&format!(
                "  {:<32} {} in flight; {} streams, TTFT p50 {} p99 {}{rest}\n",
                text(&target["target"]),
                target["in_flight"],
                ttft["count"],
                ms(&ttft["p50"]),
                ms(&ttft["p99"]),
            ));
        }
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}
