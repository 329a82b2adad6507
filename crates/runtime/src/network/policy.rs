//! What a sandbox may talk to.

use super::cidr::Cidr;
use crate::RuntimeError;

/// How many networks an allow-list may name.
pub const ALLOW_LIST_LIMIT: usize = 64;

/// What a sandbox may talk to. Whatever it says, cloud metadata, other sandboxes, this host and the networks of
/// [`super::NetworkConfig::refused_networks`] stay out of reach, and loopback inside the sandbox works.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Policy {
    /// Everything else.
    #[default]
    Open,
    /// Nothing.
    Blocked,
    /// These networks, and the name servers of the sandbox on port 53. There is no IPv6 outbound: IPv6 networks are taken, so
    /// that a list made for both families works, and match nothing.
    Allow(Vec<Cidr>),
}

impl Policy {
    /// An allow-list from its written form.
    ///
    /// # Errors
    /// [`RuntimeError::InvalidNetwork`] for the first entry that is neither a network nor an address,
    /// [`RuntimeError::TooManyNetworks`].
    pub fn allow<S: AsRef<str>>(networks: &[S]) -> Result<Self, RuntimeError> {
        if networks.len() > ALLOW_LIST_LIMIT {
            return Err(RuntimeError::TooManyNetworks {
                given: networks.len(),
                limit: ALLOW_LIST_LIMIT,
            });
        }
        networks
            .iter()
            .map(|network| network.as_ref().parse())
            .collect::<Result<_, _>>()
            .map(Self::Allow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allow_list_is_limited() {
        let networks: Vec<String> = (0..=ALLOW_LIST_LIMIT)
            .map(|n| format!("10.0.0.{n}"))
            .collect();
        assert!(matches!(
            Policy::allow(&networks[1..]).unwrap(),
            Policy::Allow(list) if list.len() == ALLOW_LIST_LIMIT
        ));
        assert!(matches!(
            Policy::allow(&networks).unwrap_err(),
            RuntimeError::TooManyNetworks {
                given: 65,
                limit: 64
            }
        ));
        assert!(matches!(
            Policy::allow(&["10.0.0.0/8", "nowhere"]).unwrap_err(),
            RuntimeError::InvalidNetwork { network } if network == "nowhere"
        ));
    }
}
