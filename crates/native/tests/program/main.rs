//! Whole processes made by their programs from an image that was written by hand.
//!
//! Splitting a process that has threads is not possible, and the usual harness runs tests in threads, so this is one of its
//! own: it speaks what `cargo test` and `cargo nextest` ask of a harness.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    reason = "a test with a harness of its own, which clippy does not take for a test"
)]

mod image;
mod process;
mod vdso;

use std::fs::{self, File};

use fermata_native::image::{Alive, Credentials, Image, SeccompFilter, State};
use rustix::fs::MemfdFlags;
use rustix::process::Signal;

use self::image::{DATA, HIGH_YMM3, LEADER_TLS, LOW_XMM3, PAGE, THREAD_TLS, image, write_pages};
use self::process::{Restored, restore};

type Test = (&'static str, fn());

const TESTS: &[Test] = &[
    (
        "a_process_goes_on_where_its_image_was",
        a_process_goes_on_where_its_image_was,
    ),
    ("a_failed_operation_is_told", a_failed_operation_is_told),
    (
        "threads_are_whom_they_were_and_live_under_their_filters",
        threads_are_whom_they_were_and_live_under_their_filters,
    ),
    (
        "a_stopped_process_goes_on_when_told",
        a_stopped_process_goes_on_when_told,
    ),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if has("--list") {
        if !has("--ignored") {
            for (name, _) in TESTS {
                println!("{name}: test");
            }
        }
        return;
    }
    let filters: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    for (name, test) in TESTS {
        if filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str())) {
            test();
            println!("test {name} ... ok");
        }
    }
}

/// What a test needs of files.
struct Files {
    directory: tempfile::TempDir,
    pages: File,
}

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut content = vec![b'A'; 4096];
        content.extend([b'B'; 4096]);
        fs::write(directory.path().join("mapped"), content).unwrap();
        let mut pages = tempfile::tempfile().unwrap();
        write_pages(&mut pages);
        Self { directory, pages }
    }

    fn image(&self) -> Image {
        let vdso = vdso::moved_to(0x7ffd_1234_5000);
        let executable = fs::canonicalize("/bin/true").unwrap();
        image(
            &self.directory.path().join("mapped"),
            executable.to_str().unwrap(),
            vdso,
        )
    }

    fn restore(&self, image: &Image) -> Restored {
        let object = rustix::fs::memfd_create("shared", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&object, PAGE).unwrap();
        restore(image, &self.pages, &[object])
    }
}

fn a_process_goes_on_where_its_image_was() {
    let files = Files::new();
    let image = files.image();
    let mut restored = files.restore(&image);
    restored.wait_until_arrived();
    // A thread of a processor that is not there may run on all. It ends as soon as it may go.
    let second = restored.second_thread();
    assert_eq!(restored.status(&second, "Cpus_allowed_list"), own_processors());
    restored.let_go();
    assert_eq!(restored.failure(), "");

    // It has closed the failure descriptor, and sleeps again when it reads its standard input.
    restored.wait_for_state("S (sleeping)");
    state_is_held(&restored, &image);

    restored.send_byte();
    let report = restored.report();
    let word = |at: usize| u64::from_le_bytes(report[at..at + 8].try_into().unwrap());
    assert_eq!(word(0), LEADER_TLS);
    assert_eq!(&report[8..16], b"DDDDDDDD");
    assert_eq!(&report[16..24], b"BBBBBBBB");
    assert_eq!(word(40), 0, "clock_gettime of the vdso");
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = i64::try_from(word(24)).unwrap();
    assert!((now.tv_sec - 60..=now.tv_sec).contains(&seconds));
    assert_eq!(word(48), LOW_XMM3);
    assert_eq!(word(56), HIGH_YMM3);
    assert_eq!(word(64), 1);
    assert_eq!(word(72), 0x100_0000_0000);
    assert_eq!(word(136), THREAD_TLS);
    assert_eq!(word(144), 7);
    assert_eq!(restored.exit_code(), Some(42));
}

fn state_is_held(restored: &Restored, image: &Image) {
    let State::Alive(alive) = &image.processes[0].state else {
        panic!("not alive");
    };
    let maps = restored.proc("maps");
    let found: Vec<&str> = maps
        .lines()
        .filter(|line| !line.contains("fermata-program") && !line.contains("[vsyscall]"))
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    let expected: Vec<String> = alive
        .memory
        .mappings
        .iter()
        .map(|mapping| format!("{:08x}-{:08x}", mapping.start, mapping.end))
        .collect();
    assert_eq!(found, expected, "{maps}");
    for text in [
        "r-xp 00000000 00:00 0",
        "[stack]",
        "[vdso]",
        "/memfd:shared",
    ] {
        assert!(maps.contains(text), "{text} in {maps}");
    }
    let status = |key| restored.status("status", key);
    assert_eq!(status("Name"), "leader");
    assert_eq!(status("Uid"), "1000 1000 1000 1000");
    assert_eq!(status("Gid"), "1001 1001 1001 1001");
    assert_eq!(status("Groups"), "5 7");
    assert_eq!(status("CapPrm"), "0000000000000000");
    assert_eq!(status("CapBnd"), "00000000a80425fb");
    assert_eq!(status("Seccomp_filters"), "1");
    assert_eq!(status("ShdPnd"), "0000000000000200");
    assert_eq!(status("SigBlk"), "0000000000000200");
    assert_eq!(status("SigIgn"), "0000000000004000");
    assert_eq!(status("VmLck"), "16 kB");
    assert_eq!(status("Cpus_allowed_list"), "0");
    assert!(restored.proc("timers").contains("ID: 5\n"));
    assert!(
        restored
            .proc("limits")
            .contains("Max open files            123                  456")
    );
    let link = |name: &str| fs::read_link(format!("/proc/{}/{name}", restored.host_pid())).unwrap();
    assert_eq!(
        link("exe").to_str(),
        Some(alive.memory.layout.executable.as_str())
    );
    let descriptors = fs::read_dir(format!("/proc/{}/fd", restored.host_pid())).unwrap();
    for descriptor in descriptors {
        let name = descriptor.unwrap().file_name();
        let number: i32 = name.to_str().unwrap().parse().unwrap();
        assert!(number < 500, "descriptor {number} is left over");
    }
}

