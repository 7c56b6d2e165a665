//! The index of all keys: digest → [`Entry`]. A sharded map of its own, so that editing one key among a
//! million touches one shard for well under a microsecond and rebuilds nothing. The map holds nothing but
//! pointers: half of its places are empty at times, and a digest in each would be a tenth of all memory.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use arc_swap::ArcSwapOption;

use super::grant::Grant;
use super::secret::{Digest, digest};
use crate::ident::KeyId;

/// The longest key that is looked at. Anything longer is unknown, and costs no hashing.
pub const MAX_PRESENTED_BYTES: usize = 1024;

/// One secret of a key in the ring. It never changes; an edit puts another in its place and marks this
/// one stale.
#[derive(Debug)]
pub struct Entry {
    /// What the key may do.
    pub grant: Grant,
    /// From then on the secret is unknown: it was replaced by another, and its grace is over.
    pub valid_until_unix_ms: Option<u64>,
    digest: Digest,
    /// Handed on from entry to entry while the key is edited and its secrets are replaced, so that
    /// `block --now` also reaches requests that began before the last edit. Made with the first edit:
    /// most keys never see one. Only set under the lock of edits.
    life: ArcSwapOption<Life>,
    /// Set once the ring no longer holds this entry, so that copies in workers' caches are dropped.
    stale: AtomicBool,
    /// 0: never. Some seconds too old at most.
    used_unix_s: AtomicU32,
}

#[derive(Default, Debug)]
struct Life {
    ended: AtomicBool,
}

/// How exactly the last use of a key is known: workers that share a key do not fight over it.
const USED_STEP_S: u32 = 10;

impl Entry {
    /// Whether the entry was replaced or removed. Acquire pairs with the Release of [`Entry::retire`]:
    /// who sees the mark also finds the ring's new content.
    pub fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Acquire)
    }

    /// Whether requests that run with the key must end.
    pub fn is_ended(&self) -> bool {
        let life = self.life.load();
        life.as_ref().is_some_and(|life| life.ended.load(Ordering::Acquire))
    }

    /// The life that further entries of the key are given.
    fn life(&self) -> Arc<Life> {
        if let Some(life) = self.life.load_full() {
            return life;
        }
        let life = Arc::new(Life::default());
        self.life.store(Some(Arc::clone(&life)));
        life
    }

    /// Notes that the key is used.
    pub fn note_used(&self, unix_ms: u64) {
        let now = u32::try_from(unix_ms / 1000).unwrap_or(u32::MAX);
        if self.used_unix_s.load(Ordering::Relaxed).abs_diff(now) >= USED_STEP_S {
            self.used_unix_s.store(now, Ordering::Relaxed);
        }
    }

    /// Whether the secret is known at this time.
    pub fn is_valid_at(&self, unix_ms: u64) -> bool {
        self.valid_until_unix_ms.is_none_or(|end| unix_ms < end)
    }

    /// Called after the map was changed, never before: a worker that sees the mark looks into the map
    /// again and must not find the old entry there. In between, a request that overlaps the edit may
    /// still be served by the old grant, as if it had come a moment earlier.
    fn retire(&self) {
        self.stale.store(true, Ordering::Release);
    }

    /// After [`Entry::retire`], for the same reason: a request that sees no end here began with the new
    /// entry, whose life is another.
    fn end(&self) {
        self.life().ended.store(true, Ordering::Release);
    }
}

/// A secret under which a key is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SecretDigest {
    /// Of all of it.
    pub digest: Digest,
    /// For a secret that was replaced: when its grace is over.
    pub valid_until_unix_ms: Option<u64>,
}

