//! `foretoken keys|accounts|projects|users|prices|rates|principals …`: the admin API's objects.
//!
//! Arguments become a call ([`Asking`]), the answer becomes a table, a sheet, or a secret. `kinds.rs` has the
//! options of each kind, `tell.rs` writes what comes back; here is what all kinds have in common.

mod kinds;
mod tell;

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::marker::PhantomData;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::limits::{ClearArgs, SetArgs};
use super::remote::{Asking, RemoteArgs, encoded, help, with_query};
use super::table::Set;
use super::{BAD_USAGE, Failure};
use kinds::{
    AccountFields, KeyFields, PriceFields, PrincipalFields, ProjectFields, RateFields, UserFields,
};

pub(in crate::cli) use tell::more;

/// What a kind of object adds to the common commands.
pub(crate) trait Kind: Args + Send + Sync + 'static {
    /// As in the paths of the API.
    const PLURAL: &'static str;
    /// One of them, for messages.
    const NOUN: &'static str;
    /// A name for examples.
    const SAMPLE: &'static str;
    /// Whether `create NAME` makes sense.
    const IS_NAMED: bool = true;
    /// Filters of the list, beside `status`.
    const FILTERS: &'static [&'static str] = &[];
    /// Whether its names are unique within a project only.
    const IS_IN_PROJECT: bool = false;
    /// What a block does, where there is one.
    const BLOCK: &'static str = "";
    /// Whether `delete --cascade` makes sense.
    const OWNS: bool = false;
    /// Heading, JSON pointer, setting. A heading that ends in `@` shows the day of a time.
    const COLUMNS: &'static [(&'static str, &'static str, Set)];
    /// What follows `create` and `update` in the examples.
    const CREATES: &'static [&'static str];
    const UPDATES: &'static [&'static str];

    /// Puts what was said into the body.
    fn fill(&self, body: &mut Map<String, Value>, now_unix_ms: u64) -> Result<(), String>;
}

/// What can be done with every kind.
#[derive(Subcommand)]
pub(crate) enum Common<K: Kind> {
    /// Make one
    #[command(after_help = examples::<K>("create", K::CREATES))]
    Create(CreateArgs<K>),
    /// List them, newest first
    #[command(after_help = examples::<K>("list", &["", "--status deleted", "--limit 1000 --json"]))]
    List(ListArgs<K>),
    /// Show one in full
    #[command(after_help = examples::<K>("show", &["{}", "{} --json"]))]
    Show(OneArgs<K>),
    /// Change one: what is not said stays as it is
    #[command(after_help = examples::<K>("update", K::UPDATES))]
    Update(UpdateArgs<K>),
    /// Delete one; `restore` brings it back
    #[command(after_help = examples::<K>("delete", &["{}"]))]
    Delete(DeleteArgs<K>),
    /// Bring a deleted one back
    #[command(after_help = examples::<K>("restore", &["{}"]))]
    Restore(OneArgs<K>),
    /// Remove a deleted one for good
    #[command(after_help = examples::<K>("purge", &["{}", "{} --yes"]))]
    Purge(PurgeArgs<K>),
}

/// Examples of a command; `{}` stands for the kind's sample name.
fn examples<K: Kind>(verb: &str, rest: &[&str]) -> String {
    let lines: Vec<String> = rest
        .iter()
        .map(|rest| format!("{} {verb} {}", K::PLURAL, rest.replace("{}", K::SAMPLE)))
        .map(|line| line.trim_end().to_owned())
        .collect();
    help(&lines.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Makes a repetition harmless.
#[derive(Args, Default)]
pub(crate) struct OnceArgs {
    /// Run again with the same key, the command changes nothing more (for 24 hours)
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

#[derive(Args)]
pub(crate) struct CreateArgs<K: Kind> {
    /// Its name
    #[arg(value_name = "NAME", hide = !K::IS_NAMED)]
    called: Option<String>,
    #[command(flatten)]
    fields: K,
    #[command(flatten)]
    set: SetArgs,
    #[command(flatten)]
    once: OnceArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Args)]
pub(crate) struct ListArgs<K: Kind> {
    /// Only of this account
    #[arg(long, value_name = "NAME", hide = !K::FILTERS.contains(&"account"))]
    account: Option<String>,
    /// Only of this project
    #[arg(long, value_name = "NAME", hide = !K::FILTERS.contains(&"project"))]
    project: Option<String>,
    /// Only of this user
    #[arg(long, value_name = "NAME", hide = !K::FILTERS.contains(&"user"))]
    user: Option<String>,
    /// Only these; without it, all that are not deleted
    #[arg(long, value_parser = ["active", "blocked", "deleted", "all"])]
    status: Option<String>,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1000))]
    limit: u64,
    /// Where to go on, as the page before said
    #[arg(long)]
    cursor: Option<String>,
    #[command(flatten)]
    remote: RemoteArgs,
    #[arg(skip)]
    kind: PhantomData<K>,
}