fn a_failed_operation_is_told() {
    let files = Files::new();
    let mut image = files.image();
    let State::Alive(alive) = &mut image.processes[0].state else {
        panic!("not alive");
    };
    // The kernel refuses a heap that ends before it begins.
    alive.memory.layout.brk = 0x1000;
    let mut restored = files.restore(&image);
    assert_eq!(
        restored.failure(),
        "process 1 (leader) cannot describe its memory: error 0x016"
    );
    assert_eq!(restored.exit_code(), Some(127));
}

/// As `/proc/PID/status` lists them.
fn own_processors() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.unwrap().trim().to_owned()
}

/// The process as it is in the image, to be changed.
fn alive(image: &mut Image) -> &mut Alive {
    match &mut image.processes[0].state {
        State::Alive(alive) => alive,
        State::Zombie { .. } => panic!("not alive"),
    }
}

fn threads_are_whom_they_were_and_live_under_their_filters() {
    /// A thread that may do only what its program and the very end of a restore do.
    const STRICT: [i64; 10] = [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_futex,
        libc::SYS_gettid,
        libc::SYS_brk,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_seccomp,
        libc::SYS_close_range,
        libc::SYS_rt_sigreturn,
    ];
    /// `CAP_CHOWN`, `CAP_NET_BIND_SERVICE`
    const SOME: u64 = 1 | 1 << 10;
    let files = Files::new();
    let mut image = files.image();
    let threads = &mut alive(&mut image).threads;
    threads[0].credentials = Credentials {
        users: [0, 0, 0, 0],
        groups: [0, 0, 0, 0],
        supplementary: Vec::new(),
        capabilities: [SOME, 0xa804_25fb, SOME, 0xa804_25fb, 1 << 10],
        secure_bits: 0b1_0000, // SECBIT_KEEP_CAPS
    };
    threads[0].no_new_privileges = true;
    let strict = SeccompFilter {
        flags: 0,
        instructions: allow_only(&STRICT),
    };
    threads[0].seccomp.extend([strict.clone(), strict]);
    threads[0].alternate_stack = (DATA + 2 * PAGE, 0, PAGE);
    threads[1].credentials.users = [1000, 1001, 1002, 1003];
    threads[1].credentials.groups = [2000, 2001, 2002, 2003];
    threads[1].scheduling.policy = 3; // SCHED_BATCH
    threads[1].parent_death_signal = libc::SIGUSR2;

    let mut restored = files.restore(&image);
    restored.wait_until_arrived();
    // It ends as soon as it may go.
    let second = restored.second_thread();
    for (key, value) in [
        ("Name", "second"),
        ("Uid", "1000 1001 1002 1003"),
        ("Gid", "2000 2001 2002 2003"),
        ("NoNewPrivs", "0"),
    ] {
        assert_eq!(restored.status(&second, key), value, "{key}");
    }
    restored.let_go();
    assert_eq!(restored.failure(), "");
    restored.wait_for_state("S (sleeping)");
    let leader = |key| restored.status("status", key);
    for (key, value) in [
        ("Uid", "0 0 0 0"),
        ("Groups", ""),
        ("CapInh", "0000000000000401"),
        ("CapPrm", "00000000a80425fb"),
        ("CapEff", "0000000000000401"),
        ("CapBnd", "00000000a80425fb"),
        ("CapAmb", "0000000000000400"),
        ("NoNewPrivs", "1"),
        ("Seccomp_filters", "3"),
    ] {
        assert_eq!(leader(key), value, "{key}");
    }

    restored.send_byte();
    let report = restored.report();
    assert_eq!(report[64], 1);
    assert_eq!(report[144], 7);
    assert_eq!(restored.exit_code(), Some(42));
}

/// `SECCOMP_RET_KILL_PROCESS` for all other calls.
fn allow_only(calls: &[i64]) -> Vec<u64> {
    use fermata_sys::seccomp::pack;
    const LOAD_NUMBER: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let mut program = vec![pack(LOAD_NUMBER, 0, 0, 0)];
    let count = u8::try_from(calls.len()).unwrap();
    for (call, left) in calls.iter().zip((0..count).rev()) {
        let number = u32::try_from(*call).unwrap();
        program.push(pack(JUMP_EQUAL, left + 1, 0, number));
    }
    program.push(pack(RETURN, 0, 0, 0x8000_0000));
    program.push(pack(RETURN, 0, 0, 0x7fff_0000));
    program
}

fn a_stopped_process_goes_on_when_told() {
    let files = Files::new();
    let mut image = files.image();
    // Process 1 cannot be stopped from inside of its namespace.
    image.processes[0].pid = 2;
    let process = alive(&mut image);
    process.threads[0].tid = 2;
    process.stopped_by = Some(libc::SIGTSTP);
    let mut restored = files.restore(&image);
    restored.wait_until_arrived();
    restored.let_go();
    assert_eq!(restored.failure(), "");
    restored.wait_for_state("T (stopped)");
    restored.send_byte();
    restored.signal(Signal::CONT);
    assert_eq!(restored.report()[64], 2);
    assert_eq!(restored.exit_code(), Some(42));
}
