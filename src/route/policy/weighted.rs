//! `weighted`: a random share in proportion to the weights.

use rand::RngCore;

use super::{Order, Policy, View, draw, healthy_first};

pub(super) struct Weighted;

impl Policy for Weighted {
    fn name(&self) -> &'static str {
        "weighted"
    }

    fn order(&self, views: &[View], rng: &mut dyn RngCore, out: &mut Order) {
        healthy_first(views, out, |group, out| draw(views, group, rng, out));
    }
}
