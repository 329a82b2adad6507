//! Runs cases one after another in a program without threads, and speaks to cargo and nextest as the usual test program does.
//!
//! ```text
//!  test ── clone ──► guest: makes its objects at numbers from 100 on, stops itself
//!    │  ◄── captured, killed
//!    └── clone ──► copy: opens, installs, checks ── exit code ──► test
//! ```

use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::panic::AssertUnwindSafe;

use fermata_native::capture::Task;
use fermata_native::capture::descriptors::{DescriptorCollector, SharedObjects};
use fermata_native::image::{Clocks, Descriptions, Descriptor, Image};
use fermata_native::restore::descriptors::{OpenDescriptions, open};
use fermata_native::{NativeError, Owner};
use fermata_sys::clone::{Cloned, Namespaces, clone_process};
use fermata_sys::open_file::{close_all, place};
use fermata_sys::process::inherited_descriptor;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

pub(crate) type Case = (&'static str, fn());

/// Above every number that a case uses.
const FLOOR: i32 = 600;
/// Numbers below are the harness's, from it on the case's.
pub(crate) const FIRST: i32 = 100;

pub(crate) fn main(groups: &[&[Case]]) {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let filters: Vec<&String> = arguments
        .iter()
        .filter(|text| !text.starts_with('-') && *text != "terse")
        .collect();
    let selected = groups.iter().copied().flatten().filter(|(name, _)| {
        filters.is_empty()
            || filters.iter().any(|filter| {
                if has("--exact") {
                    filter.as_str() == *name
                } else {
                    name.contains(filter.as_str())
                }
            })
    });
    if has("--list") {
        if !has("--ignored") {
            selected.for_each(|(name, _)| println!("{name}: test"));
        }
        return;
    }
    // What this program was started with by accident would be in every guest.
    close_all(3, u32::MAX).unwrap();
    let mut failed = 0;
    for (name, case) in selected {
        let is_well = std::panic::catch_unwind(case).is_ok();
        println!("test {name} ... {}", if is_well { "ok" } else { "FAILED" });
        failed += i32::from(!is_well);
    }
    assert_eq!(failed, 0, "cases failed");
}

/// Makes objects in a guest, and checks them in a copy of it.
pub(crate) fn held(make: impl FnOnce(), check: impl FnOnce()) {
    let captured = Guest::start(make).capture().unwrap();
    captured.play_on(check);
}

/// Why a guest with such objects is refused.
pub(crate) fn refused(make: impl FnOnce()) -> String {
    match Guest::start(make).capture() {
        Err(NativeError::Unheld { reason, .. }) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

/// Gives an object of a guest its number, for good.
pub(crate) fn put(number: i32, object: impl Into<OwnedFd>) {
    assert!((FIRST..FLOOR).contains(&number));
    place(object.into().as_raw_fd(), number, false).unwrap();
}

/// Takes the object with a number. Once only.
pub(crate) fn take(number: i32) -> OwnedFd {
    inherited_descriptor(number).unwrap_or_else(|| panic!("descriptor {number} is not open"))
}

/// Moves the test, and the guests that it makes from now on, into a network of its own with a loopback.
pub(crate) fn own_network() {
    fermata_sys::network_namespace::unshare_network().unwrap();
    let mut command = std::process::Command::new("ip");
    let status = command.args(["link", "set", "lo", "up"]).status().unwrap();
    assert!(status.success());
}

/// A stopped process.
pub(crate) struct Guest(Pid);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
        let _ = waitpid(Some(self.0), WaitOptions::empty());
    }
}

impl Guest {
    pub(crate) fn start(make: impl FnOnce()) -> Self {
        let guest = Self(split(Namespaces::RESTORER, || {
            make();
            // What is left is what was made: a stop is seen from outside without a descriptor.
            close_all(0, FIRST.unsigned_abs() - 1).unwrap();
            let own = rustix::process::getpid();
            kill_process(own, Signal::STOP).unwrap();
        }));
        let (_, status) = waitpid(Some(guest.0), WaitOptions::UNTRACED)
            .unwrap()
            .unwrap();
        assert!(status.stopped(), "the guest failed: {status:?}");
        guest
    }

    pub(crate) fn capture(&self) -> Result<Captured, NativeError> {
        let mut objects = Objects::default();
        let mut collector = DescriptorCollector::new(&mut objects);
        let descriptors = collector.add_process(&self.task())?;
        let descriptions = collector.finish()?;
        // Through the form that it has on disk.
        let bytes = postcard::to_stdvec(&descriptions).unwrap();
        Ok(Captured {
            descriptors,
            descriptions: postcard::from_bytes(&bytes).unwrap(),
            objects: objects.list,
        })
    }

    pub(crate) fn task(&self) -> Task {
        Task {
            host_pid: self.0.as_raw_nonzero().get(),
            // As the copy sees itself, in a pid namespace of its own.
            pid: 1,
            name: "guest".to_owned(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Captured {
    pub(crate) descriptors: Vec<Descriptor>,
    pub(crate) descriptions: Descriptions,
    objects: Vec<OwnedFd>,
}

impl Captured {
    pub(crate) fn play_on(&self, check: impl FnOnce()) {
        self.play_on_after(|_| (), check);
    }

    /// With something between opening and installing.
    pub(crate) fn play_on_after(
        &self,
        prepare: impl FnOnce(&OpenDescriptions),
        check: impl FnOnce(),
    ) {
        let image = Image {
            clocks: Clocks {
                monotonic_ns: 0,
                boot_ns: 0,
            },
            processes: Vec::new(),
            descriptions: self.descriptions.clone(),
            shared_objects: Vec::new(),
            temporary: Vec::new(),
        };
        let copy = Guest(split(Namespaces::SANDBOX, || {
            let opened = open(&image, &self.objects, FLOOR).unwrap();
            prepare(&opened);
            opened.install(&self.descriptors, &[0, 1, 2]).unwrap();
            check();
        }));
        let (_, status) = waitpid(Some(copy.0), WaitOptions::empty())
            .unwrap()
            .unwrap();
        std::mem::forget(copy);
        assert_eq!(status.exit_status(), Some(0), "the copy failed");
    }
}

/// Keeps the memory files themselves.
#[derive(Default)]
struct Objects {
    list: Vec<OwnedFd>,
}

impl SharedObjects for Objects {
    fn object(&mut self, file: BorrowedFd<'_>, _owner: &Owner) -> Result<u32, NativeError> {
        self.list.push(file.try_clone_to_owned().unwrap());
        Ok(u32::try_from(self.list.len() - 1).unwrap())
    }
}

/// Runs something in a new process, which ends with code 0 unless it panics.
fn split(namespaces: Namespaces, run: impl FnOnce()) -> Pid {
    match clone_process(namespaces, None).unwrap() {
        Cloned::Parent { pid, .. } => Pid::from_raw(pid).unwrap(),
        Cloned::Child => {
            let result = std::panic::catch_unwind(AssertUnwindSafe(run));
            #[expect(
                clippy::exit,
                reason = "the child must not go on as a second test program"
            )]
            std::process::exit(i32::from(result.is_err()));
        }
    }
}
