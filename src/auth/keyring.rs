//! The index of all keys: digest → [`Entry`]. A sharded map of its own, so that editing one key among a
//! million touches one shard for well under a microsecond and rebuilds nothing.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;

use super::grant::Grant;
use super::secret::{Digest, digest};

/// The longest key that is looked at. Anything longer is unknown, and costs no hashing.
pub const MAX_PRESENTED_BYTES: usize = 1024;

/// One key in the ring. It never changes; an edit puts another in its place and marks this one stale.
#[derive(Debug)]
pub struct Entry {
    /// What the key may do.
    pub grant: Grant,
    /// Set once the ring no longer holds this entry, so that copies in workers' caches are dropped.
    stale: AtomicBool,
}

impl Entry {
    fn new(grant: Grant) -> Arc<Self> {
        Arc::new(Entry { grant, stale: AtomicBool::new(false) })
    }

    /// Whether the entry was replaced or removed. Acquire pairs with the Release of [`Entry::retire`]:
    /// who sees the mark also finds the ring's new content.
    pub fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Acquire)
    }

    /// Called after the map was changed, never before: a worker that sees the mark looks into the map
    /// again and must not find the old entry there. In between, a request that overlaps the edit may
    /// still be served by the old grant, as if it had come a moment earlier.
    fn retire(&self) {
        self.stale.store(true, Ordering::Release);
    }
}

/// What a call of [`Keyring::set_file_keys`] did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Changes {
    /// Keys that were not there before.
    pub added: usize,
    /// Keys whose grant is another now.
    pub replaced: usize,
    /// Keys that are gone.
    pub removed: usize,
}

/// All keys, shared by all workers.
#[derive(Default)]
pub struct Keyring {
    entries: DashMap<Digest, Arc<Entry>, BuildHasherDefault<DigestHasher>>,
    /// Which keys the configuration file defines: those are changed by a reload only. The lock also puts
    /// edits in order; look-ups never take it.
    from_file: Mutex<HashSet<Digest>>,
}

impl Keyring {
    /// An empty ring.
    pub fn new() -> Self {
        Self::default()
    }

    /// The key with exactly these bytes. Whatever the bytes are, they are only hashed.
    pub fn lookup(&self, presented: &[u8]) -> Option<Arc<Entry>> {
        self.find(&presented_digest(presented)?)
    }

    /// The key with this digest.
    pub fn find(&self, digest: &Digest) -> Option<Arc<Entry>> {
        self.entries.get(digest).map(|entry| Arc::clone(&entry))
    }

    /// Makes `keys` the set of keys that the configuration defines. Keys whose grant is the same keep
    /// their entry, so that workers' caches stay warm over a reload. When two have the same secret the
    /// first counts (the configuration refuses such a file anyway).
    pub fn set_file_keys(&self, keys: Vec<(Digest, Grant)>) -> Changes {
        let mut from_file = self.edits();
        let mut wanted = HashMap::with_capacity(keys.len());
        for (digest, grant) in keys {
            wanted.entry(digest).or_insert(grant);
        }
        let digests: HashSet<Digest> = wanted.keys().copied().collect();
        let mut changes = Changes::default();
        for gone in from_file.difference(&digests) {
            changes.removed += usize::from(self.take(gone));
        }
        for (digest, grant) in wanted {
            let known = self.find(&digest);
            if known.as_ref().is_some_and(|entry| entry.grant == grant) {
                continue;
            }
            self.set(digest, grant);
            match known {
                Some(_) => changes.replaced += 1,
                None => changes.added += 1,
            }
        }
        *from_file = digests;
        changes
    }

    /// Adds or replaces one key that the configuration does not define. `false` if it does: such a key is
    /// managed by the file.
    pub fn put(&self, digest: Digest, grant: Grant) -> bool {
        let from_file = self.edits();
        if from_file.contains(&digest) {
            return false;
        }
        self.set(digest, grant);
        true
    }

    /// Removes one key that the configuration does not define. `false` if there is no such key.
    pub fn remove(&self, digest: &Digest) -> bool {
        let from_file = self.edits();
        !from_file.contains(digest) && self.take(digest)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none, so that nobody could call.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn edits(&self) -> std::sync::MutexGuard<'_, HashSet<Digest>> {
        self.from_file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, digest: Digest, grant: Grant) {
        if let Some(old) = self.entries.insert(digest, Entry::new(grant)) {
            old.retire();
        }
    }

    fn take(&self, digest: &Digest) -> bool {
        let old = self.entries.remove(digest);
        if let Some((_, entry)) = &old {
            entry.retire();
        }
        old.is_some()
    }
}