impl From<Digest> for SecretDigest {
    fn from(digest: Digest) -> Self {
        SecretDigest { digest, valid_until_unix_ms: None }
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

/// Each has a lock of its own: an edit keeps look-ups of one key in so many waiting for a moment.
const SHARDS: usize = 64;

type Shard = RwLock<HashSet<Slot, BuildHasherDefault<DigestHasher>>>;

/// All keys, shared by all workers.
pub struct Keyring {
    shards: Box<[Shard]>,
    /// The lock also puts edits in order; look-ups never take it.
    file: Mutex<File>,
    /// Told after keys were ended, so that requests that wait for something else notice.
    on_ended: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// What the configuration file defines: those keys are changed by a reload only.
#[derive(Default)]
struct File {
    digests: HashSet<Digest>,
    /// Keys that were put and have the secret of a key of the file. They come back when the file drops
    /// it.
    hidden: HashMap<Digest, (Grant, Option<u64>)>,
}

/// An entry, in its place by its digest.
struct Slot(Arc<Entry>);

impl PartialEq for Slot {
    fn eq(&self, other: &Slot) -> bool {
        self.0.digest == other.0.digest
    }
}

impl Eq for Slot {}

impl Hash for Slot {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.digest.hash(state);
    }
}

impl Borrow<Digest> for Slot {
    fn borrow(&self) -> &Digest {
        &self.0.digest
    }
}

impl Default for Keyring {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        Keyring { shards, file: Mutex::default(), on_ended: OnceLock::new() }
    }
}

impl Keyring {
    /// An empty ring.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what is called whenever a key was ended; only the first call counts. Must not call the
    /// ring.
    pub fn on_ended(&self, call: impl Fn() + Send + Sync + 'static) {
        let _ = self.on_ended.set(Box::new(call));
    }

    /// The key with exactly these bytes. Whatever the bytes are, they are only hashed.
    pub fn lookup(&self, presented: &[u8]) -> Option<Arc<Entry>> {
        self.find(&presented_digest(presented)?)
    }

    /// The key with this digest.
    pub fn find(&self, digest: &Digest) -> Option<Arc<Entry>> {
        let shard = self.shard(digest).read().unwrap_or_else(PoisonError::into_inner);
        shard.get(digest).map(|slot| Arc::clone(&slot.0))
    }

    /// By the last byte: the first ones choose the place within the shard.
    fn shard(&self, digest: &Digest) -> &Shard {
        &self.shards[usize::from(digest[31]) % SHARDS]
    }

    /// Makes `keys` the set of keys that the configuration defines. Keys whose grant is the same keep
    /// their entry, so that workers' caches stay warm over a reload. When two have the same secret the
    /// first counts (the configuration refuses such a file anyway). A key that was put and has the secret
    /// of one of these is hidden by it: see [`Keyring::hidden`].
    pub fn set_file_keys(&self, keys: Vec<(Digest, Grant)>) -> Changes {
        let mut file = self.edits();
        let mut wanted = HashMap::with_capacity(keys.len());
        for (digest, grant) in keys {
            wanted.entry(digest).or_insert(grant);
        }
        let digests: HashSet<Digest> = wanted.keys().copied().collect();
        let before = std::mem::take(&mut file.digests);
        let mut changes = Changes::default();
        for gone in before.difference(&digests) {
            match file.hidden.remove(gone) {
                Some((grant, valid_until_unix_ms)) => {
                    self.set(SecretDigest { digest: *gone, valid_until_unix_ms }, grant, None);
                    changes.replaced += 1;
                }
                None => changes.removed += usize::from(self.take(gone).is_some()),
            }
        }
        for (digest, grant) in wanted {
            let known = self.find(&digest);
            if let Some(entry) = known.as_ref().filter(|_| !before.contains(&digest)) {
                let (grant, until) = (entry.grant.clone(), entry.valid_until_unix_ms);
                file.hidden.insert(digest, (grant, until));
            } else if known.as_ref().is_some_and(|entry| entry.grant == grant) {
                continue;
            }
            let life = known.as_ref().filter(|entry| entry.grant.key_id == grant.key_id);
            self.set(digest.into(), grant, life.map(|entry| entry.life()));
            match known {
                Some(_) => changes.replaced += 1,
                None => changes.added += 1,
            }
        }
        file.digests = digests;
        changes
    }

    /// The keys that were put but cannot be used, because a key of the configuration has the same
    /// secret.
    pub fn hidden(&self) -> Vec<KeyId> {
        self.edits().hidden.values().map(|(grant, _)| grant.key_id.clone()).collect()
    }