#[derive(Args)]
pub(crate) struct OneArgs<K: Kind> {
    /// Which: a name, or an id where several have the name
    #[arg(value_name = "NAME|ID")]
    id: String,
    /// The project in which to look for the name
    #[arg(long = "in", alias = "project", value_name = "PROJECT", hide = !K::IS_IN_PROJECT)]
    within: Option<String>,
    #[command(flatten)]
    remote: RemoteArgs,
    #[arg(skip)]
    kind: PhantomData<K>,
}

#[derive(Args)]
pub(crate) struct UpdateArgs<K: Kind> {
    /// Which: a name, or an id where several have the name
    #[arg(value_name = "NAME|ID")]
    id: String,
    /// The project in which to look for the name
    #[arg(long = "in", value_name = "PROJECT", hide = !K::IS_IN_PROJECT)]
    within: Option<String>,
    #[command(flatten)]
    fields: K,
    #[command(flatten)]
    set: SetArgs,
    #[command(flatten)]
    clear: ClearArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Args)]
pub(crate) struct DeleteArgs<K: Kind> {
    #[command(flatten)]
    one: OneArgs<K>,
    /// Delete what belongs to it as well
    #[arg(long, hide = !K::OWNS)]
    cascade: bool,
}

#[derive(Args)]
pub(crate) struct PurgeArgs<K: Kind> {
    #[command(flatten)]
    one: OneArgs<K>,
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
}

#[derive(Args)]
pub(crate) struct RotateArgs<K: Kind> {
    #[command(flatten)]
    one: OneArgs<K>,
    /// How long the old secret stays valid (0s: not at all) [default: 24h]
    #[arg(long, value_name = "SPAN")]
    grace: Option<String>,
    #[command(flatten)]
    once: OnceArgs,
}

#[derive(Args)]
pub(crate) struct BlockArgs<K: Kind> {
    #[command(flatten)]
    one: OneArgs<K>,
    /// End running streams too
    #[arg(long)]
    now: bool,
}

fn wrong(why: String) -> Failure {
    Failure::new(BAD_USAGE, why)
}

/// The path of a call on one object, with where to look for its name.
fn path_of<K: Kind>(
    id: &str,
    verb: &str,
    within: &Option<String>,
    more: &[(&str, Option<String>)],
) -> Result<String, Failure> {
    if id.is_empty() {
        return Err(wrong(format!("the name of the {} is empty", K::NOUN)));
    }
    let path = format!("/admin/v1/{}/{}{verb}", K::PLURAL, encoded(id));
    Ok(with_query(&path, &[&[("project", within.clone())], more].concat()))
}

impl<K: Kind> OneArgs<K> {
    fn path(&self, verb: &str) -> Result<String, Failure> {
        path_of::<K>(&self.id, verb, &self.within, &[])
    }
}

impl<K: Kind> CreateArgs<K> {
    fn asking(&self, now_unix_ms: u64) -> Result<Asking, Failure> {
        let mut body = Map::new();
        self.fields.fill(&mut body, now_unix_ms).map_err(wrong)?;
        if let Some(name) = &self.called {
            if !K::IS_NAMED {
                return Err(wrong(format!(
                    "a {} has no name: `{name}` is too much; see `foretoken {} create --help`",
                    K::NOUN,
                    K::PLURAL
                )));
            }
            if body.insert("name".to_owned(), json!(name)).is_some() {
                return Err(wrong("the name is there twice: say it once".to_owned()));
            }
        }
        self.set.fill(&mut body).map_err(wrong)?;
        if K::IS_NAMED && !body.contains_key("name") {
            let cure = format!("say a name: `foretoken {} create NAME`", K::PLURAL);
            return Err(wrong(cure));
        }
        let mut asking =
            Asking::new("POST", format!("/admin/v1/{}", K::PLURAL)).with(Value::Object(body));
        asking.idempotency_key = self.once.idempotency_key.clone();
        Ok(asking)
    }
}

