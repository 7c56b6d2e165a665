//! A worker's own copy of the grants it uses.
//!
//! Cloning an `Arc` that all workers share would make them fight over one counter with every request.
//! Here a hit touches memory of this worker only, apart from reading the entry's `stale` mark, which is
//! written once in its life.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::rc::Rc;
use std::sync::Arc;

use super::grant::Grant;
use super::keyring::{DigestHasher, Entry, Keyring, presented_digest};
use super::secret::Digest;

/// How many grants a worker keeps; the oldest goes first.
pub const CAPACITY: usize = 4096;

/// A grant in the hands of one worker. Cloning the `Rc` around it costs no atomic operation.
#[derive(Debug)]
pub struct Held {
    entry: Arc<Entry>,
}

impl Held {
    /// What the key may do.
    pub fn grant(&self) -> &Grant {
        &self.entry.grant
    }

    /// Notes that the key is used.
    pub fn note_used(&self, unix_ms: u64) {
        self.entry.note_used(unix_ms);
    }

    /// Whether the key was edited or removed since.
    pub fn is_stale(&self) -> bool {
        self.entry.is_stale()
    }

    /// Whether what runs with this key must end at once: an operator has blocked it with `--now`. Edits
    /// in between do not matter, nor which of the key's secrets was presented.
    pub fn is_ended(&self) -> bool {
        self.entry.is_ended()
    }
}

/// The grants that one worker has used lately. Only known keys are kept, so a flood of wrong ones pushes
/// nothing out.
#[derive(Default)]
pub struct GrantCache {
    held: HashMap<Digest, Rc<Held>, BuildHasherDefault<DigestHasher>>,
    /// In order of arrival. A digest may stand here twice after its key was edited; it then merely leaves
    /// early.
    order: VecDeque<Digest>,
}

impl GrantCache {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// The grant of the presented key. What the ring held when the call began is what counts: a key that
    /// was removed before is not found, nor is a secret that was rotated out and whose grace is over.
    pub fn get(&mut self, keyring: &Keyring, presented: &[u8], unix_ms: u64) -> Option<Rc<Held>> {
        let digest = presented_digest(presented)?;
        if let Some(held) = self.held.get(&digest) {
            if !held.is_stale() && held.entry.is_valid_at(unix_ms) {
                return Some(Rc::clone(held));
            }
            self.held.remove(&digest);
        }
        let entry = keyring.find(&digest).filter(|entry| entry.is_valid_at(unix_ms))?;
        let held = Rc::new(Held { entry });
        if self.order.len() >= CAPACITY
            && let Some(oldest) = self.order.pop_front()
        {
            self.held.remove(&oldest);
        }
        self.order.push_back(digest);
        self.held.insert(digest, Rc::clone(&held));
        Some(held)
    }

    /// How many grants are kept.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{SecretDigest, digest};

    const NOW: u64 = 1_000_000;

    fn key(secret: &str, name: &str) -> (Digest, Grant) {
        (digest(secret.as_bytes()), Grant::open(name.into(), "acme".into(), "web".into()))
    }

    #[test]
    fn hits_leave_the_shared_counter_alone() {
        let ring = Keyring::new();
        ring.set_file_keys(vec![key("a", "one")]);
        let mut cache = GrantCache::new();
        let first = cache.get(&ring, b"a", NOW).expect("known");
        let shared = Arc::strong_count(&first.entry);
        let again = cache.get(&ring, b"a", NOW).expect("known");
        assert!(Rc::ptr_eq(&first, &again));
        assert_eq!(Arc::strong_count(&first.entry), shared);
        assert_eq!(again.grant().key_id.as_str(), "one");
    }

    #[test]
    fn an_edit_or_a_removal_shows_with_the_next_request() {
        let ring = Keyring::new();
        let mut cache = GrantCache::new();
        ring.set_file_keys(vec![key("a", "one"), key("b", "two")]);
        let running = cache.get(&ring, b"a", NOW).expect("known");
        assert!(cache.get(&ring, b"b", NOW).is_some());

        ring.set_file_keys(vec![key("a", "edited")]);
        assert_eq!(cache.get(&ring, b"a", NOW).expect("known").grant().key_id.as_str(), "edited");
        assert!(cache.get(&ring, b"b", NOW).is_none());
        assert_eq!(cache.len(), 1);
        assert_eq!(running.grant().key_id.as_str(), "one", "a running request keeps its grant");
        assert!(running.is_stale());

        ring.set_file_keys(vec![key("b", "back")]);
        assert!(cache.get(&ring, b"a", NOW).is_none());
        assert_eq!(cache.get(&ring, b"b", NOW).expect("known").grant().key_id.as_str(), "back");
    }