    /// Adds or replaces one key that the configuration does not define. `false` if it does: the key is
    /// then hidden by that of the file.
    pub fn put(&self, digest: Digest, grant: Grant) -> bool {
        self.set_key(&[digest.into()], &[], &grant)
    }

    /// As [`Keyring::put`], and whatever runs with the key ends.
    pub fn put_ending(&self, digest: Digest, grant: Grant) -> bool {
        self.set_key_ending(&[digest.into()], &grant)
    }

    /// Makes `secrets` find the key and the secrets that are `gone` find nothing. `false` if the
    /// configuration has a key with one of the secrets: that secret finds the key of the file.
    pub fn set_key(&self, secrets: &[SecretDigest], gone: &[Digest], grant: &Grant) -> bool {
        let mut file = self.edits();
        let known = secrets.iter().map(|secret| &secret.digest).chain(gone);
        let life = known
            .filter_map(|digest| self.find(digest))
            .find_map(|entry| (entry.grant.key_id == grant.key_id).then(|| entry.life()));
        for digest in gone {
            file.hidden.remove(digest);
            if !file.digests.contains(digest) {
                self.take(digest);
            }
        }
        // Several secrets of one key share a life from the start: no edit need have come before.
        let life = life.or_else(|| (secrets.len() > 1).then(Arc::default));
        self.set_all(&mut file, secrets, grant, life.as_ref())
    }

    /// As [`Keyring::set_key`], and whatever runs with the key ends.
    pub fn set_key_ending(&self, secrets: &[SecretDigest], grant: &Grant) -> bool {
        let mut file = self.edits();
        let before: Vec<_> =
            secrets.iter().filter_map(|secret| self.find(&secret.digest)).collect();
        let took_all = self.set_all(&mut file, secrets, grant, Some(&Arc::default()));
        for entry in before.iter().filter(|entry| entry.grant.key_id == grant.key_id) {
            entry.end();
        }
        drop(file);
        if let Some(call) = self.on_ended.get() {
            call();
        }
        took_all
    }

    /// Removes one key that the configuration does not define. `false` if there is no such key.
    pub fn remove(&self, digest: &Digest) -> bool {
        let mut file = self.edits();
        file.hidden.remove(digest);
        !file.digests.contains(digest) && self.take(digest).is_some()
    }

    /// When a secret was last used, in milliseconds since 1970.
    pub fn last_used(&self, digest: &Digest) -> Option<u64> {
        let used = self.find(digest)?.used_unix_s.load(Ordering::Relaxed);
        (used > 0).then(|| u64::from(used) * 1000)
    }

    /// Gives every key, in no order; one with two secrets twice. `each` must not call the ring.
    pub fn each(&self, mut each: impl FnMut(&Grant)) {
        for shard in self.shards.iter() {
            for slot in shard.read().unwrap_or_else(PoisonError::into_inner).iter() {
                each(&slot.0.grant);
            }
        }
    }

    /// Gives the keys that were used since then, and when last. `each` must not call the ring.
    pub fn each_used(&self, since_unix_ms: u64, mut each: impl FnMut(&KeyId, u64)) {
        for shard in self.shards.iter() {
            for slot in shard.read().unwrap_or_else(PoisonError::into_inner).iter() {
                let used = u64::from(slot.0.used_unix_s.load(Ordering::Relaxed)) * 1000;
                if used > 0 && used >= since_unix_ms.saturating_sub(1000) {
                    each(&slot.0.grant.key_id, used);
                }
            }
        }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        let count = |shard: &Shard| shard.read().unwrap_or_else(PoisonError::into_inner).len();
        self.shards.iter().map(count).sum()
    }

