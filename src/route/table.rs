//! The compiled routing table: aliases, their targets and their fallbacks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use rand::RngCore;

use crate::health::{Standing, TargetState};
use crate::ident::{Alias, TargetId, glob};
use crate::route::{Order, Policy, View};

/// An origin, a credential and an upstream model name, as one thing to learn about.
pub struct Target {
    pub id: TargetId,
    /// Index of the provider in the snapshot that this table is part of.
    pub provider: usize,
    /// The model name at the upstream; `None` passes on the name that was asked.
    pub upstream_model: Option<Arc<str>>,
    pub state: Arc<TargetState>,
}

/// A target as one of an alias's choices.
pub struct Candidate {
    pub target: Arc<Target>,
    pub weight: u32,
    pub priority: u32,
}

/// What stands behind one alias.
pub struct Route {
    pub alias: Alias,
    pub policy: &'static dyn Policy,
    pub candidates: Vec<Candidate>,
    /// Routes to try in order when every target has failed.
    pub fallbacks: Vec<usize>,
    /// Whether the `model` of an answer is to be the name that was asked.
    pub rewrite_model: bool,
}

/// All routes of one generation.
#[derive(Default)]
pub struct Table {
    routes: Vec<Route>,
    exact: HashMap<Arc<str>, usize>,
    /// Aliases with a star, the most specific first.
    patterns: Vec<(Arc<str>, usize)>,
}

/// Why a table could not be compiled.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableFault {
    #[error("the model \"{0}\" is defined twice")]
    Twice(String),
}

impl Table {
    /// Compiles the routes. `fallbacks` are indices into `routes`.
    ///
    /// # Errors
    /// An alias that stands there twice.
    pub fn new(routes: Vec<Route>) -> Result<Table, TableFault> {
        let mut table = Table::default();
        for (at, route) in routes.iter().enumerate() {
            let name = route.alias.0.clone();
            if name.contains('*') {
                if table.patterns.iter().any(|(other, _)| *other == name) {
                    return Err(TableFault::Twice(name.to_string()));
                }
                table.patterns.push((name, at));
            } else if table.exact.insert(name.clone(), at).is_some() {
                return Err(TableFault::Twice(name.to_string()));
            }
        }
        table.patterns.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.len()));
        table.routes = routes;
        Ok(table)
    }

    /// The route for a model name: an exact alias, else the longest pattern that matches.
    pub fn find(&self, model: &str) -> Option<usize> {
        self.exact.get(model).copied().or_else(|| {
            self.patterns.iter().find(|(pattern, _)| glob(pattern, model)).map(|&(_, at)| at)
        })
    }

    /// A route by its index.
    pub fn route(&self, at: usize) -> &Route {
        &self.routes[at]
    }

    /// All routes.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }
}

impl Route {
    /// The order in which to ask, by the route's policy. `usable` says of a candidate whether it
    /// has a credential that is not resting.
    pub fn order(
        &self,
        now: Instant,
        rng: &mut dyn RngCore,
        usable: impl Fn(&Candidate) -> bool,
        out: &mut Order,
    ) {
        out.clear();
        if self.candidates.len() == 1 {
            out.push(0);
            return;
        }
        // On the stack for any sane number of targets.
        let mut views = [View::default(); MAX_CANDIDATES];
        let count = self.candidates.len().min(MAX_CANDIDATES);
        for (view, candidate) in views.iter_mut().zip(&self.candidates) {
            *view = View {
                weight: candidate.weight,
                priority: candidate.priority,
                outstanding: candidate.target.state.outstanding(),
                healthy: candidate.target.state.standing(now) == Standing::Healthy
                    && usable(candidate),
            };
        }
        self.policy.order(&views[..count], rng, out);
    }
}

/// Targets of one alias that take part.
pub const MAX_CANDIDATES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::policy;

    fn route(alias: &str) -> Route {
        Route {
            alias: alias.into(),
            policy: policy::find("priority").expect("known"),
            candidates: vec![],
            fallbacks: vec![],
            rewrite_model: false,
        }
    }

    #[test]
    fn the_most_specific_alias_wins() {
        let table =
            Table::new(["*", "gpt-*", "gpt-4o", "gpt-4*"].map(route).into()).expect("valid");
        for (model, want) in
            [("gpt-4o", 2), ("gpt-4o-mini", 3), ("gpt-5", 1), ("claude", 0), ("", 0)]
        {
            assert_eq!(table.find(model), Some(want), "{model}");
        }
        assert_eq!(Table::new(vec![route("a")]).expect("valid").find("b"), None);
    }

    #[test]
    fn an_alias_can_stand_there_once() {
        assert!(Table::new(vec![route("a"), route("a")]).is_err());
        assert!(Table::new(vec![route("a*"), route("a*")]).is_err());
    }
}
