//! Programs that are called.

use std::path::Path;
use std::process::{Command, Stdio};

use fermata_checkpoint::{Provision, criu};

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
}

const MMDEBSTRAP: Program = Program {
    name: "mmdebstrap",
    version: "--version",
    package: "mmdebstrap",
    need: Need::Some("the first start makes the base image with it"),
};

const PROGRAMS: [Program; 5] = [
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
    MMDEBSTRAP,
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
];

pub(super) fn checks() -> Vec<Check> {
    PROGRAMS.iter().map(check).collect()
}

fn check(program: &Program) -> Check {
    let install = format!("apt-get install {}", program.package);
    match (version(program), &program.need) {
        (Ok(version), _) => Check::ok(program.name, version),
        (Err(error), Need::All) => Check::fail(program.name, error).advise(install),
        (Err(error), Need::Some(purpose)) => {
            Check::warning(program.name, error).advise(format!("{install}; {purpose}"))
        }
    }
}

/// What memory snapshots are made with.
pub(super) fn checkpoint_engine(data_directory: &Path) -> Check {
    const NAME: &str = "criu";
    let directory = Provision::directory(data_directory);
    match criu::Program::find(&directory) {
        Ok(program) => Check::ok(
            NAME,
            format!("{}: {}", program.version(), program.command().join(" ")),
        ),
        Err(error) => {
            let detail = error.to_string();
            let place = directory.display();
            if version(&MMDEBSTRAP).is_ok() {
                Check::info(NAME, detail).advise(format!(
                    "`fermata serve` puts one into {place} at its first start"
                ))
            } else {
                Check::warning(NAME, detail).advise(format!(
                    "apt-get install mmdebstrap, with which `fermata serve` puts one into {place}, or install CRIU 4.2 or later"
                ))
            }
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
