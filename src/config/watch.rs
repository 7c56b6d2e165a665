//! Tells when a file of the configuration holds something new.
//!
//! Editors write a new file and rename it over the old one, and Kubernetes swaps a symlink called
//! `..data` far above it, so watching the file itself is no use: what is watched are the directories
//! of every name on the way, those of symlinks and of their targets included. Contents are compared,
//! so that a `touch` or a chatty neighbour in the same directory changes nothing.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::load::Fingerprint;
use crate::clock;

/// Nothing more happens for so long: then the writer has finished.
const QUIET: Duration = Duration::from_millis(200);
/// A file that is written to without end is looked at all the same.
const PATIENCE: Duration = Duration::from_secs(2);
/// As many symlinks as Linux follows.
const MOST_LINKS: usize = 40;

/// A running watch: dropping it ends it.
pub struct Watch {
    shared: Arc<Shared>,
    wake: SyncSender<()>,
    thread: Option<JoinHandle<()>>,
}

/// What the two threads (ours, and the one that `notify` calls back on) and the owner share. The
/// locks are held for an assignment or a look-up.
struct Shared {
    /// What to watch, and what it held.
    known: Mutex<Fingerprint>,
    /// Names on the way to the files: an event about another name is not for us.
    names: Mutex<BTreeSet<OsString>>,
    /// The owner is gone.
    stop: AtomicBool,
}

/// Watches the files of `known`, and calls `on_change` whenever one of them holds something else
/// than before: at once, if it did since `known` was taken. The call is made on a thread of the
/// watch's own; hand it [`Watch::follow`] the fingerprint of what was loaded.
///
/// Fails if the system has no watches left to give.
pub fn watch(known: Fingerprint, on_change: impl FnMut() + Send + 'static) -> io::Result<Watch> {
    let (wake, woken) = sync_channel(1);
    let shared = Arc::new(Shared {
        known: Mutex::new(known),
        names: Mutex::new(BTreeSet::new()),
        stop: AtomicBool::new(false),
    });
    let events = notify::recommended_watcher({
        let (shared, wake) = (Arc::clone(&shared), wake.clone());
        move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| shared.concerns(&event)) {
                // A full channel means that a look is due anyway.
                let _ = wake.try_send(());
            }
        }
    })
    .map_err(io::Error::other)?;
    let mut looker = Looker { shared: Arc::clone(&shared), events, watched: BTreeSet::new() };
    looker.place_watches()?;
    // What changed while the watches were placed is found by this first look.
    let _ = wake.try_send(());
    let thread = std::thread::Builder::new()
        .name("config-watch".into())
        .spawn(move || looker.run(&woken, on_change))?;
    Ok(Watch { shared, wake, thread: Some(thread) })
}

impl Watch {
    /// Watches these files from now on. To be called after each load, also after one that failed:
    /// the file that was missing may be the one to appear next.
    pub fn follow(&self, known: Fingerprint) {
        *lock(&self.shared.known) = known;
        let _ = self.wake.try_send(());
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = self.wake.try_send(());
        let own = std::thread::current().id();
        // The callback may own the watch: a thread cannot wait for itself.
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != own) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Does a file hold something else than at the last look?
    fn look(&self) -> bool {
        let before = lock(&self.known).clone();
        let now = before.now();
        let mut known = lock(&self.known);
        // If the two differ, the owner has loaded again meanwhile, and has asked for another look.
        if *known != before || now == before {
            return false;
        }
        *known = now;
        true
    }

    /// Could this event be about one of the files?
    fn concerns(&self, event: &notify::Event) -> bool {
        if event.need_rescan() {
            return true;
        }
        match event.kind {
            // Our own reading makes such events: to heed them would never end.
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
            EventKind::Access(_) => return false,
            _ => {}
        }
        let names = lock(&self.names);
        event.paths.is_empty()
            || event
                .paths
                .iter()
                .any(|path| path.file_name().is_none_or(|name| names.contains(name)))
    }
}

/// The thread of the watch.
struct Looker {
    shared: Arc<Shared>,
    events: RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
}

impl Looker {
    fn run(mut self, woken: &Receiver<()>, mut on_change: impl FnMut()) {
        while woken.recv().is_ok() {
            self.settle(woken);
            if self.shared.stop.load(Ordering::Relaxed) {
                return;
            }
            // Watches before the look: a file that appears in between makes an event.
            if let Err(error) = self.place_watches() {
                tracing::warn!(%error, "a directory of the configuration cannot be watched");
            }
            if self.shared.look() {
                on_change();
            }
        }
    }

