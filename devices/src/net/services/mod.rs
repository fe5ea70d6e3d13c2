//! What the gateway answers itself: addresses, their owners, and names.
//!
//! Each service is a state machine of its own: a parsed packet or a message
//! and the time go in, a reply comes out. What a service keeps for guests is
//! bounded, in all and per port, so that none can use up the share of others.

pub mod arp;
pub mod dhcp4;
pub mod dhcp6;
pub mod dns;
pub mod leases;
pub mod ndp;
pub mod neighbours;
pub mod ra;

/// The number of a switch's port, as the services tell ports apart.
pub type PortNumber = u32;

/// The longest label of a name (RFC 1035, 2.3.4).
const LONGEST_LABEL: usize = 63;

/// The host name in what a client calls itself: the first label in lower
/// case, if it is one (RFC 1123, 2.1).
fn host_name(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    // Some clients count a closing NUL, against RFC 2132, 2.
    let text = text.trim_end_matches('\0');
    let label = text.split('.').next()?;
    is_label(label).then(|| label.to_ascii_lowercase())
}

/// Whether `text` is one label of a host's name: letters, digits, and hyphens
/// inside (RFC 1123, 2.1).
fn is_label(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=LONGEST_LABEL).contains(&text.len())
        && text.bytes().all(inside)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Whether `text` is a domain name of host name labels, without a dot at its
/// end.
fn is_domain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// The wire form of a domain name that [`is_domain`] takes (RFC 1035, 3.1).
fn encode_name(domain: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(domain.len() + 2);
    for label in domain.split('.') {
        let length = u8::try_from(label.len()).expect("a label is at most 63 bytes");
        bytes.push(length);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_one_clean_label() {
        for (text, name) in [
            (&b"lab-1"[..], Some("lab-1")),
            (b"LAB", Some("lab")),
            (b"lab.example.org", Some("lab")),
            (b"lab\0", Some("lab")),
            (b"", None),
            (b".", None),
            (b"-lab", None),
            (b"lab-", None),
            (b"la b", None),
            (b"caf\xc3\xa9", None),
            (b"\xff", None),
            (&[b'a'; 64], None),
        ] {
            assert_eq!(host_name(text).as_deref(), name, "{text:?}");
        }
    }

    #[test]
    fn domains_are_rows_of_labels() {
        for (text, is) in [
            ("lab", true),
            ("nest.lab-1.example", true),
            ("", false),
            ("lab.", false),
            ("a..b", false),
            ("a_b", false),
        ] {
            assert_eq!(is_domain(text), is, "{text:?}");
        }
        assert!(!is_domain(&["a"; 128].join(".")));
    }
}
