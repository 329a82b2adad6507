//! How exposed ports of sandboxes are reached.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use fermata_engine::PortConfig;
use serde::{Deserialize, Deserializer, de};

use super::{ConfigError, File, Setting, Sources};
use crate::duration::Period;
use crate::variables;

/// The settings of exposed ports.
#[derive(Debug, Clone)]
pub(crate) struct Ports {
    pub(super) address: Setting<IpAddr>,
    pub(super) host: Setting<Option<String>>,
    pub(super) range: Setting<Option<PortRange>>,
    pub(super) wait: Setting<Period>,
}

impl Ports {
    pub(super) fn find(sources: &Sources<'_>, file: &File) -> Result<Self, ConfigError> {
        let defaults = PortConfig::default();
        let wait = Period {
            seconds: defaults.wait.as_secs(),
        };
        Ok(Self {
            address: Setting::or_default(
                sources.find(None, variables::PORT_ADDRESS, file.port_address)?,
                defaults.address,
            ),
            host: sources.limit(variables::PORT_HOST, file.port_host.clone())?,
            range: sources.limit(variables::PORT_RANGE, file.port_range)?,
            wait: Setting::or_default(
                sources.find(None, variables::PORT_WAIT, file.port_wait)?,
                wait,
            ),
        })
    }

    /// In the engine's form.
    pub(crate) fn engine(&self) -> PortConfig {
        PortConfig {
            address: self.address.value,
            host_name: self.host.value.clone(),
            range: self.range.value.map(|range| range.first..=range.last),
            wait: Duration::from_secs(self.wait.value.seconds),
        }
    }
}

/// `FIRST-LAST`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortRange {
    first: u16,
    last: u16,
}

/// Not a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a range of ports: write FIRST-LAST, from 1 to 65535")]
pub(crate) struct InvalidRange;

impl FromStr for PortRange {
    type Err = InvalidRange;

    fn from_str(text: &str) -> Result<Self, InvalidRange> {
        let number = |text: &str| text.trim().parse().map_err(|_number| InvalidRange);
        let (first, last) = text.split_once('-').ok_or(InvalidRange)?;
        let range = Self {
            first: number(first)?,
            last: number(last)?,
        };
        // 0 would be any free port.
        (0 < range.first && range.first <= range.last)
            .then_some(range)
            .ok_or(InvalidRange)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.first, self.last)
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_both_ends_in_order() {
        assert_eq!(
            "20000 - 20999".parse(),
            Ok(PortRange {
                first: 20_000,
                last: 20_999
            })
        );
        let one: PortRange = "7-7".parse().unwrap();
        assert_eq!(one.to_string(), "7-7");
        for wrong in ["", "7", "8-7", "0-7", "7-65536", "7-", "a-b", "-7"] {
            assert_eq!(wrong.parse::<PortRange>(), Err(InvalidRange), "{wrong}");
        }
    }
}
