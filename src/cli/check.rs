//! `foretoken check`.

use clap::Args;

use super::{BAD_USAGE, ConfigArgs, Failure, print};

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
        print(&format!(
            "{}: good ({}, {}, {})\n",
            path.display(),
            counted(config.providers.len(), "provider"),
            counted(config.models.len(), "model"),
            counted(config.keys.len(), "key")
        ));
        return Ok(());
    }
    let path = args.config.path().map_err(|message| Failure::new(BAD_USAGE, message))?;
    let (ok, faults, warnings) = match crate::config::load(&path, &|name| std::env::var(name).ok())
    {
        Ok(loaded) => (true, Vec::new(), loaded.warnings),
        Err(faults) => (false, faults.faults, Vec::new()),
    };
    let report = serde_json::json!({"ok": ok, "faults": faults, "warnings": warnings});
    print(&format!("{report:#}\n"));
    if ok { Ok(()) } else { Err(Failure::new(BAD_USAGE, "")) }
}
