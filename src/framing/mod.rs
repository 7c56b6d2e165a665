//! Framing: bytes in, frames out. Where does one message end and the next begin?
//!
//! In: pieces of a byte stream, cut anywhere. Out: whole frames as slices, and pieces of a frame
//! that is too long to hold. Every buffer has a bound. It must not know what a frame says: no
//! dialect, no JSON, no I/O, no clock. Open [`sse`] first; it is the only framing so far.

pub mod sse;
