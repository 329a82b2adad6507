//! Playing on with the native engine.
//!
//! ```text
//!  shim ── clone3, as at a cold start ──► process 1: root as at a cold start, files, tree ──► every process: its program
//!   │◄── arrived: a byte a process ─────────────────────────────────────────────────────────────────────┘ waits
//!   └─── go: closed ──► all go on at once
//! ```

use std::convert::Infallible;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use fermata_native::image::{Clocks, Image, PAGES_FILE};
use fermata_native::restore::{Signals, play_on};
use fermata_protocol::{ShimSpec, error_chain};
use fermata_sys::clone::{
    Cloned, Namespaces, clone_process, join_namespace, join_new_session_keyring, unshare_cgroup,
    unshare_time_for_children,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::time::{ClockId, clock_gettime};

use crate::error::ShimError;
use crate::start::{Started, enter_controllers, mounts, open_directory, open_namespace};
use crate::{child, root, temporary};

/// From the first process's birth until the last one waits.
const LIMIT: Duration = Duration::from_secs(120);

const SECOND_NS: i128 = 1_000_000_000;

/// What process 1 gets from the shim.
struct Inherited {
    network: OwnedFd,
    go: OwnedFd,
    pages: OwnedFd,
    archives: Vec<(String, File)>,
    signals: Signals,
}

/// Both ends of a pipe.
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

fn pipe() -> Result<Pipe, ShimError> {
    let (reader, writer) =
        pipe_with(PipeFlags::CLOEXEC).map_err(ShimError::system("make a pipe"))?;
    Ok(Pipe { reader, writer })
}

pub(super) fn restore(spec: &ShimSpec, images: &Path) -> Result<Started, ShimError> {
    let image = Image::read(images).map_err(ShimError::Native)?;
    let unified = open_directory(&spec.cgroup.unified)?;
    let open = |name: &str| {
        let path = images.join(name);
        File::open(&path).map_err(ShimError::file("open", path))
    };
    let archives = image
        .temporary
        .iter()
        .map(|one| Ok((one.path.clone(), open(&one.archive)?)))
        .collect::<Result<Vec<_>, ShimError>>()?;
    let (go, failure, arrived, play) = (pipe()?, pipe()?, pipe()?, pipe()?);
    let inherited = Inherited {
        network: open_namespace(&spec.network_namespace)?,
        go: go.reader,
        pages: open(PAGES_FILE)?.into(),
        archives,
        signals: Signals {
            failure: failure.writer,
            arrived: arrived.writer,
            go: play.reader,
        },
    };
    let own = Offsets::read()?;
    unshare_time_for_children().map_err(ShimError::system("unshare the time namespace"))?;
    set_clocks(image.clocks, own)?;
    let cloned = clone_process(Namespaces::SANDBOX, Some(unified.as_fd()))
        .map_err(ShimError::system("clone process 1"))?;
    let (pid, pidfd) = match cloned {
        Cloned::Child => {
            drop((go.writer, failure.reader, arrived.reader, play.writer));
            let failure = inherited.signals.failure.try_clone();
            let Err(error) = become_tree(spec, &image, inherited);
            // The engine has told its own, and this number may be another's by now.
            if let (Ok(failure), false) = (failure, matches!(error, ShimError::Native(_))) {
                let _ = File::from(failure).write_all(error_chain(&error).as_bytes());
            }
            child::leave();
        }
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(inherited);
    enter_controllers(&spec.cgroup, pid)?;
    File::from(go.writer)
        .write_all(&[1])
        .map_err(ShimError::system("release process 1"))?;
    let living = image.living().map(|(_, alive)| alive.threads.len()).sum();
    drop(image);
    wait_until_arrived(&arrived.reader, &failure.reader, living).map_err(|error| match error {
        ShimError::InitEnded => how_it_ended(pid),
        other => other,
    })?;
    let mounts = mounts(pid)?;
    drop(play.writer);
    fermata_sys::own_memory::trim_heap();
    Ok(Started { pid, pidfd, mounts })
}

/// By how much clocks are ahead of the machine's, in nanoseconds (`time_namespaces(7)`).
#[derive(Debug, Clone, Copy, Default)]
struct Offsets {
    monotonic: i128,
    boot: i128,
}

const OFFSETS: &str = "/proc/self/timens_offsets";

impl Offsets {
    /// Those of this process, if it has not unshared its children's.
    fn read() -> Result<Self, ShimError> {
        let text = std::fs::read_to_string(OFFSETS).map_err(ShimError::file("read", OFFSETS))?;
        let mut offsets = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let name = words.next();
            let mut numbers = words.map_while(|word| word.parse::<i128>().ok());
            let (Some(seconds), Some(nanoseconds)) = (numbers.next(), numbers.next()) else {
                continue;
            };
            let offset = seconds * SECOND_NS + nanoseconds;
            match name {
                Some("monotonic") => offsets.monotonic = offset,
                Some("boottime") => offsets.boot = offset,
                _ => {}
            }
        }
        Ok(offsets)
    }
}

/// The monotonic clocks go on where they were, for children of this process.
fn set_clocks(clocks: Clocks, own: Offsets) -> Result<(), ShimError> {
    let offset = |held: u64, clock, own: i128| {
        let now = clock_gettime(clock);
        let now = i128::from(now.tv_sec) * SECOND_NS + i128::from(now.tv_nsec);
        let offset = i128::from(held) - (now - own);
        (offset.div_euclid(SECOND_NS), offset.rem_euclid(SECOND_NS))
    };
    let (monotonic_s, monotonic_ns) =
        offset(clocks.monotonic_ns, ClockId::Monotonic, own.monotonic);
    let (boot_s, boot_ns) = offset(clocks.boot_ns, ClockId::Boottime, own.boot);
    let text = format!("monotonic {monotonic_s} {monotonic_ns}\nboottime {boot_s} {boot_ns}\n");
    std::fs::write(OFFSETS, text).map_err(ShimError::file("write", OFFSETS))
}

/// Process 1: what is the same as at a cold start is done by the same code.
fn become_tree(
    spec: &ShimSpec,
    image: &Image,
    inherited: Inherited,
) -> Result<Infallible, ShimError> {
    child::wait_for_go(&inherited.go)?;
    let _ = rustix::process::setsid();
    join_new_session_keyring().map_err(ShimError::system("leave the session keyring"))?;
    join_namespace(inherited.network.as_fd())
        .map_err(ShimError::system("join the network namespace"))?;
    unshare_cgroup().map_err(ShimError::system("unshare the cgroup namespace"))?;
    rustix::system::sethostname(spec.hostname.as_bytes())
        .map_err(ShimError::system("set the host name"))?;
    // Before it becomes read-only. It is about the namespace of whoever writes, so that pids go on above those that are made with
    // a number of their own.
    let last = image.last_pid();
    let path = "/proc/sys/kernel/ns_last_pid";
    std::fs::write(path, last.to_string()).map_err(ShimError::file("write", path))?;
    root::enter(spec)?;
    rustix::process::umask(Mode::empty());
    for (path, mut file) in inherited.archives {
        temporary::fill(&path, &mut file)?;
    }
    play_on(image, inherited.pages, inherited.signals).map_err(ShimError::Native)
}

fn how_it_ended(pid: i32) -> ShimError {
    let status = rustix::process::waitpid(
        rustix::process::Pid::from_raw(pid),
        rustix::process::WaitOptions::empty(),
    );
    match status {
        Ok(Some((_, status))) => ShimError::Child {
            message: format!("process 1 ended before it was ready ({status:?})"),
        },
        _ => ShimError::InitEnded,
    }
}

/// Returns when every process waits for the shim.
fn wait_until_arrived(
    arrived: &OwnedFd,
    failure: &OwnedFd,
    mut missing: usize,
) -> Result<(), ShimError> {
    let limit = Timespec {
        tv_sec: i64::try_from(LIMIT.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: 0,
    };
    while missing > 0 {
        let mut descriptors = [
            PollFd::new(failure, PollFlags::IN),
            PollFd::new(arrived, PollFlags::IN),
        ];
        match poll(&mut descriptors, Some(&limit)) {
            Ok(0) => {
                return Err(ShimError::System {
                    action: "play on in time",
                    source: std::io::ErrorKind::TimedOut.into(),
                });
            }
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(ShimError::system("wait for the processes")(error)),
        }
        // Everyone has it until it goes on: words, or the end of process 1 and with it of all.
        if !descriptors[0].revents().is_empty() {
            let mut message = [0; 4096];
            let count = rustix::io::read(failure, &mut message)
                .map_err(ShimError::system("hear from the processes"))?;
            if count == 0 {
                return Err(ShimError::InitEnded);
            }
            return Err(ShimError::Child {
                message: String::from_utf8_lossy(&message[..count]).into_owned(),
            });
        }
        let mut bytes = [0; 64];
        let count = rustix::io::read(arrived, &mut bytes)
            .map_err(ShimError::system("hear from the processes"))?;
        if count == 0 {
            return Err(ShimError::InitEnded);
        }
        missing = missing.saturating_sub(count);
    }
    Ok(())
}
