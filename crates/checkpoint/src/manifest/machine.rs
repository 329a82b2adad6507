//! What a snapshot needs of the machine that plays it on.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Manifest, ManifestError};
use crate::Engine;

/// Feature flags that a program may have found out about and relies on from then on. The kernel's list has many more, which say how
/// the kernel itself uses the processor and change with its version.
const RELIED_ON: &[&str] = &[
    "3dnow",
    "abm",
    "adx",
    "aes",
    "amx",
    "avx",
    "bmi",
    "clflushopt",
    "clwb",
    "clzero",
    "cmov",
    "cx16",
    "cx8",
    "erms",
    "f16c",
    "fma",
    "fsgsbase",
    "fsrm",
    "fxsr",
    "gfni",
    "hle",
    "lahf_lm",
    "mmx",
    "monitorx",
    "movbe",
    "movdir",
    "ospke",
    "pclmulqdq",
    "popcnt",
    "pku",
    "rdpid",
    "rdrand",
    "rdseed",
    "rdtscp",
    "rtm",
    "serialize",
    "sha",
    "sse",
    "ssse3",
    "tbm",
    "user_shstk",
    "vaes",
    "vpclmulqdq",
    "waitpkg",
    "xop",
    "xsave",
    "xgetbv1",
];

/// Facts about a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// `uname -r`.
    pub kernel: String,
    /// `uname -m`.
    pub architecture: String,
    /// As `/proc/cpuinfo` calls it.
    pub cpu_vendor: String,
    /// As above.
    pub cpu_family: u32,
    /// As above.
    pub cpu_model: u32,
    /// For people.
    pub cpu_name: String,
    /// All feature flags.
    pub cpu_features: BTreeSet<String>,
}

/// A reason why a snapshot cannot be played on here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Incompatible {
    /// Another kind of machine.
    #[error("it was made on {made}, this machine is {here}")]
    Architecture {
        /// There.
        made: String,
        /// Here.
        here: String,
    },
    /// Programs may use what this processor lacks.
    #[error("it was made on a processor with features that this one lacks: {}", missing.join(", "))]
    Features {
        /// Which.
        missing: Vec<String>,
    },
    /// The saved state of the processor is laid out by its vendor.
    #[error("it was made on a processor by {made}, this one is by {here}")]
    Vendor {
        /// There.
        made: String,
        /// Here.
        here: String,
    },
    /// Kernels keep what they had, but older ones lack what newer ones gave to programs.
    #[error("it was made on Linux {made}, this machine has the older {here}")]
    Kernel {
        /// There.
        made: String,
        /// Here.
        here: String,
    },
    /// Other engines write other files.
    #[error("it was made by {made}, which this server does not have")]
    Engine {
        /// Its name and version.
        made: String,
    },
    /// There is none at the moment.
    #[error("the checkpoint engine is not ready: {reason}")]
    NoEngine {
        /// Why.
        reason: String,
    },
}

impl Incompatible {
    /// Whether it may work later on this very machine.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::NoEngine { .. })
    }
}

impl Machine {
    /// This one.
    ///
    /// # Errors
    /// [`ManifestError::File`] when /proc is missing, [`ManifestError::Corrupt`] when it says nothing about the processor.
    pub fn read() -> Result<Self, ManifestError> {
        let path = Path::new("/proc/cpuinfo");
        let text = fs::read_to_string(path).map_err(ManifestError::file("read", path))?;
        let names = rustix::system::uname();
        Self::parse(
            &text,
            &names.release().to_string_lossy(),
            &names.machine().to_string_lossy(),
        )
        .ok_or_else(|| ManifestError::corrupt(path.to_owned(), "it does not name the processor"))
    }

