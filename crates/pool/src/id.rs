//! Names of what the pool holds. They become file names, so only what is safe there can be made.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::PoolError;

/// Room for a prefix or suffix in a file name.
const MAX_LENGTH: usize = 128;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = PoolError;

            fn from_str(text: &str) -> Result<Self, PoolError> {
                if $valid(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(PoolError::InvalidId { kind: $kind, text: text.chars().take(MAX_LENGTH).collect() })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = PoolError;

            fn try_from(text: String) -> Result<Self, PoolError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A writable upper.
    UpperId, "upper id", is_id
);
name!(
    /// An immutable snapshot of an upper.
    SnapshotId, "snapshot id", is_id
);
name!(
    /// The BLAKE3 of a layer's file, in lower-case hexadecimal.
    Digest, "layer digest", is_digest
);

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(hash.to_hex().to_string())
    }
}

fn is_id(text: &str) -> bool {
    (1..=MAX_LENGTH).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && !text.starts_with(['.', '-'])
}

fn is_digest(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_pool_are_refused() {
        for text in [
            "",
            ".",
            "..",
            ".hidden",
            "-x",
            "a/b",
            "a b",
            "a\n",
            "é",
            &"x".repeat(129),
        ] {
            UpperId::from_str(text).unwrap_err();
        }
        for text in ["a", "sandbox-1", "0198.a_B", &"x".repeat(128)] {
            assert_eq!(UpperId::from_str(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn a_digest_is_a_blake3() {
        let digest = Digest::from(blake3::hash(b"x"));
        assert_eq!(digest.as_str().parse::<Digest>().unwrap(), digest);
        digest
            .as_str()
            .to_uppercase()
            .parse::<Digest>()
            .unwrap_err();
        digest.as_str()[1..].parse::<Digest>().unwrap_err();
    }
}
