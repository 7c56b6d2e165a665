//! `priority`: the lowest number first; equals share by weight.

use rand::RngCore;

use super::{Order, Policy, View, draw, healthy_first};

pub(super) struct Priority;

impl Policy for Priority {
    fn name(&self) -> &'static str {
        "priority"
    }

    fn order(&self, views: &[View], rng: &mut dyn RngCore, out: &mut Order) {
        healthy_first(views, out, |group, out| {
            group.sort_by_key(|&at| views[at].priority);
            while let Some(&first) = group.first() {
                let level = views[first].priority;
                let end = group.partition_point(|&at| views[at].priority <= level);
                let mut equals: Vec<usize> = group.drain(..end).collect();
                draw(views, &mut equals, rng, out);
            }
        });
    }
}
