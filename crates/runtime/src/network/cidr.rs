//! Networks in CIDR form.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::RuntimeError;

/// A network: an address whose host bits are zero, and how many bits name the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// Host bits of `address` are cleared; a prefix longer than the address is taken as the whole address.
    #[must_use]
    pub fn new(address: IpAddr, prefix: u8) -> Self {
        match address {
            IpAddr::V4(v4) => {
                let prefix = prefix.min(32);
                let mask = u32::MAX.checked_shl(u32::from(32 - prefix)).unwrap_or(0);
                Self {
                    address: Ipv4Addr::from_bits(v4.to_bits() & mask).into(),
                    prefix,
                }
            }
            IpAddr::V6(v6) => {
                let prefix = prefix.min(128);
                let mask = u128::MAX.checked_shl(u32::from(128 - prefix)).unwrap_or(0);
                Self {
                    address: Ipv6Addr::from_bits(v6.to_bits() & mask).into(),
                    prefix,
                }
            }
        }
    }

    /// The network's first address.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// How many bits name the network.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether every address of `other` is one of this network.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.address.is_ipv4() == other.address.is_ipv4()
            && self.prefix <= other.prefix
            && Self::new(other.address, self.prefix) == self
    }
}

impl From<Ipv4Addr> for Cidr {
    fn from(address: Ipv4Addr) -> Self {
        Self::new(address.into(), 32)
    }
}

impl FromStr for Cidr {
    type Err = RuntimeError;

    /// A bare address is that one address. Host bits may be set, they are cleared.
    fn from_str(text: &str) -> Result<Self, RuntimeError> {
        let invalid = || RuntimeError::InvalidNetwork {
            // Long input is not worth repeating.
            network: text.chars().take(80).collect(),
        };
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => longest,
            // Digits only: `u8::from_str` would take a sign.
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits
                .parse()
                .ok()
                .filter(|prefix| *prefix <= longest)
                .ok_or_else(invalid)?,
            Some(_) => return Err(invalid()),
        };
        Ok(Self::new(address, prefix))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix)
    }
}

/// The IPv4 networks among these, each that lies in another left out: nftables refuses a set with overlapping intervals.
pub(super) fn disjoint_ipv4(networks: &[Cidr]) -> Vec<Cidr> {
    // Sorted, a network comes before all that it contains, and those follow it without a gap.
    let mut sorted: Vec<Cidr> = networks
        .iter()
        .copied()
        .filter(|network| network.address.is_ipv4())
        .collect();
    sorted.sort_unstable();
    let mut kept: Vec<Cidr> = Vec::with_capacity(sorted.len());
    for network in sorted {
        if !kept.last().is_some_and(|last| last.contains(network)) {
            kept.push(network);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_and_written() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("198.51.100.7", "198.51.100.7/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("255.255.255.255/0", "0.0.0.0/0"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("ffff::/0", "::/0"),
        ] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        for text in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/33",
            "::/129",
            "10.0.0/8",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.0/8/8",
            " 10.0.0.0/8",
            "example.com",
            "10.0.0.0/8 drop",
            "10.0.0.0/256",
            "010.0.0.1",
            ":ffff",
            "10.0.0.1}",
        ] {
            match text.parse::<Cidr>().unwrap_err() {
                RuntimeError::InvalidNetwork { network } => assert_eq!(network, text),
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn a_network_inside_another_is_left_out() {
        let networks: Vec<Cidr> = [
            "10.1.0.0/16",
            "10.0.0.0/8",
            "10.0.0.0/8",
            "11.0.0.0/32",
            "10.255.0.0/16",
            "2001:db8::/32",
            "11.0.0.1",
        ]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
        let shown: Vec<String> = disjoint_ipv4(&networks)
            .iter()
            .map(Cidr::to_string)
            .collect();
        assert_eq!(shown, ["10.0.0.0/8", "11.0.0.0/32", "11.0.0.1/32"]);
    }
}