    /// Waits until the writer has finished.
    fn settle(&self, woken: &Receiver<()>) {
        let end = clock::instant() + PATIENCE;
        while clock::instant() < end && !self.shared.stop.load(Ordering::Relaxed) {
            match woken.recv_timeout(QUIET) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Watches the directories that matter now. Those watched already are watched again, since a
    /// directory that was removed and made anew has lost its watch.
    fn place_watches(&mut self) -> io::Result<()> {
        let files: Vec<PathBuf> = lock(&self.shared.known).files().map(Path::to_owned).collect();
        let (mut directories, mut names) = (BTreeSet::new(), BTreeSet::new());
        for file in &files {
            steps(file, &mut directories, &mut names);
        }
        // A directory's own end comes under its own name.
        names.extend(directories.iter().filter_map(|path| path.file_name().map(OsString::from)));
        *lock(&self.shared.names) = names;
        for gone in self.watched.difference(&directories) {
            let _ = self.events.unwatch(gone);
        }
        let mut result = Ok(());
        for directory in &directories {
            if let Err(error) = self.events.watch(directory, RecursiveMode::NonRecursive) {
                result = Err(io::Error::other(error));
            }
        }
        self.watched = directories;
        result
    }
}

/// Walks to a file name by name, through symlinks, and collects the directories in which a change
/// of one of these names would lead elsewhere: those of the file and of every symlink. If a part of
/// the way is missing, the last directory there is, where it would appear.
fn steps(file: &Path, directories: &mut BTreeSet<PathBuf>, names: &mut BTreeSet<OsString>) {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let mut ahead: Vec<OsString> = parts(&file);
    let mut at = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        let kind = std::fs::symlink_metadata(&next).map(|metadata| metadata.file_type());
        match kind {
            Ok(kind) if kind.is_symlink() && links < MOST_LINKS => {
                links += 1;
                directories.insert(at.clone());
                names.insert(name);
                let Ok(target) = std::fs::read_link(&next) else { return };
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                ahead.extend(parts(&target));
            }
            Ok(kind) if kind.is_dir() && !ahead.is_empty() => at = next,
            _ => {
                directories.insert(at);
                names.insert(name);
                return;
            }
        }
    }
}

/// The names of a path, the first one last.
fn parts(path: &Path) -> Vec<OsString> {
    let name = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().rev().filter_map(name).collect()
}

/// A panic elsewhere leaves whole values behind these locks.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::mpsc;

    use crate::config::load::load;

    /// A configuration in a directory of its own, and its watch.
    struct Scene {
        dir: tempfile::TempDir,
        watch: Option<Watch>,
        changes: Receiver<()>,
        told: mpsc::Sender<()>,
    }

    fn text(workers: usize, more: &str) -> String {
        format!("[server]\nworkers = {workers}\n{more}")
    }

    impl Scene {
        fn new(prepare: impl FnOnce(&Path)) -> Scene {
            let dir = tempfile::tempdir().expect("a directory");
            prepare(dir.path());
            let (told, changes) = mpsc::channel();
            Scene { dir, watch: None, changes, told }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn fingerprint(&self, file: &str) -> Fingerprint {
            match load(&self.path(file), &|_| None) {
                Ok(loaded) => loaded.fingerprint,
                Err(faults) => faults.fingerprint,
            }
        }

        fn watch(&mut self, file: &str) {
            let told = self.told.clone();
            let watch = watch(self.fingerprint(file), move || {
                let _ = told.send(());
            });
            self.watch = Some(watch.expect("a watch"));
        }

        #[track_caller]
        fn expect_change(&self) {
            self.changes.recv_timeout(Duration::from_secs(20)).expect("the change is told");
        }
    }

    #[test]
    fn a_write_in_place_and_an_editors_rename_are_told() {
        let mut scene =
            Scene::new(|dir| fs::write(dir.join("f.toml"), text(1, "")).expect("write"));
        scene.watch("f.toml");
        fs::write(scene.path("f.toml"), text(2, "")).expect("write");
        scene.expect_change();
        for workers in 3..5 {
            fs::write(scene.path(".f.toml.swp"), text(workers, "")).expect("write");
            fs::rename(scene.path(".f.toml.swp"), scene.path("f.toml")).expect("rename");
            scene.expect_change();
        }
        // Some editors move the old file away first.
        fs::rename(scene.path("f.toml"), scene.path("f.toml~")).expect("rename");
        fs::write(scene.path("f.toml"), text(6, "")).expect("write");
        scene.expect_change();
    }

    #[test]
    fn a_swap_of_kubernetes_data_links_is_told_each_time() {
        let mut scene = Scene::new(|dir| {
            fs::create_dir(dir.join("..1")).expect("mkdir");
            fs::write(dir.join("..1/f.toml"), text(1, "")).expect("write");
            symlink("..1", dir.join("..data")).expect("symlink");
            symlink("..data/f.toml", dir.join("f.toml")).expect("symlink");
        });
        scene.watch("f.toml");
        for round in 2..5 {
            let new = format!("..{round}");
            fs::create_dir(scene.path(&new)).expect("mkdir");
            fs::write(scene.path(&new).join("f.toml"), text(round, "")).expect("write");
            symlink(&new, scene.path("..data_tmp")).expect("symlink");
            fs::rename(scene.path("..data_tmp"), scene.path("..data")).expect("rename");
            fs::remove_dir_all(scene.path(&format!("..{}", round - 1))).expect("remove");
            scene.expect_change();
        }
    }