    #[test]
    fn wrong_keys_are_not_kept_and_known_ones_are_bounded() {
        let ring = Keyring::new();
        let keys = (0..CAPACITY + 10).map(|n| key(&format!("k{n}"), &format!("key {n}")));
        ring.set_file_keys(keys.collect());
        let mut cache = GrantCache::new();
        assert!(cache.get(&ring, b"wrong", NOW).is_none() && cache.is_empty());
        for round in 0..2 {
            for n in 0..CAPACITY + 10 {
                let held = cache.get(&ring, format!("k{n}").as_bytes(), NOW).expect("known");
                assert_eq!(held.grant().key_id.as_str(), format!("key {n}"), "round {round}");
            }
        }
        assert_eq!(cache.len(), CAPACITY);
    }

    #[test]
    fn many_edits_of_one_key_keep_the_cache_bounded() {
        let ring = Keyring::new();
        let mut cache = GrantCache::new();
        for n in 0..CAPACITY + 10 {
            ring.put(digest(b"a"), key("a", &format!("edit {n}")).1);
            let held = cache.get(&ring, b"a", NOW).expect("known");
            assert_eq!(held.grant().key_id.as_str(), format!("edit {n}"));
        }
        assert!(cache.order.len() <= CAPACITY && cache.len() == 1);
    }

    #[test]
    fn case_53_a_revoked_key_is_dead_for_every_worker_at_once() {
        let ring = Keyring::new();
        let mut workers = [GrantCache::new(), GrantCache::new()];
        let (secret, grant) = key("a", "one");
        ring.put(secret, grant.clone());
        for cache in &mut workers {
            assert!(cache.get(&ring, b"a", NOW).is_some());
        }
        ring.remove(&secret);
        for cache in &mut workers {
            assert!(cache.get(&ring, b"a", NOW).is_none());
        }
        ring.put(secret, Grant { blocked: true, ..grant });
        for cache in &mut workers {
            let held = cache.get(&ring, b"a", NOW).expect("known");
            assert!(held.grant().usable_at(NOW).is_err());
        }
    }

    #[test]
    fn a_secret_is_unknown_once_its_grace_is_over() {
        let ring = Keyring::new();
        let mut cache = GrantCache::new();
        let (old, grant) = key("old", "one");
        let secrets = [
            SecretDigest { digest: old, valid_until_unix_ms: Some(NOW) },
            SecretDigest { digest: digest(b"new"), valid_until_unix_ms: None },
        ];
        ring.set_key(&secrets, &[], &grant);
        assert!(cache.get(&ring, b"old", NOW - 1).is_some());
        assert!(cache.get(&ring, b"old", NOW).is_none(), "although the cache held it");
        assert!(cache.get(&ring, b"old", NOW).is_none() && cache.is_empty());
        assert!(cache.get(&ring, b"new", NOW).is_some());
    }

    #[test]
    fn block_now_ends_whatever_runs_with_the_key() {
        let ring = Keyring::new();
        let mut cache = GrantCache::new();
        let (old, grant) = key("old", "one");
        let new = SecretDigest { digest: digest(b"new"), valid_until_unix_ms: None };
        ring.put(old, grant.clone());
        let before_the_edit = cache.get(&ring, b"old", NOW).expect("known");
        ring.put(old, Grant { tags: ["edited".into()].into(), ..grant.clone() });
        let before_the_rotation = cache.get(&ring, b"old", NOW).expect("known");
        ring.set_key(&[new], &[old], &grant);
        let last = cache.get(&ring, b"new", NOW).expect("known");
        let running = [before_the_edit, before_the_rotation, last];
        ring.put(new.digest, Grant { blocked: true, ..grant.clone() });
        assert!(running.iter().all(|held| !held.is_ended()), "a mere block ends nothing");

        assert!(ring.put_ending(new.digest, Grant { blocked: true, ..grant.clone() }));
        assert!(running.iter().all(|held| held.is_ended()));
        ring.put(new.digest, grant);
        let later = cache.get(&ring, b"new", NOW).expect("known");
        assert!(!later.is_ended(), "the end does not outlast the block");
    }
}
