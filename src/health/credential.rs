//! A credential's rests: until a rate limit resets, or for minutes when it is of no use.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::clock;

/// First rest of a credential that was refused, and the longest; it doubles in between.
const PARK: Duration = Duration::from_secs(60);
const PARK_MAX: Duration = Duration::from_secs(1800);
/// A provider's word about its reset is believed up to here.
const COOL_MAX: Duration = Duration::from_secs(3600);

/// Shared by all workers; written only when something goes wrong, so readers do not contend.
#[derive(Debug, Default)]
pub struct CredentialState {
    /// Until when the provider's rate limit holds, in milliseconds since start.
    cool_until: AtomicU64,
    /// Until when the provider refuses the credential altogether.
    parked_until: AtomicU64,
    parks: AtomicU32,
}

impl CredentialState {
    /// A 429: rests until the reset.
    pub fn cool(&self, now: Instant, wait: Duration) {
        let until = clock::ms_since_start(now + wait.min(COOL_MAX));
        self.cool_until.fetch_max(until, Relaxed);
    }

    /// Out of money or not accepted: rests for a minute, doubling up to half an hour.
    pub fn park(&self, now: Instant) {
        let n = self.parks.fetch_add(1, Relaxed).min(10);
        let wait = (PARK * 2u32.pow(n)).min(PARK_MAX);
        self.parked_until.fetch_max(clock::ms_since_start(now + wait), Relaxed);
    }

    /// It was accepted.
    pub fn succeeded(&self) {
        if self.parks.load(Relaxed) != 0 {
            self.parks.store(0, Relaxed);
            self.parked_until.store(0, Relaxed);
        }
    }

    /// How long the rate limit still holds.
    pub fn cooling(&self, now: Instant) -> Option<Duration> {
        left(&self.cool_until, now)
    }

    /// How long it is still out of use.
    pub fn parked(&self, now: Instant) -> Option<Duration> {
        left(&self.parked_until, now)
    }
}

pub(super) fn left(until: &AtomicU64, now: Instant) -> Option<Duration> {
    let until = until.load(Relaxed);
    let now = if until == 0 { return None } else { clock::ms_since_start(now) };
    (until > now).then(|| Duration::from_millis(until - now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_limit_holds_until_its_reset_and_a_later_shorter_one_changes_nothing() {
        let (state, now) = (CredentialState::default(), Instant::now());
        assert!(state.cooling(now).is_none());
        state.cool(now, Duration::from_secs(10));
        state.cool(now, Duration::from_secs(2));
        assert!(state.cooling(now + Duration::from_secs(9)).is_some());
        assert!(state.cooling(now + Duration::from_secs(11)).is_none());
    }

    #[test]
    fn a_refused_credential_rests_longer_each_time_until_it_is_accepted() {
        let (state, now) = (CredentialState::default(), Instant::now());
        state.park(now);
        assert!(state.parked(now + Duration::from_secs(61)).is_none());
        state.park(now);
        assert!(state.parked(now + Duration::from_secs(61)).is_some());
        state.succeeded();
        assert!(state.parked(now).is_none());
    }
}
