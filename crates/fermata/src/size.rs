//! Sizes as people write them: `512M`, `4GiB`, `1000`.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// A number of bytes. Units are powers of 1024, as everywhere where memory is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteSize(pub(crate) u64);

/// Not a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a size: write a number, then K, M, G or T")]
pub(crate) struct InvalidSize;

const UNITS: [(char, u32); 4] = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];

impl FromStr for ByteSize {
    type Err = InvalidSize;

    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let text = text.trim().to_ascii_uppercase();
        let digits = text
            .find(|letter: char| !letter.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_digits| InvalidSize)?;
        let unit = unit.trim_start();
        let unit = unit
            .strip_suffix("IB")
            .or_else(|| unit.strip_suffix('B'))
            .unwrap_or(unit);
        let shift = match unit {
            "" => 0,
            unit => UNITS
                .into_iter()
                .find(|(letter, _)| unit.chars().eq([*letter]))
                .map(|(_, shift)| shift)
                .ok_or(InvalidSize)?,
        };
        number.checked_mul(1 << shift).map(Self).ok_or(InvalidSize)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS
            .into_iter()
            .rev()
            .find(|(_, shift)| self.0 >> shift > 0);
        let Some((letter, shift)) = unit else {
            return write!(formatter, "{} B", self.0);
        };
        // One digit after the point is enough to look at, and integers lose nothing in front of it.
        let tenths = (u128::from(self.0) * 10) >> shift;
        write!(formatter, "{}.{} {letter}iB", tenths / 10, tenths % 10)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;
        impl Visitor<'_> for SizeVisitor {
            type Value = ByteSize;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a number of bytes, or text like \"512M\"")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<ByteSize, E> {
                u64::try_from(value).map(ByteSize).map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(value))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<ByteSize, E> {
                value.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(SizeVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_every_customary_spelling() {
        for (text, bytes) in [
            ("0", 0),
            ("1000", 1000),
            ("1k", 1024),
            ("512M", 512 << 20),
            ("4GiB", 4 << 30),
            ("2 TB", 2 << 40),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn nonsense_and_overflow_are_refused() {
        for text in ["", "M", "-1", "1.5G", "1X", "1KK", "99999999999T"] {
            text.parse::<ByteSize>().unwrap_err();
        }
    }

    #[test]
    fn sizes_are_shown_short() {
        assert_eq!(ByteSize(512).to_string(), "512 B");
        assert_eq!(ByteSize(1536).to_string(), "1.5 KiB");
        assert_eq!(ByteSize(224 << 20).to_string(), "224.0 MiB");
    }
}
