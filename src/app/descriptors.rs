//! File descriptors: as many as the system gives, and connections no more than they can serve.

/// Kept for listeners, logs, the journal, the admin API and warm connections.
const RESERVED: u64 = 128;

/// The connections of callers that can be served: each may need another one upstream. Warns if
/// that is less than what is configured.
pub(super) fn connection_limit(configured: usize) -> usize {
    let soft = soft_limit();
    let usable = (soft.saturating_sub(RESERVED.min(soft / 2)) / 2).max(1);
    let usable = usize::try_from(usable).unwrap_or(usize::MAX);
    if usable < configured {
        tracing::warn!(
            "server.limits.connections is {configured}, but {soft} file descriptors are enough for {usable}; raise the limit (ulimit -n, LimitNOFILE=)"
        );
    }
    configured.min(usable)
}

/// Takes as many descriptors as the system allows.
pub fn raise_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live value of the right type.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && limit.rlim_cur < limit.rlim_max
        {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

fn soft_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live value of the right type.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } {
        0 => limit.rlim_cur,
        _ => u64::MAX,
    }
}
