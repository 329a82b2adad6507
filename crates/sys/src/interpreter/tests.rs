//! Lists that are run by a process made for each.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};

use super::*;
use crate::own_process::{enter_program, place_program};
use crate::restartable_sequences;

const PAGE: u64 = 4096;
const CODE: u64 = 0x3a00_0000_0000;
const REPORT: u64 = CODE + PAGE;
const WORDS: u64 = REPORT + 64;
const TEXT: u64 = REPORT + 128;
const FRAME: u64 = REPORT + 256;
const FIRST: u64 = REPORT + 1024;
const SECOND: u64 = REPORT + 2048;
/// `syscall`, at the end of the page of code.
const SYSCALL: u64 = REPORT - 2;

const COMPLAINT: &str = "cannot do it: error 0x";

/// What became of it.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    code: i32,
    written: String,
    complaint: String,
}

fn call<const COUNT: usize>(number: i64, arguments: [u64; COUNT], expect: Expect) -> Operation {
    let mut all = [0; 6];
    all[..COUNT].copy_from_slice(&arguments);
    Operation {
        number: number.cast_unsigned(),
        arguments: all,
        expect,
        child: 0,
        complaint: (WORDS, COMPLAINT.len() as u64),
    }
}

fn end(code: u64) -> Operation {
    call(libc::SYS_exit_group, [code], Expect::Anything)
}

/// Runs the first of two lists; they are told the descriptor that is read.
fn run(lists: impl FnOnce(u64) -> [Vec<Operation>; 2]) -> Outcome {
    run_with_frame(&[], lists)
}

fn run_with_frame(frame: &[u64], lists: impl FnOnce(u64) -> [Vec<Operation>; 2]) -> Outcome {
    let (mut output, output_end) = pipe();
    let (mut complaints, complaints_end) = pipe();
    let [first, second] = lists(u64::from(output_end.as_raw_fd().cast_unsigned()));
    let mut bytes = vec![0; 3 * 4096];
    let mut put = |address: u64, data: &[u8]| {
        let at = usize::try_from(address - CODE).unwrap();
        bytes[at..at + data.len()].copy_from_slice(data);
    };
    put(CODE, code());
    put(SYSCALL, &[0x0f, 0x05]);
    put(REPORT, &i64::from(complaints_end.as_raw_fd()).to_ne_bytes());
    put(WORDS, COMPLAINT.as_bytes());
    put(TEXT, b"first second");
    let frame: Vec<u8> = frame.iter().flat_map(|word| word.to_ne_bytes()).collect();
    put(FRAME, &frame);
    for (list, address) in [(first, FIRST), (second, SECOND)] {
        let list: Vec<u8> = list.iter().flat_map(Operation::to_bytes).collect();
        put(address, &list);
    }
    let child = in_namespace(|| {
        if place_program(CODE, &bytes, PAGE).is_ok() && restartable_sequences::unregister().is_ok()
        {
            enter_program(Entry {
                code: CODE,
                list: FIRST,
                report: REPORT,
            });
        }
    });
    drop((output_end, complaints_end));
    let mut outcome = Outcome {
        code: 0,
        written: String::new(),
        complaint: String::new(),
    };
    output.read_to_string(&mut outcome.written).unwrap();
    complaints.read_to_string(&mut outcome.complaint).unwrap();
    outcome.code = exit_code(child);
    outcome
}

fn pipe() -> (File, OwnedFd) {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    (File::from(reader), writer)
}

/// Does `work` as process 1 of a pid namespace, so that ids are known; 126 if it returns.
fn in_namespace(work: impl FnOnce()) -> i32 {
    // SAFETY: the child makes system calls and few allocations, which glibc allows after a fork.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: no pointers.
            unsafe { libc::unshare(libc::CLONE_NEWPID) };
            // SAFETY: as above.
            match unsafe { libc::fork() } {
                0 => {
                    work();
                    // SAFETY: ends this process without the parent's exit handlers.
                    unsafe { libc::_exit(126) }
                }
                // SAFETY: as above.
                grandchild => unsafe { libc::_exit(exit_code(grandchild)) },
            }
        }
        child => child,
    }
}

fn exit_code(child: i32) -> i32 {
    let mut status = 0;
    // SAFETY: `status` is valid for writing.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        128 + libc::WTERMSIG(status)
    }
}

const NO_DESCRIPTOR: u64 = u32::MAX as u64;

#[test]
fn a_list_is_run_in_order() {
    let outcome = run(|output| {
        let first = vec![
            call(libc::SYS_write, [output, TEXT, 6], Expect::Exactly(6)),
            call(libc::SYS_getpid, [], Expect::Exactly(1)),
            call(libc::SYS_getppid, [], Expect::Success),
            call(libc::SYS_close, [NO_DESCRIPTOR], Expect::Anything),
            call(libc::SYS_write, [output, TEXT + 6, 6], Expect::Success),
            end(7),
        ];
        [first, Vec::new()]
    });
    let written = "first second".to_owned();
    let complaint = String::new();
    assert_eq!(
        outcome,
        Outcome {
            code: 7,
            written,
            complaint
        }
    );
}

