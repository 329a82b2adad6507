//! Network permissions in the Beam client's form.

use std::net::IpAddr;

use fermata_engine::NetworkPolicy;

use super::failure::BeamError;

/// As the Beam client's documentation says.
const MAX_ENTRIES: usize = 64;

/// Both empty means open.
pub(super) fn policy(block: bool, allow: &[String]) -> Result<NetworkPolicy, BeamError> {
    match (block, allow) {
        (true, []) => Ok(NetworkPolicy::Blocked),
        (true, _) => Err(BeamError::invalid(
            "block_network and allow_list cannot be used together",
        )),
        (false, []) => Ok(NetworkPolicy::Open),
        (false, entries) if entries.len() > MAX_ENTRIES => Err(BeamError::invalid(format!(
            "allow_list has {} entries; at most {MAX_ENTRIES} are allowed",
            entries.len()
        ))),
        (false, entries) => entries
            .iter()
            .map(|entry| network(entry))
            .collect::<Result<_, _>>()
            .map(NetworkPolicy::Allow),
    }
}

/// A network in CIDR form, from that or from a plain address.
fn network(entry: &str) -> Result<String, BeamError> {
    let entry = entry.trim();
    let (address, prefix) = match entry.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (entry, None),
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return Err(if looks_like_a_host_name(entry) {
            BeamError::unsupported(format!(
                "the host name {entry:?} in allow_list (use addresses or CIDR networks)"
            ))
        } else {
            BeamError::invalid(format!(
                "allow_list entry {entry:?} is not a network in CIDR form"
            ))
        });
    };
    let longest: u8 = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => longest,
        Some(prefix) => prefix
            .parse()
            .ok()
            .filter(|prefix| *prefix <= longest && !entry.contains('+'))
            .ok_or_else(|| {
                BeamError::invalid(format!(
                    "allow_list entry {entry:?} has no valid prefix length"
                ))
            })?,
    };
    Ok(format!("{address}/{prefix}"))
}

fn looks_like_a_host_name(entry: &str) -> bool {
    entry.contains(|character: char| character.is_ascii_alphabetic())
        && entry
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || "-.*_".contains(character))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(entries: &[&str]) -> Result<NetworkPolicy, String> {
        let entries: Vec<String> = entries.iter().map(|entry| (*entry).to_owned()).collect();
        policy(false, &entries).map_err(|error| error.chain())
    }

    #[test]
    fn addresses_become_networks() {
        assert_eq!(
            allow(&["8.8.8.8", "10.0.0.0/8", "2001:db8::/32", "::1"]).unwrap(),
            NetworkPolicy::Allow(vec![
                "8.8.8.8/32".to_owned(),
                "10.0.0.0/8".to_owned(),
                "2001:db8::/32".to_owned(),
                "::1/128".to_owned(),
            ])
        );
    }

    #[test]
    fn nothing_given_is_open_and_both_given_is_wrong() {
        assert_eq!(policy(false, &[]).unwrap(), NetworkPolicy::Open);
        assert_eq!(policy(true, &[]).unwrap(), NetworkPolicy::Blocked);
        assert!(policy(true, &["8.8.8.8".to_owned()]).is_err());
    }

    #[test]
    fn wrong_entries_are_named() {
        for entry in [
            "",
            "1.2.3.4/33",
            "1.2.3.4/",
            "1.2.3.4/+8",
            "::/129",
            "1.2.3",
            "1.2.3.4/8/8",
            "a b",
        ] {
            let error = allow(&[entry]).unwrap_err();
            assert!(error.contains(&format!("{entry:?}")), "{error}");
        }
        let error = allow(&["*.openai.com"]).unwrap_err();
        assert!(
            error.contains("host name") && error.contains("not supported"),
            "{error}"
        );
    }

    #[test]
    fn sixty_four_entries_are_the_most() {
        assert!(allow(&["8.8.8.8"; 64]).is_ok());
        assert!(allow(&["8.8.8.8"; 65]).unwrap_err().contains("at most 64"));
    }
}
