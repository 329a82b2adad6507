//! Finding CRIU, or making one.
//!
//! ```text
//!  criu on PATH, ≥ 4.2, `criu check` ─► used as it is
//!  else DIRECTORY/criu ◄─ rename ─ DIRECTORY/.criu-PID ◄─ mmdebstrap (extracted packages, run through their own loader)
//! ```
//!
//! Debian 12 and 13 have older ones, which fail on current kernels: 3.17 cannot parse the vDSO, 4.1.1 fails on TCP sockets.

use std::fmt;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use fermata_protocol::{CriuSpec, EngineSpec};
use rustix::process::Pid;
use rustix::thread::CapabilitySet;

use super::mirror;
use crate::CheckpointError;

const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The first that works with current kernels.
const OLDEST: Version = Version { major: 4, minor: 2 };

/// Where a prefix is inside its directory.
const PREFIX: &str = "criu";

/// What it is loaded with, beside its helpers.
const LIMITS: &str = "limits.so";

/// A version of CRIU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// As 4 in 4.2.1.
    pub major: u32,
    /// As 2 in 4.2.1.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

/// A CRIU that works on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    command: Vec<String>,
    version: Version,
    kernel_facts: Option<PathBuf>,
    /// Programs of ours that CRIU is to find before those of the machine.
    helpers: Option<PathBuf>,
}

impl Program {
    /// The one on `PATH`, or else the one that [`Self::prepare`] has put into `directory` earlier.
    ///
    /// # Errors
    /// [`CheckpointError::NoEngine`] with what was wrong with each.
    pub fn find(directory: &Path) -> Result<Self, CheckpointError> {
        let mut reasons = Vec::new();
        let on_path = SEARCH_PATH
            .split(':')
            .map(|folder| Path::new(folder).join("criu"))
            .find(|path| path.is_file());
        match on_path {
            Some(path) => match Self::examine(vec![path.to_string_lossy().into_owned()]) {
                Ok(program) => return Ok(program),
                Err(reason) => reasons.push(reason),
            },
            None => reasons.push("there is no criu on PATH".to_owned()),
        }
        match prefix_command(&directory.join(PREFIX)) {
            Some(command) => match Self::examine(command) {
                Ok(program) => return Ok(program),
                Err(reason) => reasons.push(reason),
            },
            None => reasons.push(format!(
                "none has been put into {} yet",
                directory.display()
            )),
        }
        Err(CheckpointError::NoEngine {
            reason: reasons.join("; "),
        })
    }

    /// Finds one or makes one, which needs a Debian package archive and takes some seconds, and asks it what it thinks of this
    /// kernel through `launcher` (the shim), so that no capture or restore has to.
    ///
    /// # Errors
    /// [`CheckpointError::NoEngine`], [`CheckpointError::File`]; nothing half-made is ever found by a later call.
    pub fn prepare(directory: &Path, launcher: &Path) -> Result<Self, CheckpointError> {
        Self::prepare_watched(directory, launcher, &|_| {})
    }

    /// As above; `making` is told the process group that a prefix is made by, and `None` when it has ended.
    pub(crate) fn prepare_watched(
        directory: &Path,
        launcher: &Path,
        making: &dyn Fn(Option<Pid>),
    ) -> Result<Self, CheckpointError> {
        let mut program = match Self::find(directory) {
            Ok(program) => program,
            // One that this kernel refuses would be made again just as it is.
            Err(error) if prefix_is_recent(directory) => return Err(error),
            Err(CheckpointError::NoEngine { reason }) => {
                make_prefix(directory, making).map_err(|error| CheckpointError::NoEngine {
                    reason: format!("{reason}; {}", fermata_protocol::error_chain(&error)),
                })?;
                Self::find(directory)?
            }
            Err(error) => return Err(error),
        };
        program.helpers = Some(place_helpers(directory, launcher)?);
        program.kernel_facts = program.learn_kernel(directory, launcher);
        Ok(program)
    }

    /// What `criu --version` said.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The words it is started with.
    #[must_use]
    pub fn command(&self) -> &[String] {
        &self.command
    }

    pub(super) fn spec(&self) -> CriuSpec {
        CriuSpec {
            command: self.command.clone(),
            search_path: match &self.helpers {
                Some(helpers) => format!("{}:{SEARCH_PATH}", helpers.display()),
                None => SEARCH_PATH.to_owned(),
            },
            kernel_facts: self.kernel_facts.clone(),
            preload: self
                .helpers
                .as_ref()
                .filter(|_| may_not_read_limits())
                .map(|helpers| helpers.join(LIMITS)),
        }
    }

    fn examine(command: Vec<String>) -> Result<Self, String> {
        let name = command.join(" ");
        let version = ask_version(&command).map_err(|reason| format!("{name}{reason}"))?;
        if version < OLDEST {
            return Err(format!("{name} is {version}, older than {OLDEST}"));
        }
        let output = run(&command, "check").map_err(|error| format!("{name}: {error}"))?;
        if !output.status.success() {
            return Err(format!("`criu check` failed: {}", words(&output)));
        }
        Ok(Self {
            command,
            version,
            kernel_facts: None,
            helpers: None,
        })
    }

