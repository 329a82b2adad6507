//! Programs that are called.

use std::process::{Command, Stdio};

use super::Check;

struct Program {
    name: &'static str,
    version: &'static str,
    /// Debian's package.
    package: &'static str,
    /// What cannot be done without it.
    need: Need,
}

enum Need {
    /// Nothing works.
    All,
    /// Something works less well, or another way.
    Some(&'static str),
    /// Nothing yet.
    Later(&'static str),
}

const PROGRAMS: [Program; 6] = [
    Program {
        name: "mkfs.erofs",
        version: "--version",
        package: "erofs-utils",
        need: Need::All,
    },
    Program {
        name: "mkfs.btrfs",
        version: "--version",
        package: "btrfs-progs",
        need: Need::Some("without it snapshots copy files, which is slower"),
    },
    Program {
        name: "mmdebstrap",
        version: "--version",
        package: "mmdebstrap",
        need: Need::Some("the first start makes the base image with it"),
    },
    Program {
        name: "ip",
        version: "-V",
        package: "iproute2",
        need: Need::All,
    },
    Program {
        name: "nft",
        version: "--version",
        package: "nftables",
        need: Need::All,
    },
    Program {
        name: "criu",
        version: "--version",
        package: "criu",
        need: Need::Later("for memory snapshots later"),
    },
];

pub(super) fn checks() -> Vec<Check> {
    PROGRAMS.iter().map(check).collect()
}

fn check(program: &Program) -> Check {
    let install = format!("apt-get install {}", program.package);
    match (version(program), &program.need) {
        (Ok(version), Need::Later(purpose)) => {
            Check::info(program.name, format!("{version}; {purpose}"))
        }
        (Ok(version), Need::All | Need::Some(_)) => Check::ok(program.name, version),
        (Err(error), Need::All) => Check::fail(program.name, error).advise(install),
        (Err(error), Need::Some(purpose)) => {
            Check::warning(program.name, error).advise(format!("{install}; {purpose}"))
        }
        (Err(error), Need::Later(purpose)) => {
            Check::info(program.name, format!("{error}; {purpose}"))
        }
    }
}

fn version(program: &Program) -> Result<String, String> {
    let output = Command::new(program.name)
        .arg(program.version)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => "not installed".to_owned(),
            _ => format!("cannot be run: {error}"),
        })?;
    // Some print it to stderr.
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    line.map(str::to_owned)
        .ok_or_else(|| format!("does not tell its version and ends with {}", output.status))
}
