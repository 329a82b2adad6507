//! Percent-encoding of names that need not be UTF-8.
//!
//! File names are bytes. The usual query parsers turn what is not UTF-8 into replacement characters without a word, and the
//! wrong file would be read; so paths are decoded here, to bytes.

/// Encodes everything but letters, digits and `-._~/`.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// Decodes a query value; `None` when a `%` is not followed by two hexadecimal digits.
#[must_use]
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => hex_digit(rest.next()?)? << 4 | hex_digit(rest.next()?)?,
            // HTML forms, and with them most HTTP libraries, write a space so.
            b'+' => b' ',
            other => other,
        });
    }
    Some(bytes)
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_come_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)), Some(all));
    }

    #[test]
    fn a_plus_is_a_space_and_an_encoded_plus_is_a_plus() {
        assert_eq!(decode("a+b%2Bc"), Some(b"a b+c".to_vec()));
    }

    #[test]
    fn a_cut_or_wrong_escape_is_refused() {
        for wrong in ["%", "%2", "%zz", "a%f"] {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
    }
}
