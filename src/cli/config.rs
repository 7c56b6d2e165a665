//! `foretoken config reference|init`.

use clap::Subcommand;

use super::{Failure, print};

#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the reference of all settings
    #[command(after_help = "Examples:
  foretoken config reference | less
  foretoken config reference | grep -A12 '\\[server.retry\\]'")]
    Reference,
    /// Print a commented configuration to start from
    #[command(after_help = "Example:
  foretoken config init > foretoken.toml")]
    Init,
}

pub(crate) fn run(command: &ConfigCommand) -> Result<(), Failure> {
    print(&match command {
        ConfigCommand::Reference => crate::config::reference(),
        ConfigCommand::Init => crate::config::init(),
    });
    Ok(())
}