impl<K: Kind> ListArgs<K> {
    fn asking(&self) -> Asking {
        let path = with_query(
            &format!("/admin/v1/{}", K::PLURAL),
            &[
                ("account", self.account.clone()),
                ("project", self.project.clone()),
                ("user", self.user.clone()),
                ("status", self.status.clone()),
                ("cursor", self.cursor.clone()),
                ("limit", Some(self.limit.to_string())),
            ],
        );
        Asking::new("GET", path)
    }
}

impl<K: Kind> UpdateArgs<K> {
    fn asking(&self, now_unix_ms: u64) -> Result<Asking, Failure> {
        let mut body = Map::new();
        self.fields.fill(&mut body, now_unix_ms).map_err(wrong)?;
        self.set.fill(&mut body).map_err(wrong)?;
        self.clear.fill(&mut body).map_err(wrong)?;
        if body.is_empty() {
            let cure = format!(
                "nothing to change: say what, for example `{}`; see `foretoken {} update --help`",
                K::UPDATES[0].replace("{}", K::SAMPLE),
                K::PLURAL
            );
            return Err(wrong(cure));
        }
        Ok(Asking::new("PATCH", path_of::<K>(&self.id, "", &self.within, &[])?)
            .with(Value::Object(body)))
    }
}

impl<K: Kind> Common<K> {
    /// The call that the arguments mean.
    fn asking(&self, now_unix_ms: u64) -> Result<Asking, Failure> {
        match self {
            Common::Create(args) => args.asking(now_unix_ms),
            Common::List(args) => Ok(args.asking()),
            Common::Show(args) => Ok(Asking::new("GET", args.path("")?)),
            Common::Update(args) => args.asking(now_unix_ms),
            Common::Delete(args) => {
                let cascade = [("cascade", args.cascade.then(|| "true".to_owned()))];
                let path = path_of::<K>(&args.one.id, "", &args.one.within, &cascade)?;
                Ok(Asking::new("DELETE", path))
            }
            Common::Restore(args) => Ok(Asking::new("POST", args.path("/restore")?)),
            Common::Purge(args) => Ok(Asking::new("POST", args.one.path("/purge")?)),
        }
    }

    fn run(&self) -> Result<(), Failure> {
        let asking = self.asking(crate::clock::unix_ms())?;
        match self {
            Common::Create(args) => tell::made::<K>(&args.remote, &args.remote.send(&asking)?),
            Common::List(args) => tell::list::<K>(&args.remote, &args.remote.send(&asking)?),
            Common::Show(args) => tell::sheet(&args.remote, &args.remote.send(&asking)?),
            Common::Update(args) => {
                tell::done::<K>(&args.remote, &args.remote.send(&asking)?, &args.id, "changed");
            }
            Common::Delete(args) => {
                let answer = args.one.remote.send(&asking)?;
                tell::done::<K>(&args.one.remote, &answer, &args.one.id, "deleted");
            }
            Common::Restore(args) => {
                tell::done::<K>(&args.remote, &args.remote.send(&asking)?, &args.id, "restored");
            }
            Common::Purge(args) => {
                if !args.yes {
                    confirm(&format!("{} {}", K::NOUN, args.one.id))?;
                }
                let answer = args.one.remote.send(&asking)?;
                tell::done::<K>(&args.one.remote, &answer, &args.one.id, "purged");
            }
        }
        Ok(())
    }
}

/// Asks before something is gone for good.
fn confirm(what: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        let message = format!("purging removes the {what} for good: say --yes to do it");
        return Err(Failure::new(BAD_USAGE, message));
    }
    eprint!("Remove the {what} for good? [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = [0; 16];
    let read = std::io::stdin().read(&mut answer).unwrap_or(0);
    match answer[..read].trim_ascii().to_ascii_lowercase().as_slice() {
        b"y" | b"yes" => Ok(()),
        _ => Err(Failure::new(super::FAILED, "nothing was removed")),
    }
}

