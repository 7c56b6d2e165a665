//! LiteLLM: its `config.yaml`, and exports of the tables in which its database keeps keys, teams and
//! users. Open `models.rs` first: the list of models is what the rest refers to.

use super::names::Names;
use super::plan::Plan;
use super::report::{At, Report};
use super::yaml::{self, Node};
use super::{Fault, Imported, Options, Source, finish, tables, text};

mod keys;
mod limits;
mod models;
mod settings;
mod vendors;

/// The largest configuration, and the largest export.
const CONFIG_MOST_BYTES: usize = 4 << 20;
const EXPORT_MOST_BYTES: usize = 256 << 20;

/// What is being put together.
struct Work<'o> {
    options: &'o Options<'o>,
    plan: Plan,
    report: Report,
    /// Names of providers in use.
    providers: Names,
    /// `environment_variables` of the file.
    environment: Vec<(String, String)>,
    /// Names that stand for several models, with those.
    access_groups: Vec<(String, String)>,
    /// Whether LiteLLM draws by weight, rpm or tpm.
    is_shuffled: bool,
    /// The most tokens of an answer, by alias.
    ceilings: Vec<(String, u64)>,
}

/// Imports a `config.yaml`, and `exports` of the database: CSV, JSON, or what `pg_dump` writes.
///
/// # Errors
/// A file that cannot be read, with the line.
pub fn litellm(
    config: &Source<'_>,
    exports: &[Source<'_>],
    options: &Options<'_>,
) -> Result<Imported, Fault> {
    let root = text(config, CONFIG_MOST_BYTES)
        .and_then(|text| yaml::parse(text).map_err(|fault| fault.of(config.name)))?;
    if root.entries().is_empty() {
        let message = "it is no configuration of LiteLLM: a table with model_list is expected";
        return Err(Fault::at(root.line, message).of(config.name));
    }
    let mut work = Work {
        options,
        plan: Plan { source: "LiteLLM".to_owned(), ..Plan::default() },
        report: Report::default(),
        providers: Names::default(),
        environment: Vec::new(),
        access_groups: Vec::new(),
        is_shuffled: true,
        ceilings: Vec::new(),
    };
    work.config(&root);
    let mut read = Vec::new();
    for source in exports {
        let text = text(source, EXPORT_MOST_BYTES)?;
        read.extend(tables::parse(text).map_err(|fault| fault.of(source.name))?);
    }
    if !read.is_empty() {
        work.tables(&read).map_err(|fault| fault.of(exports[0].name))?;
    }
    let Work { plan, report, .. } = work;
    finish(plan, report, options)
}

impl Work<'_> {
    fn config(&mut self, root: &Node) {
        if let Some(environment) = root.get("environment_variables") {
            self.environment(environment);
        }
        let defaults = settings::Defaults::of(root);
        self.is_shuffled = defaults.is_shuffled;
        if let Some(list) = root.get("model_list") {
            self.models(list);
        }
        for (name, node) in root.entries() {
            let at = At::new(name, node.line);
            match name.as_str() {
                "model_list" | "environment_variables" => {}
                "router_settings" => self.router(&at, node),
                "litellm_settings" => self.litellm(&at, node),
                "general_settings" => self.general(&at, node),
                "include" => self.report.none(&at, "further files: import each by itself"),
                _ => self.report.none(&at, "foretoken has nothing like it"),
            }
        }
        self.apply(&defaults);
        self.unpriced();
    }

    /// Variables that the file sets for LiteLLM: they must be set for foretoken, too.
    fn environment(&mut self, node: &Node) {
        for (name, value) in node.entries() {
            let at = At::new(format!("environment_variables.{name}"), value.line);
            match value.text() {
                Some(text) => {
                    self.environment.push((name.clone(), text.to_owned()));
                    self.report.changed(&at, "set it where foretoken runs, if it is named below");
                }
                None => self.report.none(&at, "it has no text as its value"),
            }
        }
    }

    /// The value of a variable: of the file, else of the environment.
    fn variable(&self, name: &str) -> Option<String> {
        let own = self.environment.iter().find(|(other, _)| other == name);
        own.map(|(_, value)| value.clone()).or_else(|| (self.options.variable)(name))
    }
}
