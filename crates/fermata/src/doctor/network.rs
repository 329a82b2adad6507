//! Networks, tried in a namespace that ends with the thread in it.

use std::io::Write as _;
use std::process::{Command, Stdio};

use fermata_sys::network_namespace::unshare_network;

use super::{Check, in_thread};

/// What the server's own rules consist of.
const RULES: &str = "
table ip fermata_doctor {
    set networks { type ipv4_addr; flags interval; }
    chain forward { type filter hook forward priority 0; ct state established accept; }
    chain postrouting { type nat hook postrouting priority 100; masquerade; }
}
";

pub(super) fn checks() -> Vec<Check> {
    let mut checks = vec![links(), rules()];
    // The name servers of the configuration are not known here; the host's own are what most servers use.
    checks.extend(
        fermata_runtime::network::check(&[])
            .into_iter()
            .map(|finding| match finding.problem {
                None => Check::ok(finding.subject, "well"),
                Some(problem) if finding.fatal => Check::fail(finding.subject, problem),
                Some(problem) => Check::warning(finding.subject, problem),
            }),
    );
    checks
}

fn links() -> Check {
    const NAME: &str = "veth";
    let tried = in_thread(|| {
        unshare_network().map_err(|error| format!("no network namespace: {error}"))?;
        run(
            "ip",
            &[
                "link", "add", "probe0", "type", "veth", "peer", "name", "probe1",
            ],
            "",
        )
    });
    match tried {
        Ok(()) => Check::ok(NAME, "a pair was made in a network namespace"),
        Err(reason) => Check::fail(NAME, reason).advise("apt-get install iproute2; modprobe veth"),
    }
}

fn rules() -> Check {
    const NAME: &str = "nftables";
    let tried = in_thread(|| {
        unshare_network().map_err(|error| format!("no network namespace: {error}"))?;
        run("nft", &["-f", "-"], RULES)
    });
    match tried {
        Ok(()) => Check::ok(NAME, "sets, connection tracking and masquerading work"),
        Err(reason) => Check::fail(NAME, reason)
            .advise("apt-get install nftables; modprobe nf_tables nft_masq nft_ct"),
    }
}

/// The child is in the namespace of the thread that starts it.
fn run(program: &str, arguments: &[&str], input: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{program} cannot be run: {error}");
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take()
        && let Err(error) = stdin.write_all(input.as_bytes())
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        return Err(failed(error));
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "{program} failed: {}",
        reason.lines().next().unwrap_or_default()
    ))
}
