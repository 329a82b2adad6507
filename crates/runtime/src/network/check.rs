//! Whether this host can give sandboxes a network, for `doctor`.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::resolver;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub subject: &'static str,
    /// What is wrong and what to do; `None` when it is well.
    pub problem: Option<String>,
    /// Sandboxes cannot work with this.
    pub fatal: bool,
}

/// Looks at this host, and changes nothing.
#[must_use]
pub fn check(fallback_name_servers: &[String]) -> Vec<Finding> {
    let (firewall, foreign) = match rule_set() {
        Ok(rules) => (None, dropping_forward_chains(&rules)),
        Err(problem) => (Some(problem), Vec::new()),
    };
    let foreign = (!foreign.is_empty()).then(|| {
        format!(
            "other rules of this host drop forwarded packets by default ({}), and an accept of ours cannot overrule them: \
             sandboxes may have no way out until those rules accept packets from and to interfaces named fermata* \
             (with Docker: iptables -I DOCKER-USER -i fermata+ -j ACCEPT; iptables -I DOCKER-USER -o fermata+ -j ACCEPT)",
            foreign.join(", ")
        )
    });
    let forwarding = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap_or_default();
    let forwarding = (forwarding.trim() != "1").then(|| {
        "net.ipv4.ip_forward is off; the server turns it on when it starts, which makes this host a router".to_owned()
    });
    let names = resolver::resolvers(fallback_name_servers).name_servers.is_empty().then(|| {
        "no name server of this host can be reached from a sandbox; name one in the server's configuration".to_owned()
    });
    vec![
        Finding {
            subject: "packet filter (nft)",
            fatal: firewall.is_some(),
            problem: firewall,
        },
        Finding {
            subject: "forwarding between networks",
            fatal: false,
            problem: forwarding,
        },
        Finding {
            subject: "other packet filters",
            fatal: false,
            problem: foreign,
        },
        Finding {
            subject: "name servers for sandboxes",
            fatal: false,
            problem: names,
        },
    ]
}

/// All rules of the host as JSON.
fn rule_set() -> Result<Value, String> {
    let output = Command::new("nft")
        .args(["--json", "list", "chains"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("the program nft cannot be run ({error}); install nftables"))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "nft failed: {}; root and a kernel with nf_tables are needed",
            reason.trim()
        ));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("nft gave no JSON ({error}); a newer one is needed"))
}

/// Names of the base chains that drop what no rule accepts on its way through the host.
fn dropping_forward_chains(rules: &Value) -> Vec<String> {
    let field = |chain: &Value, name: &str| {
        chain
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    rules
        .get("nftables")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.get("chain"))
        .filter(|chain| {
            field(chain, "hook") == "forward"
                && field(chain, "policy") == "drop"
                && ["ip", "inet"].contains(&field(chain, "family").as_str())
        })
        .map(|chain| {
            format!(
                "{} {} {}",
                field(chain, "family"),
                field(chain, "table"),
                field(chain, "name")
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_drop_is_named() {
        let rules = serde_json::json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}},
            {"chain": {"family": "ip", "table": "filter", "name": "INPUT", "hook": "input", "policy": "drop"}},
            {"chain": {"family": "ip6", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}},
            {"chain": {"family": "inet", "table": "a", "name": "b", "hook": "forward", "policy": "accept"}},
            {"chain": {"family": "ip", "table": "filter", "name": "DOCKER"}},
        ]});
        assert_eq!(dropping_forward_chains(&rules), ["ip filter FORWARD"]);
    }
}
