//! One segment: a file of fixed size, allocated in full when it is made and mapped into memory.
//!
//! One worker appends; the journal's own threads read what lies below `written`. Allocation in full
//! matters: a write into a hole of a mapped file on a full disk kills the process (SIGBUS).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, compiler_fence};

use memmap2::{MmapOptions, MmapRaw};

use super::codec::{Put, Take};
use super::frame::Encoded;

const MAGIC: &[u8; 8] = b"ftjrnl\r\n";
const FORMAT: u16 = 1;

/// Where the records begin.
pub(super) const HEADER_BYTES: usize = 32;

/// The name of a segment's file ends in this.
pub(super) const EXTENSION: &str = "segment";

/// A segment that is being written, or waits to be taken into the store.
pub(super) struct Segment {
    pub(super) id: u64,
    map: MmapRaw,
    /// `None` for a journal that is kept in memory only.
    path: Option<PathBuf>,
    /// How far the records go. Stored by the worker after the bytes (Release), so that whoever
    /// reads it (Acquire) finds whole records below it; what lies below never changes again.
    written: AtomicUsize,
    /// No more records follow. Stored after the last `written`.
    sealed: AtomicBool,
    /// How far the store has committed. Only the flusher stores.
    pub(super) covered: AtomicUsize,
    /// How far the disk has it. Only the keeper stores.
    pub(super) synced: AtomicUsize,
}

impl Segment {
    /// Makes a segment of `bytes` in `dir`, or in memory. Slow: allocates and syncs.
    pub(super) fn create(
        dir: Option<&Path>,
        id: u64,
        lane: usize,
        bytes: usize,
    ) -> io::Result<Self> {
        let (map, path) = match dir {
            None => (MmapRaw::from(MmapOptions::new().len(bytes).map_anon()?), None),
            Some(dir) => {
                let path = dir.join(file_name(id, lane));
                match allocate(&path, bytes) {
                    Ok(map) => (map, Some(path)),
                    Err(cause) => {
                        // A file that is too short would be mistaken for a damaged segment later.
                        let _ = std::fs::remove_file(&path);
                        return Err(cause);
                    }
                }
            }
        };
        let header = header(id, lane, bytes);
        // SAFETY: the map is writable, longer than a header, and nobody else knows of it yet.
        unsafe { std::ptr::copy_nonoverlapping(header.as_ptr(), map.as_mut_ptr(), HEADER_BYTES) };
        if let Some(dir) = dir {
            map.flush_range(0, HEADER_BYTES)?;
            sync_dir(dir)?;
        }
        Ok(Segment {
            id,
            map,
            path,
            written: AtomicUsize::new(HEADER_BYTES),
            sealed: AtomicBool::new(false),
            covered: AtomicUsize::new(HEADER_BYTES),
            synced: AtomicUsize::new(HEADER_BYTES),
        })
    }

    /// The size in bytes.
    pub(super) fn capacity(&self) -> usize {
        self.map.len()
    }

    /// How far the records go.
    pub(super) fn written(&self) -> usize {
        self.written.load(Ordering::Acquire)
    }

    /// Whether `written` is final. Ask this first, then `written`.
    pub(super) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    /// Appends the frame that `encode` writes. Gives its size, or `None` if `encode` found no room.
    ///
    /// # Safety
    /// Only one thread at a time may append, and none after [`Segment::seal`].
    #[inline]
    pub(super) unsafe fn append(
        &self,
        encode: impl FnOnce(&mut [u8]) -> Option<Encoded>,
    ) -> Option<usize> {
        let at = self.written.load(Ordering::Relaxed);
        let start = self.map.as_mut_ptr().wrapping_add(at);
        // SAFETY: `at` never exceeds the capacity; above `written` only the appending thread
        // touches the bytes.
        let room = unsafe { std::slice::from_raw_parts_mut(start, self.capacity() - at) };
        let Encoded { length, frame_bytes } = encode(room)?;
        // The length goes last and in one store: a process that is killed before it leaves an end,
        // not half a record.
        compiler_fence(Ordering::Release);
        // SAFETY: frames begin at multiples of four in a page-aligned map, and `encode` had room
        // for at least a frame's head.
        unsafe { start.cast::<u32>().write_volatile(length.to_le()) };
        self.written.store(at + frame_bytes, Ordering::Release);
        Some(frame_bytes)
    }

    /// Says that no more records follow.
    pub(super) fn seal(&self) {
        self.sealed.store(true, Ordering::Release);
    }

    /// The records so far: everything from the header up to `written`.
    pub(super) fn bytes(&self, from: usize, to: usize) -> &[u8] {
        debug_assert!(from <= to && to <= self.written());
        // SAFETY: below `written` the bytes never change again.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(from), to - from) }
    }