    /// One file for each boot and each CRIU. Without it everything works, only slower.
    fn learn_kernel(&self, directory: &Path, launcher: &Path) -> Option<PathBuf> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let key =
            blake3::hash(format!("{boot}{}{}", self.version, self.command.join("\0")).as_bytes());
        let path = directory.join(format!("kernel-{}", &key.to_hex()[..16]));
        if path.is_file() {
            return Some(path);
        }
        fs::create_dir_all(directory).ok()?;
        // Of boots before this one.
        for entry in fs::read_dir(directory).ok()?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("kernel-") {
                let _ = fs::remove_file(entry.path());
            }
        }
        let spec = serde_json::to_string(&EngineSpec::Criu(self.spec())).ok()?;
        let output = Command::new(launcher)
            .args(["learn-kernel", &spec])
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .ok()?;
        if !output.status.success() || output.stdout.is_empty() {
            tracing::info!(
                words = %words(&output),
                "CRIU will look at the kernel at each of its starts"
            );
            return None;
        }
        let fresh = directory.join(format!(".kernel-{}", std::process::id()));
        fs::write(&fresh, &output.stdout).ok()?;
        fs::rename(&fresh, &path).ok()?;
        Some(path)
    }
}

/// Whether prlimit(2) hides the limits of other users' processes from us: on a machine that is itself a container.
fn may_not_read_limits() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| !sets.effective.contains(CapabilitySet::SYS_RESOURCE))
}

/// The launcher stands in for tar(1); a shared object for a part of prlimit(2).
fn place_helpers(directory: &Path, launcher: &Path) -> Result<PathBuf, CheckpointError> {
    let helpers = directory.join("bin");
    fs::create_dir_all(&helpers).map_err(CheckpointError::file("make", &helpers))?;
    let link = helpers.join("tar");
    if !fs::read_link(&link).is_ok_and(|target| target == launcher) {
        // Aside and renamed: another sandbox may be on its way.
        let fresh = helpers.join(format!(".tar-{}", std::process::id()));
        symlink(launcher, &fresh)
            .and_then(|()| fs::rename(&fresh, &link))
            .map_err(CheckpointError::file("link", &link))?;
    }
    let limits = helpers.join(LIMITS);
    if !fs::read(&limits).is_ok_and(|content| content == fermata_sys::preload::LIMITS) {
        let fresh = helpers.join(format!(".limits-{}", std::process::id()));
        fs::write(&fresh, fermata_sys::preload::LIMITS)
            .and_then(|()| fs::rename(&fresh, &limits))
            .map_err(CheckpointError::file("write", &limits))?;
    }
    Ok(helpers)
}

/// What it says, or the end of a sentence that begins with its name.
fn ask_version(command: &[String]) -> Result<Version, String> {
    let output = run(command, "--version").map_err(|error| format!(": {error}"))?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
        .ok_or_else(|| format!(" does not say its version: {}", words(&output)))
}

fn prefix_is_recent(directory: &Path) -> bool {
    prefix_command(&directory.join(PREFIX))
        .and_then(|command| ask_version(&command).ok())
        .is_some_and(|version| version >= OLDEST)
}

fn run(command: &[String], argument: &str) -> std::io::Result<Output> {
    let (program, arguments) = command
        .split_first()
        .ok_or(std::io::ErrorKind::InvalidInput)?;
    Command::new(program)
        .args(arguments)
        .arg(argument)
        .env("PATH", SEARCH_PATH)
        .stdin(Stdio::null())
        .output()
}

/// A program's last words, on one line.
fn words(output: &Output) -> String {
    let text = if output.stderr.is_empty() {
        &output.stdout
    } else {
        &output.stderr
    };
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().map(str::trim).collect::<Vec<_>>();
    lines[lines.len().saturating_sub(4)..].join("; ")
}

fn parse_version(text: &str) -> Option<Version> {
    let number = text
        .lines()
        .find_map(|line| line.strip_prefix("Version:"))?
        .trim();
    let mut parts = number.split(['.', '-', ' ']).map(str::parse);
    Some(Version {
        major: parts.next()?.ok()?,
        minor: parts.next()?.ok()?,
    })
}

/// How the extracted package is run: through its own loader and libraries, because those of the host may be older.
fn prefix_command(prefix: &Path) -> Option<Vec<String>> {
    let first = |names: &[&str]| {
        names
            .iter()
            .map(|name| prefix.join(name))
            .find(|path| path.exists())
    };
    let criu = first(&["usr/sbin/criu", "usr/bin/criu"])?;
    let loader = first(&[
        "usr/lib64/ld-linux-x86-64.so.2",
        "lib64/ld-linux-x86-64.so.2",
    ])?;
    let libraries = prefix.join("usr/lib/x86_64-linux-gnu");
    let text = |path: &Path| path.to_string_lossy().into_owned();
    Some(vec![
        text(&loader),
        "--library-path".to_owned(),
        text(&libraries),
        text(&criu),
    ])
}