impl<K: Kind> RotateArgs<K> {
    fn asking(&self) -> Result<Asking, Failure> {
        let body = self.grace.as_ref().map_or(json!({}), |grace| json!({ "grace": grace }));
        let mut asking = Asking::new("POST", self.one.path("/rotate")?).with(body);
        asking.idempotency_key = self.once.idempotency_key.clone();
        Ok(asking)
    }

    fn run(&self) -> Result<(), Failure> {
        let answer = self.one.remote.send(&self.asking()?)?;
        tell::rotated::<K>(&self.one.remote, &answer);
        Ok(())
    }
}

impl<K: Kind> BlockArgs<K> {
    fn asking(&self) -> Result<Asking, Failure> {
        let body = if self.now { json!({ "now": true }) } else { json!({}) };
        Ok(Asking::new("POST", self.one.path("/block")?).with(body))
    }

    fn run(&self) -> Result<(), Failure> {
        let answer = self.one.remote.send(&self.asking()?)?;
        tell::done::<K>(&self.one.remote, &answer, &self.one.id, "blocked");
        Ok(())
    }
}

/// Kinds that own keys, or are one.
#[derive(Subcommand)]
pub(crate) enum Blockable<K: Kind> {
    #[command(flatten)]
    Common(Common<K>),
    #[command(about = K::BLOCK, after_help = examples::<K>("block", &["{}", "{} --now"]))]
    Block(BlockArgs<K>),
    /// Take back a block
    #[command(after_help = examples::<K>("unblock", &["{}"]))]
    Unblock(OneArgs<K>),
}

/// Kinds with a secret.
#[derive(Subcommand)]
pub(crate) enum Secretive<K: Kind> {
    #[command(flatten)]
    Blockable(Blockable<K>),
    /// Make a new secret; the old one stays valid for a while
    #[command(after_help = examples::<K>("rotate", &["{}", "{} --grace 1h", "{} --grace 0s"]))]
    Rotate(RotateArgs<K>),
}

impl<K: Kind> Blockable<K> {
    fn run(&self) -> Result<(), Failure> {
        match self {
            Blockable::Common(command) => command.run(),
            Blockable::Block(args) => args.run(),
            Blockable::Unblock(args) => {
                let answer = args.remote.send(&unblocking(args)?)?;
                tell::done::<K>(&args.remote, &answer, &args.id, "unblocked");
                Ok(())
            }
        }
    }
}

fn unblocking<K: Kind>(args: &OneArgs<K>) -> Result<Asking, Failure> {
    Ok(Asking::new("POST", args.path("/unblock")?))
}

impl<K: Kind> Secretive<K> {
    fn run(&self) -> Result<(), Failure> {
        match self {
            Secretive::Blockable(command) => command.run(),
            Secretive::Rotate(args) => args.run(),
        }
    }
}

/// The commands of all kinds.
#[derive(Subcommand)]
pub(crate) enum ObjectsCommand {
    /// Keys of callers: create, list, show, update, rotate, block, unblock, delete, restore, purge
    #[command(subcommand)]
    Keys(Secretive<KeyFields>),
    /// Accounts, which pay
    #[command(subcommand)]
    Accounts(Blockable<AccountFields>),
    /// Projects, to which keys belong
    #[command(subcommand)]
    Projects(Blockable<ProjectFields>),
    /// Users, who own keys
    #[command(subcommand)]
    Users(Blockable<UserFields>),
    /// Prices: what upstreams cost, and what is charged
    #[command(subcommand)]
    Prices(Common<PriceFields>),
    /// Exchange rates
    #[command(subcommand)]
    Rates(Common<RateFields>),
    /// Principals, who administer with a token of their own
    #[command(subcommand)]
    Principals(Secretive<PrincipalFields>),
}

pub(crate) fn run(command: &ObjectsCommand) -> Result<(), Failure> {
    match command {
        ObjectsCommand::Keys(command) => command.run(),
        ObjectsCommand::Accounts(command) => command.run(),
        ObjectsCommand::Projects(command) => command.run(),
        ObjectsCommand::Users(command) => command.run(),
        ObjectsCommand::Prices(command) => command.run(),
        ObjectsCommand::Rates(command) => command.run(),
        ObjectsCommand::Principals(command) => command.run(),
    }
}

#[cfg(test)]
mod tests;
