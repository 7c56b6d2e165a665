//! HTTP as bytes: header lists, HTTP/1.1 heads and the chunked coding.
//!
//! In: bytes. Out: heads, header lists, payload slices. Knows no socket, no task, no model. Both
//! sides of the gateway read heads with the same strict rules, so there is one reading of a
//! message, not two. Open `head.rs` first.

mod chunked;
mod head;
mod header;

pub use chunked::{Chunked, put_chunk_size};
pub use head::{
    BodyFraming, HeadLimits, Method, ParsedRequest, ParsedResponse, RequestHead, ResponseHead,
    Version, parse_request, parse_response, valid_authority,
};
pub use header::{Headers, Name};
