//! The simplest store: sums in memory, and in one small file if they are to last.
//!
//! The file is replaced as a whole (written beside, synced, renamed), so sums and positions are
//! always of one moment. `magic | format u16 | books | CRC-32 of all before`.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::books::{Books, RowKey, Sums};
use super::codec::{Put, Take};
use super::segment::sync_dir;
use super::{Abandoned, Batch, Covered, Store, StoreError};

const MAGIC: &[u8; 8] = b"ftbooks\n";
const FORMAT: u16 = 1;

/// A [`Store`] that keeps sums and forgets single requests once they are settled.
#[derive(Debug)]
pub struct Totals {
    /// Held by the flusher for as long as a commit takes, so readers wait for the disk. They are on
    /// the slow side, too.
    books: Mutex<Books>,
    path: Option<PathBuf>,
}

impl Totals {
    /// Sums that end with the process.
    pub fn in_memory() -> Self {
        Totals { books: Mutex::default(), path: None }
    }

    /// Sums that are kept in the file `path`, which need not exist yet.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let books = match std::fs::read(path) {
            Ok(bytes) => parse(&bytes, path)?,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Books::default(),
            Err(cause) => return Err(failed(path, cause)),
        };
        Ok(Totals { books: Mutex::new(books), path: Some(path.to_owned()) })
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn save(&self, books: &Books) -> Result<(), StoreError> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut out = Vec::with_capacity(4096);
        out.put(MAGIC);
        out.put_u16(FORMAT);
        books.write(&mut out);
        let crc = crc32fast::hash(&out);
        out.put_u32(crc);
        replace(path, &out).map_err(|cause| failed(path, cause))
    }
}

impl Store for Totals {
    fn covered(&self) -> Result<Covered, StoreError> {
        Ok(self.books().covered().clone())
    }

    /// If the file cannot be written, memory is ahead of it. That is harmless: the batch comes
    /// again, is skipped as known, and the file is written then.
    fn commit(&self, batch: &Batch<'_>) -> Result<(), StoreError> {
        let mut books = self.books();
        books.apply(batch);
        self.save(&books)
    }

    fn abandon(&self) -> Result<Vec<Abandoned>, StoreError> {
        let mut books = self.books();
        let abandoned = books.abandon();
        if !abandoned.is_empty() {
            self.save(&books)?;
        }
        Ok(abandoned)
    }

    fn rows(&self) -> Result<Vec<(RowKey, Sums)>, StoreError> {
        Ok(self.books().rows())
    }

    fn orphans(&self) -> Result<u64, StoreError> {
        Ok(self.books().orphans())
    }
}

fn parse(bytes: &[u8], path: &Path) -> Result<Books, StoreError> {
    let damaged = |what| StoreError::Damaged { path: path.display().to_string(), what };
    let body_bytes = bytes.len().checked_sub(4).ok_or_else(|| damaged("too short"))?;
    let (body, crc) = bytes.split_at(body_bytes);
    if crc32fast::hash(body).to_le_bytes() != crc {
        return Err(damaged("the checksum does not match"));
    }
    let mut take = Take::new(body);
    match (take.bytes(MAGIC.len()), take.u16()) {
        (Some(magic), Some(FORMAT)) if magic == MAGIC => {}
        (Some(magic), Some(version)) if magic == MAGIC && version > FORMAT => {
            return Err(StoreError::Newer { path: path.display().to_string(), version });
        }
        _ => return Err(damaged("it does not begin as it should")),
    }
    Books::read(&body[MAGIC.len() + 2..]).ok_or_else(|| damaged("it does not hold books"))
}

/// Puts `bytes` in place of the file: the old or the new content survives, whatever happens.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => sync_dir(dir),
        _ => sync_dir(Path::new(".")),
    }
}

fn failed(path: &Path, cause: io::Error) -> StoreError {
    StoreError::Io { path: path.display().to_string(), cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_books_are_refused_and_never_taken_as_empty() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("totals");
        let store = Totals::open(&path).expect("new");
        let covered = Covered { highest: 7, positions: [(7, 99)].into() };
        store.commit(&Batch { spans: Vec::new(), covered: covered.clone() }).expect("saved");
        assert_eq!(Totals::open(&path).expect("sound").covered().expect("known"), covered);
        let sound = std::fs::read(&path).expect("readable");
        for at in 0..sound.len() {
            let mut bytes = sound.clone();
            bytes[at] ^= 0x10;
            std::fs::write(&path, &bytes).expect("written");
            let error = Totals::open(&path).expect_err("damaged").to_string();
            assert!(error.contains(path.to_str().expect("text")), "{error}");
        }
    }

    #[test]
    fn books_of_a_newer_version_are_refused_by_name() {
        let mut bytes = MAGIC.to_vec();
        bytes.put_u16(FORMAT + 1);
        let crc = crc32fast::hash(&bytes);
        bytes.put_u32(crc);
        let error = parse(&bytes, Path::new("totals")).expect_err("newer");
        assert!(matches!(error, StoreError::Newer { version, .. } if version == FORMAT + 1));
    }

    #[test]
    fn a_commit_that_could_not_be_saved_is_saved_by_the_next_try() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sub").join("totals");
        let store = Totals::open(&path).expect("new");
        let covered = Covered { highest: 1, positions: [(1, 40)].into() };
        let batch = Batch { spans: Vec::new(), covered: covered.clone() };
        store.commit(&batch).expect_err("no such directory");
        std::fs::create_dir(dir.path().join("sub")).expect("made");
        store.commit(&batch).expect("saved");
        assert_eq!(Totals::open(&path).expect("sound").covered().expect("known"), covered);
    }
}
