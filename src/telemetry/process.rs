//! The kernel's view of this process, under the names that dashboards know (`process_*`). Where a value
//! cannot be had it is left out.

use std::fs;

use super::encode::Text;

/// Writes the families.
pub(super) fn encode(out: &mut Text, started_unix_ms: u64) {
    let name = "process_start_time_seconds";
    out.head(&[name, "gauge", "When the process began, in seconds since 1970."]);
    out.seconds(name, "", started_unix_ms.saturating_mul(1_000));
    if let Some(us) = cpu_us() {
        let name = "process_cpu_seconds_total";
        out.head(&[name, "counter", "User and system CPU time spent."]);
        out.seconds(name, "", us);
    }
    if let Some((virtual_bytes, resident_bytes)) = memory() {
        let name = "process_resident_memory_bytes";
        out.head(&[name, "gauge", "Resident memory."]);
        out.value(name, "", resident_bytes);
        let name = "process_virtual_memory_bytes";
        out.head(&[name, "gauge", "Virtual memory."]);
        out.value(name, "", virtual_bytes);
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        let name = "process_open_fds";
        out.head(&[name, "gauge", "Open file descriptors."]);
        out.value(name, "", entries.count() as u64);
    }
    if let Some(limit) = max_fds() {
        let name = "process_max_fds";
        out.head(&[name, "gauge", "How many file descriptors may be open."]);
        out.value(name, "", limit);
    }
    if let Ok(entries) = fs::read_dir("/proc/self/task") {
        let name = "process_threads";
        out.head(&[name, "gauge", "Threads."]);
        out.value(name, "", entries.count() as u64);
    }
}

fn cpu_us() -> Option<u64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: getrusage fills the struct that it is given, and says so by returning 0.
    let usage = unsafe {
        if libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) != 0 {
            return None;
        }
        usage.assume_init()
    };
    let us = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    Some(us(usage.ru_utime) + us(usage.ru_stime))
}

/// Virtual and resident size: the first two numbers of `statm`, in pages.
fn memory() -> Option<(u64, u64)> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = statm.split(' ').map_while(|word| word.parse::<u64>().ok());
    // SAFETY: sysconf reads a constant and touches no memory of ours.
    let page_bytes = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    Some((pages.next()? * page_bytes, pages.next()? * page_bytes))
}

fn max_fds() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes into the struct that it is given.
    let done = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0;
    done.then_some(limit.rlim_cur)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use crate::telemetry::Registry;

    #[test]
    fn the_process_is_described() {
        let text = Registry::new(1, 0).encode(&|_| {});
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_virtual_memory_bytes",
            "process_open_fds",
            "process_max_fds",
            "process_threads",
        ] {
            let line = text.lines().find(|line| line.starts_with(name)).expect(name);
            let value: f64 = line.rsplit(' ').next().expect("value").parse().expect("a number");
            assert!(value > 0.0, "{line}");
        }
    }
}