/// The digest under which a presented key would be found; none for an empty or an overlong one.
pub(super) fn presented_digest(presented: &[u8]) -> Option<Digest> {
    let length_fits = (1..=MAX_PRESENTED_BYTES).contains(&presented.len());
    length_fits.then(|| digest(presented))
}

/// Takes the first eight bytes of a digest as its hash: SHA-256 has mixed them already. Nobody can aim
/// at one bucket from outside, because only keys that exist are ever stored.
#[derive(Default)]
pub(super) struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    /// The length of the array, which `Hash` writes first: always the same.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(name: &str) -> Grant {
        Grant::open(name.into(), "acme".into(), "web".into())
    }

    fn key(secret: &str, name: &str) -> (Digest, Grant) {
        (digest(secret.as_bytes()), grant(name))
    }

    fn name(ring: &Keyring, presented: &[u8]) -> Option<String> {
        ring.lookup(presented).map(|entry| entry.grant.key_id.to_string())
    }

    #[test]
    fn case_47_keys_with_the_same_beginning_are_never_confused() {
        let ring = Keyring::new();
        let begin = "sk-ft-01234567890123456789";
        let (one, two) = (format!("{begin}1"), format!("{begin}2"));
        ring.set_file_keys(vec![key(&one, "one"), key(&two, "two")]);
        assert_eq!(name(&ring, one.as_bytes()).as_deref(), Some("one"));
        assert_eq!(name(&ring, two.as_bytes()).as_deref(), Some("two"));
        for near in [begin, &format!("{begin}3"), &format!("{one} "), &format!("{one}1")] {
            assert_eq!(name(&ring, near.as_bytes()), None, "{near}");
        }
    }

    #[test]
    fn case_51_garbage_is_inert() {
        let ring = Keyring::new();
        ring.set_file_keys(vec![key("good", "one"), key("", "empty")]);
        let digest_itself = digest(b"good");
        for garbage in [
            b"' OR 1=1 --".as_slice(),
            b"good\0",
            b"\xff\xfe\0\r\n",
            b"",
            b"*",
            &digest_itself,
            &[b'x'; 1_000_000],
        ] {
            assert_eq!(name(&ring, garbage), None);
        }
        let longest = "k".repeat(MAX_PRESENTED_BYTES);
        let longer = "k".repeat(MAX_PRESENTED_BYTES + 1);
        ring.set_file_keys(vec![key(&longest, "longest"), key(&longer, "longer")]);
        assert_eq!(name(&ring, longest.as_bytes()).as_deref(), Some("longest"));
        assert_eq!(name(&ring, longer.as_bytes()), None);
    }

    #[test]
    fn a_reload_touches_only_what_changed() {
        let ring = Keyring::new();
        let first = ring.set_file_keys(vec![key("a", "a"), key("b", "b"), key("c", "c")]);
        assert_eq!(first, Changes { added: 3, ..Changes::default() });
        let [a, b, c] = [b"a", b"b", b"c"].map(|secret| ring.lookup(secret).expect("known"));

        let second = ring.set_file_keys(vec![key("a", "a"), key("b", "other"), key("d", "d")]);
        assert_eq!(second, Changes { added: 1, replaced: 1, removed: 1 });
        assert!(Arc::ptr_eq(&a, &ring.lookup(b"a").expect("kept")) && !a.is_stale());
        assert!(b.is_stale() && c.is_stale());
        assert_eq!(name(&ring, b"b").as_deref(), Some("other"));
        assert_eq!(name(&ring, b"c"), None);
        assert_eq!(ring.len(), 3);
    }

    #[test]
    fn single_edits_leave_the_file_s_keys_alone() {
        let ring = Keyring::new();
        ring.set_file_keys(vec![key("file", "file")]);
        let (stored, by_file) = (digest(b"stored"), digest(b"file"));
        assert!(ring.put(stored, grant("stored")));
        assert!(!ring.put(by_file, grant("thief")));
        assert!(!ring.remove(&by_file));
        assert_eq!(name(&ring, b"file").as_deref(), Some("file"));

        ring.set_file_keys(Vec::new());
        assert_eq!(name(&ring, b"file"), None);
        let held = ring.lookup(b"stored").expect("a reload keeps keys that the file never defined");
        assert!(ring.put(stored, grant("edited")));
        assert!(held.is_stale());
        assert!(ring.remove(&stored) && !ring.remove(&stored));
        assert!(ring.is_empty());
    }

    #[test]
    fn the_first_of_two_keys_with_one_secret_counts() {
        let ring = Keyring::new();
        ring.set_file_keys(vec![key("a", "first"), key("a", "second")]);
        assert_eq!(name(&ring, b"a").as_deref(), Some("first"));
    }
}
