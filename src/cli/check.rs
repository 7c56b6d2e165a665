//! `foretoken check`.

use std::path::Path;

use clap::Args;

use super::{BAD_USAGE, ConfigArgs, Failure, print};
use crate::app;
use crate::config::{self, Config, Fault, Faults};

#[derive(Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print the faults as JSON
    #[arg(long)]
    json: bool,
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

pub(crate) fn run(args: &CheckArgs) -> Result<(), Failure> {
    if !args.json {
        let (path, loaded) = super::load(&args.config)?;
        let config = &loaded.config;
        let faults = troubles(&path, config);
        if !faults.is_empty() {
            return Err(super::refused(&path, &Faults { faults, fingerprint: loaded.fingerprint }));
        }
        print(&format!("{}: good ({})\n", path.display(), inventory(config)));
        return Ok(());
    }
    let path = args.config.path().map_err(|message| Failure::new(BAD_USAGE, message))?;
    let (faults, warnings) = match config::load(&path, &|name| std::env::var(name).ok()) {
        Ok(loaded) => (troubles(&path, &loaded.config), loaded.warnings),
        Err(faults) => (faults.faults, Vec::new()),
    };
    let ok = faults.is_empty();
    let report = serde_json::json!({"ok": ok, "faults": faults, "warnings": warnings});
    print(&format!("{report:#}\n"));
    if ok { Ok(()) } else { Err(Failure::new(BAD_USAGE, "")) }
}

/// What there is of everything: prices and limits only where there are some.
fn inventory(config: &Config) -> String {
    let limits = config.accounts.iter().map(|account| &account.limits);
    let limits = limits.chain(config.projects.iter().map(|project| &project.limits));
    let limits = limits.chain(config.users.iter().map(|user| &user.limits));
    let limits = limits.chain(config.keys.iter().map(|key| &key.limits)).flatten().count();
    let mut parts = vec![
        counted(config.providers.len(), "provider"),
        counted(config.models.len(), "model"),
        counted(config.keys.len(), "key"),
    ];
    if !config.prices.is_empty() {
        parts.push(counted(config.prices.len(), "price"));
    }
    if limits > 0 {
        let sets = if limits == 1 { "set" } else { "sets" };
        parts.push(format!("{limits} {sets} of limits"));
    }
    parts.join(", ")
}

/// What keeps the gateway from serving a file without faults, at the places of the settings.
fn troubles(path: &Path, config: &Config) -> Vec<Fault> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    app::verify(config)
        .into_iter()
        .map(|trouble| {
            let (line, column) = config::place(&text, &trouble.setting).unwrap_or((0, 0));
            let (message, cure) = (trouble.message, trouble.cure);
            Fault { file: path.display().to_string(), line, column, message, cure }
        })
        .collect()
}
