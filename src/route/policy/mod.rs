//! Policies: pure functions of candidates, their state and a random source.
//!
//! Each puts the candidates into the order in which they are to be asked. Candidates that are not
//! healthy come last in every policy, and are never left out: somebody must be asked.

mod least_outstanding;
mod priority;
mod weighted;

use rand::RngCore;

/// Candidates that a request can come to ask, at most.
pub const MAX_PICKS: usize = 8;

/// What a policy sees of a candidate.
#[derive(Clone, Copy, Debug, Default)]
pub struct View {
    pub weight: u32,
    /// Lower is asked first.
    pub priority: u32,
    /// Requests that the target holds now.
    pub outstanding: i64,
    pub healthy: bool,
}

/// The order in which to ask: indices of candidates.
#[derive(Clone, Copy, Debug, Default)]
pub struct Order {
    picks: [u16; MAX_PICKS],
    len: u8,
}

impl Order {
    /// Empties the order.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds a candidate; those beyond [`MAX_PICKS`] would never be asked and are left out.
    pub fn push(&mut self, candidate: usize) {
        if usize::from(self.len) < MAX_PICKS {
            self.picks[usize::from(self.len)] = candidate as u16;
            self.len += 1;
        }
    }

    /// The candidates in order.
    pub fn picks(&self) -> &[u16] {
        &self.picks[..usize::from(self.len)]
    }

    fn is_full(&self) -> bool {
        usize::from(self.len) == MAX_PICKS
    }
}

/// A way to choose. Must not read a clock or keep state of its own.
pub trait Policy: Sync {
    /// The name in the configuration.
    fn name(&self) -> &'static str;

    /// Appends the candidates to `out` in the order in which to ask them.
    fn order(&self, views: &[View], rng: &mut dyn RngCore, out: &mut Order);
}

/// Every policy; the configuration and its reference are made from this list.
pub static POLICIES: &[&dyn Policy] =
    &[&priority::Priority, &weighted::Weighted, &least_outstanding::LeastOutstanding];

/// The policy of this name.
pub fn find(name: &str) -> Option<&'static dyn Policy> {
    POLICIES.iter().copied().find(|policy| policy.name() == name)
}

/// Calls `rank` with the healthy candidates, then with the others.
fn healthy_first(
    views: &[View],
    out: &mut Order,
    mut rank: impl FnMut(&mut Vec<usize>, &mut Order),
) {
    for healthy in [true, false] {
        let mut group: Vec<usize> =
            (0..views.len()).filter(|&at| views[at].healthy == healthy).collect();
        if !group.is_empty() && !out.is_full() {
            rank(&mut group, out);
        }
    }
}

/// Draws from `group` without putting back, each with a chance in proportion to its weight.
fn draw(views: &[View], group: &mut Vec<usize>, rng: &mut dyn RngCore, out: &mut Order) {
    while !group.is_empty() && !out.is_full() {
        let total: u64 = group.iter().map(|&at| u64::from(views[at].weight)).sum();
        // A weight of 0 takes no traffic of its own but may stand in for others.
        let mut ticket = if total == 0 { 0 } else { rng.next_u64() % total };
        let nth = group
            .iter()
            .position(|&at| {
                let weight = u64::from(views[at].weight);
                if ticket < weight {
                    return true;
                }
                ticket -= weight;
                false
            })
            .unwrap_or(0);
        out.push(group.remove(nth));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    fn view(weight: u32, priority: u32, outstanding: i64, healthy: bool) -> View {
        View { weight, priority, outstanding, healthy }
    }

    fn first_shares(policy: &str, views: &[View]) -> Vec<u32> {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut counts = vec![0; views.len()];
        for _ in 0..10_000 {
            let mut order = Order::default();
            find(policy).expect("known").order(views, &mut rng, &mut order);
            assert_eq!(order.picks().len(), views.len().min(MAX_PICKS));
            counts[usize::from(order.picks()[0])] += 1;
        }
        counts
    }

    #[test]
    fn every_policy_names_each_candidate_once_and_the_unhealthy_last() {
        let views =
            [view(1, 0, 9, false), view(1, 1, 3, true), view(0, 2, 0, true), view(5, 0, 1, true)];
        let mut rng = SmallRng::seed_from_u64(1);
        for policy in POLICIES {
            for _ in 0..200 {
                let mut order = Order::default();
                policy.order(&views, &mut rng, &mut order);
                let mut sorted = order.picks().to_vec();
                assert_eq!(sorted.last(), Some(&0), "{}", policy.name());
                sorted.sort_unstable();
                assert_eq!(sorted, [0, 1, 2, 3], "{}", policy.name());
            }
        }
    }

    #[test]
    fn weighted_shares_follow_the_weights() {
        let views = [view(3, 0, 0, true), view(1, 0, 0, true), view(0, 0, 0, true)];
        let shares = first_shares("weighted", &views);
        assert!((7_300..7_700).contains(&shares[0]), "{shares:?}");
        assert_eq!(shares[2], 0);
    }

    #[test]
    fn priority_asks_the_lowest_number_and_shares_among_equals() {
        let views = [view(1, 1, 0, true), view(1, 0, 0, true), view(1, 0, 0, true)];
        let shares = first_shares("priority", &views);
        assert_eq!(shares[0], 0);
        assert!((4_700..5_300).contains(&shares[1]), "{shares:?}");
    }

    #[test]
    fn least_outstanding_asks_the_idlest_for_its_weight() {
        let views = [view(1, 0, 4, true), view(1, 0, 2, true), view(4, 0, 5, true)];
        assert_eq!(first_shares("least_outstanding", &views), [0, 0, 10_000]);
    }
}