    /// Whether there is none, so that nobody could call.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn edits(&self) -> std::sync::MutexGuard<'_, File> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_all(
        &self,
        file: &mut File,
        secrets: &[SecretDigest],
        grant: &Grant,
        life: Option<&Arc<Life>>,
    ) -> bool {
        let mut took_all = true;
        for &secret in secrets {
            if file.digests.contains(&secret.digest) {
                let hidden = (grant.clone(), secret.valid_until_unix_ms);
                file.hidden.insert(secret.digest, hidden);
                took_all = false;
            } else {
                self.set(secret, grant.clone(), life.map(Arc::clone));
            }
        }
        took_all
    }

    fn set(&self, secret: SecretDigest, grant: Grant, life: Option<Arc<Life>>) {
        let entry = Entry {
            grant,
            valid_until_unix_ms: secret.valid_until_unix_ms,
            digest: secret.digest,
            life: ArcSwapOption::new(life),
            stale: AtomicBool::new(false),
            used_unix_s: AtomicU32::new(0),
        };
        let shard = self.shard(&secret.digest);
        let entry = Arc::new(entry);
        let slot = Slot(Arc::clone(&entry));
        let old = shard.write().unwrap_or_else(PoisonError::into_inner).replace(slot);
        if let Some(Slot(old)) = old {
            entry.used_unix_s.store(old.used_unix_s.load(Ordering::Relaxed), Ordering::Relaxed);
            old.retire();
        }
    }

    fn take(&self, digest: &Digest) -> Option<Arc<Entry>> {
        let mut shard = self.shard(digest).write().unwrap_or_else(PoisonError::into_inner);
        let Slot(entry) = shard.take(digest)?;
        drop(shard);
        entry.retire();
        Some(entry)
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
        let hidden = name(&ring, b"file");
        assert_eq!(hidden, None, "it was removed while it was hidden");
        let held = ring.lookup(b"stored").expect("a reload keeps keys that the file never defined");
        assert!(ring.put(stored, grant("edited")));
        assert!(held.is_stale());
        assert!(ring.remove(&stored) && !ring.remove(&stored));
        assert!(ring.is_empty());
    }

    #[test]
    fn a_key_with_the_secret_of_a_file_s_key_is_hidden_not_lost() {
        let ring = Keyring::new();
        ring.put(digest(b"a"), grant("stored"));
        let held = ring.lookup(b"a").expect("known");
        let changes = ring.set_file_keys(vec![key("a", "file")]);
        assert_eq!(changes, Changes { replaced: 1, ..Changes::default() });
        assert!(held.is_stale());
        assert_eq!(name(&ring, b"a").as_deref(), Some("file"));
        assert_eq!(ring.hidden(), [KeyId::from("stored")]);

        assert!(!ring.put(digest(b"a"), grant("edited")));
        ring.set_file_keys(vec![key("a", "file")]);
        assert_eq!(name(&ring, b"a").as_deref(), Some("file"));
        ring.set_file_keys(vec![key("b", "file")]);
        assert_eq!(name(&ring, b"a").as_deref(), Some("edited"));
        assert!(ring.hidden().is_empty());
    }

    #[test]
    fn a_key_is_found_by_its_secrets_and_no_other() {
        let ring = Keyring::new();
        let [one, two, three] = [b"1", b"2", b"3"].map(|secret| digest(secret));
        assert!(ring.set_key(&[one.into()], &[], &grant("k")));
        let old = SecretDigest { digest: one, valid_until_unix_ms: Some(500) };
        ring.set_key(&[two.into(), old], &[], &grant("k"));
        let first = ring.lookup(b"1").expect("in its grace");
        assert!(first.is_valid_at(499) && !first.is_valid_at(500));
        assert!(ring.lookup(b"2").expect("current").is_valid_at(u64::MAX));
        let old = SecretDigest { digest: two, valid_until_unix_ms: Some(900) };
        ring.set_key(&[three.into(), old], &[one], &grant("k"));
        assert!(ring.lookup(b"1").is_none() && first.is_stale());
        assert_eq!(ring.len(), 2);
    }

    #[test]
    fn the_first_of_two_keys_with_one_secret_counts() {
        let ring = Keyring::new();
        ring.set_file_keys(vec![key("a", "first"), key("a", "second")]);
        assert_eq!(name(&ring, b"a").as_deref(), Some("first"));
    }
}
