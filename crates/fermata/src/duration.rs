//! Periods as people write them: `90`, `30s`, `10m`, `2h`, `1d`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

/// Whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Period {
    pub(crate) seconds: u64,
}

/// Not a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a duration: write a number, then s, m, h or d")]
pub(crate) struct InvalidPeriod;

impl FromStr for Period {
    type Err = InvalidPeriod;

    fn from_str(text: &str) -> Result<Self, InvalidPeriod> {
        let digits = text
            .find(|letter: char| !letter.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = match unit {
            "" | "s" => 1,
            "m" => 60,
            "h" => 60 * 60,
            "d" => 24 * 60 * 60,
            _ => return Err(InvalidPeriod),
        };
        number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(unit))
            .map(|seconds| Self { seconds })
            .ok_or(InvalidPeriod)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}s", self.seconds)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// How long ago or how soon, in the largest unit that is not zero.
pub(crate) fn rough(seconds: i64) -> String {
    let seconds = seconds.unsigned_abs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_read_with_and_without_unit() {
        for (text, seconds) in [
            ("90", 90),
            ("30s", 30),
            ("10m", 600),
            ("2h", 7200),
            ("1d", 86_400),
            ("0", 0),
        ] {
            assert_eq!(text.parse(), Ok(Period { seconds }), "{text}");
        }
        for wrong in [
            "",
            "m",
            "-1",
            "1w",
            "1.5h",
            "99999999999999999999s",
            "9999999999999999999d",
        ] {
            wrong.parse::<Period>().unwrap_err();
        }
    }

    #[test]
    fn periods_are_shown_in_one_unit() {
        assert_eq!(rough(59), "59s");
        assert_eq!(rough(-3600), "1h");
        assert_eq!(rough(200_000), "2d");
    }
}
