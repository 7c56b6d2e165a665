//! `least_outstanding`: whoever holds the fewest requests for its weight; equals at random.

use rand::RngCore;

use super::{Order, Policy, View, healthy_first};

pub(super) struct LeastOutstanding;

impl Policy for LeastOutstanding {
    fn name(&self) -> &'static str {
        "least_outstanding"
    }

    fn order(&self, views: &[View], rng: &mut dyn RngCore, out: &mut Order) {
        healthy_first(views, out, |group, out| {
            let mut keyed: Vec<(u64, u32, usize)> = group
                .iter()
                .map(|&at| {
                    let View { weight, outstanding, .. } = views[at];
                    // Load once this request has joined, per unit of weight, in thousandths.
                    let load = outstanding.max(0) as u64 + 1;
                    let per_weight = match weight {
                        0 => u64::MAX,
                        weight => load.saturating_mul(1000) / u64::from(weight),
                    };
                    (per_weight, rng.next_u32(), at)
                })
                .collect();
            keyed.sort_unstable();
            keyed.iter().for_each(|&(_, _, at)| out.push(at));
        });
    }
}