#[test]
fn all_six_arguments_arrive() {
    let anonymous =
        (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE).cast_unsigned();
    let place = CODE + (1 << 30);
    let map = [place, PAGE, 3, u64::from(anonymous), u64::MAX, 0];
    let of_a_file = [place + PAGE, PAGE, 3, 2, NO_DESCRIPTOR, 0];
    let wrong_offset = [place + PAGE, PAGE, 3, u64::from(anonymous), u64::MAX, 1];
    for (arguments, complaint) in [
        (map, ""),
        (of_a_file, "cannot do it: error 0x009"),
        (wrong_offset, "cannot do it: error 0x016"),
    ] {
        let outcome = run(|_| {
            [
                vec![
                    call(libc::SYS_mmap, arguments, Expect::Exactly(arguments[0])),
                    end(3),
                ],
                Vec::new(),
            ]
        });
        assert_eq!(outcome.complaint, complaint);
        assert_eq!(outcome.code, if complaint.is_empty() { 3 } else { 127 });
    }
}

#[test]
fn what_was_not_expected_is_told_and_ends_the_process() {
    let bad = [NO_DESCRIPTOR];
    for (operation, number) in [
        (call(libc::SYS_close, bad, Expect::Success), "009"),
        (call(libc::SYS_close, bad, Expect::Exactly(0)), "009"),
        // ENOSYS; and EAGAIN, a digit that is a letter.
        (call(1_000_000, [], Expect::Success), "026"),
        (call(libc::SYS_futex, [TEXT, 0, 1], Expect::Success), "00b"),
    ] {
        let outcome = run(|output| {
            let first = vec![
                call(libc::SYS_getpid, [], Expect::Success),
                operation,
                call(libc::SYS_write, [output, TEXT, 6], Expect::Success),
                end(1),
            ];
            [first, Vec::new()]
        });
        assert_eq!(outcome.complaint, format!("{COMPLAINT}{number}"));
        assert_eq!((outcome.code, outcome.written.as_str()), (127, ""));
    }
}

#[test]
fn a_child_goes_on_at_its_own_list() {
    let outcome = run(|output| {
        // With CLONE_VFORK the parent goes on when the child has ended.
        let flags = (libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD).cast_unsigned();
        let mut clone = call(libc::SYS_clone, [u64::from(flags)], Expect::Exactly(2));
        clone.child = SECOND;
        let first = vec![
            clone,
            call(libc::SYS_getpid, [], Expect::Exactly(1)),
            call(libc::SYS_write, [output, TEXT, 6], Expect::Exactly(6)),
            end(3),
        ];
        let second = vec![
            call(libc::SYS_getpid, [], Expect::Exactly(2)),
            call(libc::SYS_write, [output, TEXT + 6, 6], Expect::Exactly(6)),
            end(0),
        ];
        [first, second]
    });
    assert_eq!(outcome.complaint, "");
    assert_eq!(
        (outcome.code, outcome.written.as_str()),
        (3, "secondfirst ")
    );
}

#[test]
fn a_list_ends_in_the_registers_of_its_frame() {
    // struct rt_sigframe without the address: struct ucontext and struct sigcontext up to the mask, no extended state.
    const CONTEXT: usize = 5;
    let mut frame = [0; 38];
    frame[0] = 2 | 4; // UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS
    frame[CONTEXT + 8] = 41; // rdi
    frame[CONTEXT + 13] = libc::SYS_exit_group.cast_unsigned(); // rax
    frame[CONTEXT + 16] = SYSCALL; // rip
    frame[CONTEXT + 17] = 0x202; // flags
    frame[CONTEXT + 18] = 0x33 | 0x2b << 48; // cs, ss
    let outcome = run_with_frame(&frame, |output| {
        let first = vec![
            call(libc::SYS_write, [output, TEXT, 6], Expect::Exactly(6)),
            Operation {
                number: RETURN,
                ..call(0, [FRAME], Expect::Anything)
            },
        ];
        [first, Vec::new()]
    });
    let (written, complaint) = ("first ".to_owned(), String::new());
    assert_eq!(
        outcome,
        Outcome {
            code: 41,
            written,
            complaint
        }
    );
}

#[test]
fn a_program_is_not_placed_over_anything() {
    let place = CODE - (1 << 30);
    let bytes = vec![0; 8192];
    place_program(place, &bytes, PAGE).unwrap();
    let error = place_program(place + PAGE, &bytes, PAGE).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
}