    /// Brings everything written so far to the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        let (from, to) = (self.synced.load(Ordering::Relaxed), self.written());
        if self.path.is_some() && from < to {
            self.map.flush_range(from, to - from)?;
        }
        self.synced.store(to, Ordering::Relaxed);
        Ok(())
    }

    /// Removes the file. The directory is not synced.
    pub(super) fn delete(&self) -> io::Result<()> {
        match &self.path {
            Some(path) => remove(path),
            None => Ok(()),
        }
    }
}

/// Removes a file; one that is gone already is fine.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
        _ => Ok(()),
    }
}

/// Makes additions to and removals from a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// What the head of a segment's file says.
pub(super) enum Header {
    /// A segment, and the size that it was made with.
    Segment { bytes: usize },
    /// Zeros: the process ended while it made the file.
    Unused,
    /// Something else, or damaged.
    Bad,
    /// Written by a later version of this program.
    Newer(u16),
}

/// Reads the head of a segment's file.
pub(super) fn read_header(bytes: &[u8]) -> Header {
    let head = &bytes[..bytes.len().min(HEADER_BYTES)];
    if head.iter().all(|&byte| byte == 0) {
        return Header::Unused;
    }
    let parse = || {
        let mut take = Take::new(head);
        let (magic, format) = (take.bytes(8)?, take.u16()?);
        let (_lane, bytes, _id) = (take.u16()?, take.u32()?, take.u64()?);
        let sound = magic == MAGIC && take.u32()? == crc32fast::hash(&head[..24]);
        sound.then_some((format, bytes as usize))
    };
    match parse() {
        Some((FORMAT, bytes)) => Header::Segment { bytes },
        Some((format, _)) if format > FORMAT => Header::Newer(format),
        _ => Header::Bad,
    }
}

/// The name of a segment's file: the id comes first, so that names sort by age.
pub(super) fn file_name(id: u64, lane: usize) -> String {
    format!("{id:016x}-{lane}.{EXTENSION}")
}

/// The id in a segment's file name.
pub(super) fn id_of(file_name: &str) -> Option<u64> {
    let stem = file_name.strip_suffix(EXTENSION)?.strip_suffix('.')?;
    u64::from_str_radix(stem.split_once('-')?.0, 16).ok()
}

fn header(id: u64, lane: usize, bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES);
    out.put(MAGIC);
    out.put_u16(FORMAT);
    out.put_u16(lane as u16);
    out.put_u32(bytes as u32);
    out.put_u64(id);
    let crc = crc32fast::hash(&out);
    out.put_u32(crc);
    out.resize(HEADER_BYTES, 0);
    out
}

fn allocate(path: &Path, bytes: usize) -> io::Result<MmapRaw> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    reserve(&file, bytes)?;
    file.sync_all()?;
    MmapOptions::new().len(bytes).map_raw(&file)
}

/// Gives the file its blocks. Where the file system cannot reserve, zeros are written.
fn reserve(file: &File, bytes: usize) -> io::Result<()> {
    // SAFETY: a plain system call on a descriptor that is open.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes as libc::off_t) } {
        0 => Ok(()),
        libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS => {
            io::copy(&mut io::Read::take(io::repeat(0), bytes as u64), &mut &*file).map(drop)
        }
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_segment_has_all_its_blocks_from_the_start() {
        let dir = tempfile::tempdir().expect("a directory");
        let segment = Segment::create(Some(dir.path()), 0x1f, 3, 1 << 16).expect("a segment");
        let path = dir.path().join("000000000000001f-3.segment");
        let meta = std::fs::metadata(&path).expect("the file");
        assert_eq!(meta.len(), 1 << 16);
        assert!(meta.blocks() * 512 >= 1 << 16, "sparse: {} blocks", meta.blocks());
        assert!(matches!(
            read_header(&std::fs::read(&path).expect("readable")),
            Header::Segment { bytes: 0x1_0000 }
        ));
        segment.delete().expect("deleted");
        assert!(!path.exists());
    }

    #[test]
    fn names_give_the_id_back() {
        assert_eq!(id_of(&file_name(u64::MAX, 12)), Some(u64::MAX));
        for other in ["lock", "totals", "x-1.segment", "1.segment", "00-1.segment.damaged"] {
            assert_eq!(id_of(other), None, "{other}");
        }
    }

    #[test]
    fn any_flip_in_a_header_is_noticed() {
        let sound = header(9, 1, 1 << 20);
        for bit in 0..28 * 8 {
            let mut bytes = sound.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(read_header(&bytes), Header::Bad), "bit {bit}");
        }
        assert!(matches!(read_header(&[0; 40]), Header::Unused));
        assert!(matches!(read_header(&[]), Header::Unused));
    }
}