/// Made aside and put into its place by one rename, so that a half-made one is never found.
fn make_prefix(directory: &Path, making: &dyn Fn(Option<Pid>)) -> Result<(), CheckpointError> {
    fs::create_dir_all(directory).map_err(CheckpointError::file("make", directory))?;
    // What an earlier server left half-made, or a dead one's child is still making: it fails then, and is in nobody's way.
    for entry in fs::read_dir(directory).map_err(CheckpointError::file("list", directory))? {
        let entry = entry.map_err(CheckpointError::file("list", directory))?;
        if entry.file_name().to_string_lossy().starts_with(".criu-") {
            remove(&entry.path())?;
        }
    }
    let fresh = directory.join(format!(".criu-{}", std::process::id()));
    let result = extract(&fresh, making).and_then(|()| {
        // Device nodes and the like: whoever copies the data directory must not come upon /dev/zero.
        keep_only_usr(&fresh)?;
        // Read by other users' tools never, but the loader must be able to.
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))
            .map_err(CheckpointError::file("set mode of", &fresh))?;
        let place = directory.join(PREFIX);
        remove(&place)?;
        fs::rename(&fresh, &place).map_err(CheckpointError::file("rename", &fresh))
    });
    if result.is_err() {
        let _ = remove(&fresh);
    }
    result
}

fn keep_only_usr(root: &Path) -> Result<(), CheckpointError> {
    for entry in fs::read_dir(root).map_err(CheckpointError::file("list", root))? {
        let entry = entry.map_err(CheckpointError::file("list", root))?;
        let path = entry.path();
        if entry.file_name() == "usr" {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&path)?;
        } else {
            fs::remove_file(&path).map_err(CheckpointError::file("remove", &path))?;
        }
    }
    Ok(())
}

fn extract(place: &Path, making: &dyn Fn(Option<Pid>)) -> Result<(), CheckpointError> {
    let program = "mmdebstrap";
    let mut command = Command::new(program);
    command.args([
        "--mode=root",
        "--format=directory",
        "--variant=extract",
        "--include=criu",
        // A mirror that is a snapshot of some day has an expired release file.
        "--aptopt=Acquire::Check-Valid-Until \"false\"",
        "--aptopt=Acquire::Languages \"none\"",
        "--aptopt=Acquire::Retries \"3\"",
        "sid",
    ]);
    command.arg(place);
    if let Some(mirror) = mirror::of_host(Path::new("/etc/apt")) {
        command.arg(mirror);
    }
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // Its children too can be ended then.
        .process_group(0)
        .spawn()
        .map_err(CheckpointError::file("run", program))?;
    making(i32::try_from(child.id()).ok().and_then(Pid::from_raw));
    let output = child.wait_with_output();
    making(None);
    let output = output.map_err(CheckpointError::file("run", program))?;
    if output.status.success() {
        return Ok(());
    }
    Err(CheckpointError::Program {
        program,
        status: output.status,
        output: words(&output),
    })
}

fn remove(path: &Path) -> Result<(), CheckpointError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(CheckpointError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_understood_and_ordered() {
        let parse = |text: &str| parse_version(text).unwrap();
        assert_eq!(
            parse("Version: 4.2.1\nGitID: 0\n"),
            Version { major: 4, minor: 2 }
        );
        assert!(parse("Version: 3.17.1") < OLDEST);
        assert!(parse("Version: 4.1.1") < OLDEST);
        assert!(parse("Version: 4.2-rc1") >= OLDEST);
        assert!(parse("Version: 10.0") > OLDEST);
        assert_eq!(parse_version("criu: not found"), None);
    }

    #[test]
    fn a_program_that_is_no_criu_is_refused_with_its_words() {
        let reason = Program::examine(vec!["/bin/false".to_owned()]).unwrap_err();
        assert!(
            reason.contains("/bin/false does not say its version"),
            "{reason}"
        );
        let reason = Program::examine(vec!["/no/such/criu".to_owned()]).unwrap_err();
        assert!(reason.starts_with("/no/such/criu: "), "{reason}");
    }

    #[test]
    #[ignore = "downloads Debian packages"]
    fn one_is_made_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join(".criu-1")).unwrap();
        make_prefix(directory.path(), &|_| {}).unwrap();
        let names = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect::<Vec<_>>();
        assert_eq!(names, [PREFIX]);
        let prefix = directory.path().join(PREFIX);
        assert_eq!(fs::read_dir(&prefix).unwrap().count(), 1);
        let command = prefix_command(&prefix).unwrap();
        assert!(Program::examine(command).unwrap().version() >= OLDEST);
    }

    #[test]
    fn an_empty_directory_is_no_prefix() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(prefix_command(directory.path()), None);
    }
}
