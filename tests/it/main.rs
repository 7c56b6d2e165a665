//! Integration tests: real bytes over real sockets against a whole gateway in this process (or the
//! built binary, where a process of its own is the point). One file per promise; the numbers in
//! names are those of the list of cases in the reliability document. Shared tools: `support/`.

mod body;
mod framing;
mod h2_abuse;
mod keys;
mod leaks;
mod slow;
mod smoke;
mod support;
mod tls;