    /// Of the first processor: those of one machine are alike.
    fn parse(cpuinfo: &str, kernel: &str, architecture: &str) -> Option<Self> {
        let field = |name: &str| {
            cpuinfo
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| key.trim() == name)
                .map(|(_, value)| value.trim())
        };
        Some(Self {
            kernel: kernel.to_owned(),
            architecture: architecture.to_owned(),
            cpu_vendor: field("vendor_id")?.to_owned(),
            cpu_family: field("cpu family")?.parse().ok()?,
            cpu_model: field("model")?.parse().ok()?,
            cpu_name: field("model name").unwrap_or_default().to_owned(),
            cpu_features: field("flags")?
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
        })
    }

    /// Major and minor number.
    fn kernel_number(&self) -> Option<(u32, u32)> {
        let mut parts = self
            .kernel
            .split(|character: char| !character.is_ascii_digit());
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

impl Manifest {
    /// Why it cannot be played on by this engine on this machine; empty when it can.
    #[must_use]
    pub fn compatible_with(&self, here: &Machine, engine: &Engine) -> Vec<Incompatible> {
        let made = &self.machine;
        let mut reasons = Vec::new();
        if made.architecture != here.architecture {
            reasons.push(Incompatible::Architecture {
                made: made.architecture.clone(),
                here: here.architecture.clone(),
            });
        } else if made.cpu_vendor != here.cpu_vendor {
            reasons.push(Incompatible::Vendor {
                made: made.cpu_vendor.clone(),
                here: here.cpu_vendor.clone(),
            });
        }
        let missing = made
            .cpu_features
            .difference(&here.cpu_features)
            .filter(|feature| RELIED_ON.iter().any(|name| feature.starts_with(name)))
            .cloned()
            .collect::<Vec<_>>();
        if !missing.is_empty() {
            reasons.push(Incompatible::Features { missing });
        }
        if here.kernel_number() < made.kernel_number() {
            reasons.push(Incompatible::Kernel {
                made: made.kernel.clone(),
                here: here.kernel.clone(),
            });
        }
        let maker = &self.facts.engine;
        if maker.name != engine.name || number(&engine.version) < number(&maker.version) {
            reasons.push(Incompatible::Engine {
                made: format!("{} {}", maker.name, maker.version),
            });
        }
        reasons
    }
}

/// The numbers of a version, to be compared.
fn number(version: &str) -> Vec<u32> {
    version
        .split('.')
        .map_while(|part| part.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::Facts;
    use super::*;

    const CPUINFO: &str = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\n\
                           model name\t: AMD EPYC\nflags\t\t: fpu sse sse4_2 avx2 avx512f nopl tsc_reliable\n";

    fn machine() -> Machine {
        Machine::parse(CPUINFO, "6.18.44-fc", "x86_64").unwrap()
    }

    fn engine(name: &str, version: &str) -> Engine {
        Engine {
            name: name.to_owned(),
            version: version.to_owned(),
        }
    }

    fn reasons(change: impl FnOnce(&mut Machine), by: &Engine) -> Vec<Incompatible> {
        let manifest = Manifest {
            facts: Facts {
                id: "ms-1".to_owned(),
                parent: None,
                created_at: jiff::Timestamp::UNIX_EPOCH,
                paused_ms: 0.0,
                engine: engine("criu", "4.2"),
            },
            machine: machine(),
            parts: Vec::new(),
        };
        let mut here = machine();
        change(&mut here);
        manifest.compatible_with(&here, by)
    }

    #[test]
    fn the_same_machine_and_a_better_one_will_do() {
        let criu = engine("criu", "4.2");
        assert_eq!(reasons(|_| {}, &criu), []);
        let better = |here: &mut Machine| {
            here.kernel = "7.0.1".to_owned();
            here.cpu_features.insert("avx10".to_owned());
            here.cpu_features.remove("tsc_reliable");
        };
        assert_eq!(reasons(better, &engine("criu", "4.10")), []);
    }

    #[test]
    fn what_is_missing_is_named() {
        let criu = engine("criu", "4.2");
        let lesser = |here: &mut Machine| {
            here.cpu_features.remove("avx512f");
            here.kernel = "6.9.0".to_owned();
        };
        let found = reasons(lesser, &criu);
        assert_eq!(
            found[0],
            Incompatible::Features {
                missing: vec!["avx512f".to_owned()]
            }
        );
        assert!(matches!(found[1], Incompatible::Kernel { .. }));
        assert!(found.iter().all(|reason| !reason.is_retryable()));
        let other = |here: &mut Machine| here.cpu_vendor = "GenuineIntel".to_owned();
        assert!(matches!(
            reasons(other, &criu)[..],
            [Incompatible::Vendor { .. }]
        ));
    }

    #[test]
    fn another_or_an_older_engine_will_not_do() {
        for by in [engine("native", "9"), engine("criu", "4.1")] {
            assert!(matches!(
                reasons(|_| {}, &by)[..],
                [Incompatible::Engine { .. }]
            ));
        }
    }

    #[test]
    fn this_machine_can_be_described() {
        let here = Machine::read().unwrap();
        assert!(here.cpu_features.contains("sse2"));
        assert!(here.kernel_number().is_some());
    }
}
