//! Commands that ask a running gateway: `reload`, `status`, `routes`.

use clap::Args;
use serde_json::Value;

use super::{ConfigArgs, FAILED, Failure, UNREACHABLE, print};
use crate::admin::{self, token_file};
use crate::auth::Secret;
use crate::config::{Config, StorePath};

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
        let config = self.local_config();
        let url = match (&self.admin, config.as_ref().and_then(|config| config.admin.listen)) {
            (Some(url), _) => url.clone(),
            (None, Some(address)) => format!("http://{address}"),
            (None, None) => "http://127.0.0.1:9090".into(),
        };
        let given = self.token.clone().map(Secret::new);
        let token = given.or_else(|| config.as_ref().and_then(token_of));
        admin::request(method, &url, token.as_ref(), path, None).map_err(|error| {
            let code = if error.is_unreachable() { UNREACHABLE } else { FAILED };
            Failure::new(code, error.to_string())
        })
    }

    /// The configuration on this host, if there is one that can be read: the gateway may be
    /// elsewhere.
    fn local_config(&self) -> Option<Config> {
        let path = self.config.path().ok()?;
        let loaded = crate::config::load(&path, &|name| std::env::var(name).ok()).ok()?;
        Some(loaded.config)
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

fn token_of(config: &Config) -> Option<Secret> {
    if let Some(token) = &config.admin.token {
        return Some(Secret::new(token.expose()));
    }
    let StorePath::File(path) = &config.store.path else { return None };
    let file = token_file(&path.display().to_string())?;
    admin::token::load(&file).ok()?
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
                "  {:<32} {} in flight, {} served, TTFT p50 {} p99 {}{rest}\n",
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
