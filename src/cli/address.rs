//! Addresses as one types them: a port alone will do.

use std::net::{Ipv4Addr, SocketAddr};

/// Reads `8081`, `:8081`, `localhost:8081` (all on the loopback interface) or a whole address.
pub(crate) fn parse(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let port = match text.rsplit_once(':') {
        None => Some(text),
        Some(("" | "localhost", port)) => Some(port),
        Some(_) => None,
    };
    let digits = port.filter(|port| port.bytes().all(|b| b.is_ascii_digit()));
    match digits.and_then(|port| port.parse().ok()) {
        Some(port) => Ok((Ipv4Addr::LOCALHOST, port).into()),
        None => {
            Err("write a port or an address with one, for example 8081 or 127.0.0.1:8081".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_on_this_machine() {
        for text in ["8081", ":8081", "localhost:8081", "127.0.0.1:8081"] {
            assert_eq!(parse(text).map(|a| a.to_string()), Ok("127.0.0.1:8081".into()), "{text}");
        }
        assert_eq!(parse("[::]:0").map(|a| a.to_string()), Ok("[::]:0".into()));
        for text in ["", ":", "localhost", "+80", "65536", "gpu-1:8081", "1:2:3", "127.0.0.1"] {
            let told = parse(text).expect_err(text);
            assert!(told.contains("127.0.0.1:8081"), "{told}");
        }
    }
}
