//! The `foretoken` program: flags in, exit codes out.

use std::process::ExitCode;

/// Requests allocate and free on their own worker: an allocator with a heap per thread suits that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    foretoken::cli::main()
}
