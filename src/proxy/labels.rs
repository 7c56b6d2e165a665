//! The labels of a request: the caller's own customer and free tags, by which usage can be grouped.

use std::borrow::Cow;

use crate::auth::Grant;
use crate::dialect::Asked;
use crate::error::{Error, Kind};
use crate::wire::RequestHead;

/// As long as end users in a request's body may be.
const END_USER_BYTES_MAX: usize = 256;
/// Tags of one request, the key's own included, as recorded.
const TAGS_BYTES_MAX: usize = 255;

/// The caller's own customer: what the header says, else what the body does.
pub(super) fn end_user<'a>(head: &'a RequestHead, asked: &'a Asked<'_>) -> Option<Cow<'a, str>> {
    let header = head.headers.find("x-foretoken-end-user").and_then(|value| text(value));
    match header.filter(|name| !name.is_empty() && name.len() <= END_USER_BYTES_MAX) {
        Some(name) => Some(Cow::Borrowed(name)),
        None => asked.end_user.as_deref().map(Cow::Borrowed),
    }
}

/// The tags of the key and of the request, joined by commas, each once.
///
/// # Errors
/// More than can be recorded: cut tags would be somebody else's.
pub(super) fn tags<'a>(
    head: &RequestHead,
    grant: &Grant,
    room: &'a mut String,
) -> Result<&'a str, Error> {
    let header = head.headers.find("x-foretoken-tags").and_then(|value| text(value)).unwrap_or("");
    if header.is_empty() && grant.tags.is_empty() {
        return Ok("");
    }
    let given = header.split(',').map(str::trim).filter(|tag| !tag.is_empty());
    for tag in grant.tags.iter().map(|tag| tag.as_ref()).chain(given) {
        if room.split(',').any(|known| known == tag) {
            continue;
        }
        if !room.is_empty() {
            room.push(',');
        }
        room.push_str(tag);
        if room.len() > TAGS_BYTES_MAX {
            return Err(Error::downstream(
                Kind::InvalidRequest,
                format!(
                    "the tags of key and request have more than {TAGS_BYTES_MAX} bytes together; send fewer in x-foretoken-tags"
                ),
            )
            .param("x-foretoken-tags"));
        }
    }
    Ok(room)
}

fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok().filter(|text| !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(tags: &str) -> RequestHead {
        let mut head = RequestHead::default();
        head.headers.push(b"X-Foretoken-Tags", tags.as_bytes());
        head
    }

    #[test]
    fn tags_of_key_and_request_are_joined_each_once() {
        let mut grant = Grant::open("k".into(), "a".into(), "p".into());
        grant.tags = ["team-a".into(), "x".into()].into();
        for (header, want) in
            [("", "team-a,x"), ("y, x ,,z", "team-a,x,y,z"), ("team", "team-a,x,team")]
        {
            let mut room = String::new();
            let joined = tags(&head(header), &grant, &mut room).expect("few enough");
            assert_eq!(joined, want, "{header}");
        }
        let mut room = String::new();
        let long = tags(&head(&"t".repeat(300)), &grant, &mut room).expect_err("too long");
        assert_eq!(long.kind, Kind::InvalidRequest);
    }
}