    #[test]
    fn the_target_of_a_link_in_another_directory_is_watched() {
        let mut scene = Scene::new(|dir| {
            fs::create_dir_all(dir.join("real/deep")).expect("mkdir");
            fs::create_dir(dir.join("etc")).expect("mkdir");
            fs::write(dir.join("real/deep/f.toml"), text(1, "")).expect("write");
            symlink("../real/deep/f.toml", dir.join("etc/f.toml")).expect("symlink");
        });
        scene.watch("etc/f.toml");
        fs::write(scene.path("real/deep/f.toml"), text(2, "")).expect("write");
        scene.expect_change();
        // The whole directory is exchanged.
        fs::create_dir_all(scene.path("new")).expect("mkdir");
        fs::write(scene.path("new/f.toml"), text(3, "")).expect("write");
        fs::rename(scene.path("real/deep"), scene.path("old")).expect("rename");
        fs::rename(scene.path("new"), scene.path("real/deep")).expect("rename");
        scene.expect_change();
    }

    #[test]
    fn files_that_the_configuration_names_are_watched_also_while_they_are_missing() {
        let key = "[admin]\ntoken = \"file:secrets/token\"\n";
        let mut scene =
            Scene::new(|dir| fs::write(dir.join("f.toml"), text(1, "")).expect("write"));
        scene.watch("f.toml");
        fs::write(scene.path("f.toml"), text(1, key)).expect("write");
        scene.expect_change();
        let watch = scene.watch.as_ref().expect("a watch");
        // Loading fails, and says what it looked for; neither the directory nor the file is there.
        watch.follow(scene.fingerprint("f.toml"));
        fs::create_dir(scene.path("secrets")).expect("mkdir");
        fs::write(scene.path("secrets/token"), "0123456789").expect("write");
        scene.expect_change();
        watch.follow(scene.fingerprint("f.toml"));
        fs::write(scene.path("secrets/token"), "9876543210").expect("write");
        scene.expect_change();
    }

    #[test]
    fn a_change_between_load_and_watch_is_not_lost() {
        let mut scene =
            Scene::new(|dir| fs::write(dir.join("f.toml"), text(1, "")).expect("write"));
        let loaded = scene.fingerprint("f.toml");
        fs::write(scene.path("f.toml"), text(2, "")).expect("write");
        let told = scene.told.clone();
        let watch = watch(loaded, move || {
            let _ = told.send(());
        });
        scene.watch = Some(watch.expect("a watch"));
        scene.expect_change();
    }

    #[test]
    fn touching_and_neighbours_change_nothing() {
        let scene = Scene::new(|dir| fs::write(dir.join("f.toml"), text(1, "")).expect("write"));
        let shared = Shared {
            known: Mutex::new(scene.fingerprint("f.toml")),
            names: Mutex::new(BTreeSet::from(["f.toml".into()])),
            stop: AtomicBool::new(false),
        };
        fs::write(scene.path("f.toml"), text(1, "")).expect("write");
        assert!(!shared.look(), "the same bytes");
        fs::write(scene.path("f.toml"), text(2, "")).expect("write");
        assert!(shared.look());
        assert!(!shared.look(), "told once");
        fs::remove_file(scene.path("f.toml")).expect("remove");
        assert!(shared.look(), "gone");

        let event = |kind, name| notify::Event::new(kind).add_path(scene.path(name));
        let write = EventKind::Modify(notify::event::ModifyKind::Any);
        let read = EventKind::Access(AccessKind::Close(AccessMode::Read));
        assert!(shared.concerns(&event(write, "f.toml")));
        assert!(!shared.concerns(&event(write, "foretoken.db-wal")), "a busy neighbour");
        assert!(!shared.concerns(&event(read, "f.toml")), "our own reading");
    }

    #[test]
    fn a_dropped_watch_ends_and_may_be_dropped_by_its_own_call() {
        let mut scene =
            Scene::new(|dir| fs::write(dir.join("f.toml"), text(1, "")).expect("write"));
        let slot: Arc<Mutex<Option<Watch>>> = Arc::default();
        let (inner, told) = (Arc::clone(&slot), scene.told.clone());
        let own = watch(scene.fingerprint("f.toml"), move || {
            drop(lock(&inner).take());
            let _ = told.send(());
        });
        *lock(&slot) = Some(own.expect("a watch"));
        fs::write(scene.path("f.toml"), text(2, "")).expect("write");
        scene.expect_change();
        scene.watch("f.toml");
        drop(scene.watch.take());
    }

    #[test]
    fn a_circle_of_links_ends() {
        let scene = Scene::new(|dir| {
            symlink("b", dir.join("a")).expect("symlink");
            symlink("a", dir.join("b")).expect("symlink");
        });
        let (mut directories, mut names) = (BTreeSet::new(), BTreeSet::new());
        steps(&scene.path("a/f.toml"), &mut directories, &mut names);
        assert!(directories.iter().any(|directory| directory.ends_with(scene.dir.path())));
        assert!(names.contains(&OsString::from("a")) && names.contains(&OsString::from("b")));
    }
}
