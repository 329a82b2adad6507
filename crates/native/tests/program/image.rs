//! An image made by hand: a process with two threads that says what it finds and ends.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use fermata_native::image::*;

use crate::vdso::Moved;

pub(crate) const PAGE: u64 = 4096;
pub(crate) const CODE: u64 = 0x40_0000;
pub(crate) const DATA: u64 = 0x60_0000;
pub(crate) const MAPPED: u64 = 0x70_0000;
pub(crate) const SHARED: u64 = 0x80_0000;
pub(crate) const RESERVED: u64 = 0x90_0000;
pub(crate) const STACK: u64 = 0x7ffc_0000_0000;
pub(crate) const LEADER_TLS: u64 = DATA + 0x400;
pub(crate) const THREAD_TLS: u64 = DATA + 0x500;
pub(crate) const CLEARED: u64 = DATA + 0x600;
pub(crate) const LOW_XMM3: u64 = 0x1122_3344_5566_7788;
pub(crate) const HIGH_YMM3: u64 = 0x99aa_bbcc_ddee_ff00;

/// ```text
/// leader: report +0 fs:[0], +8 [rbp], +16 [rbp + 4096], +24 clock_gettime(MONOTONIC) by r13, +40 its result,
///         +48 xmm3, +56 the upper half of ymm3, +64 gettid, +72 brk(0); wait for a byte on descriptor 0;
///         wait until [rbx + 128] is not 0 (futex); write 256 bytes from rbx to descriptor 1; exit_group(42)
/// thread: +136 fs:[0], +144 gettid; [rbx + 128] = 1 and wake; exit(0)
/// ```
const PROGRAM: &[u8] = &[
    0x64, 0x48, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x00, 0x00, // mov rax, fs:[0]
    0x48, 0x89, 0x03, // mov [rbx], rax
    0x48, 0x8b, 0x45, 0x00, // mov rax, [rbp]
    0x48, 0x89, 0x43, 0x08, // mov [rbx + 8], rax
    0x48, 0x8b, 0x85, 0x00, 0x10, 0x00, 0x00, // mov rax, [rbp + 0x1000]
    0x48, 0x89, 0x43, 0x10, // mov [rbx + 16], rax
    0xbf, 0x01, 0x00, 0x00, 0x00, // mov edi, 1
    0x48, 0x8d, 0x73, 0x18, // lea rsi, [rbx + 24]
    0x41, 0xff, 0xd5, // call r13
    0x48, 0x89, 0x43, 0x28, // mov [rbx + 40], rax
    0x66, 0x0f, 0xd6, 0x5b, 0x30, // movq [rbx + 48], xmm3
    0xc4, 0xe3, 0x7d, 0x39, 0xdc, 0x01, // vextracti128 xmm4, ymm3, 1
    0x66, 0x0f, 0xd6, 0x63, 0x38, // movq [rbx + 56], xmm4
    0xb8, 0xba, 0x00, 0x00, 0x00, 0x0f, 0x05, // gettid
    0x48, 0x89, 0x43, 0x40, // mov [rbx + 64], rax
    0x31, 0xff, 0xb8, 0x0c, 0x00, 0x00, 0x00, 0x0f, 0x05, // brk(0)
    0x48, 0x89, 0x43, 0x48, // mov [rbx + 72], rax
    0xbf, 0x00, 0x00, 0x00, 0x00, // mov edi, 0
    0x48, 0x8d, 0xb3, 0xf0, 0x00, 0x00, 0x00, // lea rsi, [rbx + 240]
    0xba, 0x01, 0x00, 0x00, 0x00, 0x31, 0xc0, 0x0f, 0x05, // read(0, rsi, 1)
    0x83, 0xbb, 0x80, 0x00, 0x00, 0x00, 0x00, // 1: cmp dword [rbx + 128], 0
    0x75, 0x17, // jne 2f
    0x48, 0x8d, 0xbb, 0x80, 0x00, 0x00, 0x00, // lea rdi, [rbx + 128]
    0x31, 0xf6, 0x31, 0xd2, 0x45, 0x31, 0xd2, // xor esi, esi; edx; r10d
    0xb8, 0xca, 0x00, 0x00, 0x00, 0x0f, 0x05, // futex(rdi, FUTEX_WAIT, 0, 0)
    0xeb, 0xe0, // jmp 1b
    0xbf, 0x01, 0x00, 0x00, 0x00, 0x48, 0x89, 0xde, // 2: edi = 1, rsi = rbx
    0xba, 0x00, 0x01, 0x00, 0x00, 0xb8, 0x01, 0x00, 0x00, 0x00, 0x0f,
    0x05, // write(edi, rsi, 256)
    0xbf, 0x2a, 0x00, 0x00, 0x00, 0xb8, 0xe7, 0x00, 0x00, 0x00, 0x0f, 0x05, // exit_group(42)
    // thread:
    0x64, 0x48, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x00, 0x00, // mov rax, fs:[0]
    0x48, 0x89, 0x83, 0x88, 0x00, 0x00, 0x00, // mov [rbx + 136], rax
    0xb8, 0xba, 0x00, 0x00, 0x00, 0x0f, 0x05, // gettid
    0x48, 0x89, 0x83, 0x90, 0x00, 0x00, 0x00, // mov [rbx + 144], rax
    0xc7, 0x83, 0x80, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, // mov dword [rbx + 128], 1
    0x48, 0x8d, 0xbb, 0x80, 0x00, 0x00, 0x00, // lea rdi, [rbx + 128]
    0xbe, 0x01, 0x00, 0x00, 0x00, 0xba, 0x01, 0x00, 0x00, 0x00, // FUTEX_WAKE, 1
    0xb8, 0xca, 0x00, 0x00, 0x00, 0x0f, 0x05, // futex
    0x31, 0xff, 0xb8, 0x3c, 0x00, 0x00, 0x00, 0x0f, 0x05, // exit(0)
];
/// Where the thread's part of [`PROGRAM`] begins.
const THREAD_OFFSET: u64 = 172;

/// Writes the pages file: code, data, a changed page of the mapped file, stack.
pub(crate) fn write_pages(file: &mut File) {
    let mut pages = vec![0; 4 * 4096];
    pages[..PROGRAM.len()].copy_from_slice(PROGRAM);
    for (address, value) in [
        (LEADER_TLS, LEADER_TLS),
        (THREAD_TLS, THREAD_TLS),
        (CLEARED, 7),
    ] {
        let at = usize::try_from(PAGE + address - DATA).unwrap();
        pages[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    pages[2 * 4096..3 * 4096].fill(b'D');
    file.write_all(&pages).unwrap();
}

/// The whole image. `mapped` is a file of two pages, `executable` any program.
pub(crate) fn image(mapped: &Path, executable: &str, vdso: Moved) -> Image {
    let Moved {
        mappings: vdso,
        clock,
        digest,
    } = vdso;
    let vector = vdso.last().map_or(0, |code| code.start);
    let mut mappings = vec![
        mapping(CODE, CODE + PAGE, libc::PROT_READ | libc::PROT_EXEC, 0),
        Mapping {
            locked: Some(false),
            ..mapping(
                DATA,
                DATA + 4 * PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                PAGE,
            )
        },
        Mapping {
            backing: Backing::PrivateFile {
                path: mapped.to_str().unwrap().to_owned(),
                offset: 0,
            },
            ..mapping(MAPPED, MAPPED + 2 * PAGE, libc::PROT_READ, 2 * PAGE)
        },
        Mapping {
            backing: Backing::Object {
                object: 0,
                offset: 0,
                shared: true,
            },
            pages: Vec::new(),
            ..mapping(SHARED, SHARED + PAGE, libc::PROT_READ | libc::PROT_WRITE, 0)
        },
        Mapping {
            pages: Vec::new(),
            guards: vec![(RESERVED + PAGE, RESERVED + 2 * PAGE)],
            unreserved: true,
            advice: MadviseFlags {
                dont_dump: true,
                ..MadviseFlags::default()
            },
            ..mapping(RESERVED, RESERVED + (1 << 30), libc::PROT_NONE, 0)
        },
        Mapping {
            grows_down: true,
            pages: vec![PageRun {
                start: STACK + 31 * PAGE,
                bytes: PAGE,
                offset: 3 * PAGE,
            }],
            ..mapping(
                STACK,
                STACK + 32 * PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                0,
            )
        },
    ];
    mappings.extend(vdso);
    mappings.sort_by_key(|mapping| mapping.start);
    let memory = Memory {
        layout: Layout {
            start_code: CODE,
            end_code: CODE + PAGE,
            start_data: DATA,
            end_data: DATA + PAGE,
            start_brk: 0x100_0000_0000,
            brk: 0x100_0000_0000,
            start_stack: STACK + 32 * PAGE - 256,
            arg_start: STACK + 32 * PAGE - 128,
            arg_end: STACK + 32 * PAGE - 120,
            env_start: STACK + 32 * PAGE - 120,
            env_end: STACK + 32 * PAGE - 112,
            // AT_SYSINFO_EHDR, AT_PAGESZ, AT_NULL
            auxiliary_vector: vec![33, vector, 6, PAGE, 0, 0],
            executable: executable.to_owned(),
        },
        mappings,
        vdso_digest: digest,
    };
    let threads = vec![
        thread(
            1,
            "leader",
            CODE,
            LEADER_TLS,
            clock,
            STACK + 32 * PAGE - 512,
        ),
        Thread {
            clear_tid_address: CLEARED,
            timer_slack_ns: 70_000,
            ..thread(
                7,
                "second",
                CODE + THREAD_OFFSET,
                THREAD_TLS,
                clock,
                STACK + 31 * PAGE + 512,
            )
        },
    ];
    Image {
        clocks: Clocks {
            monotonic_ns: 0,
            boot_ns: 0,
        },
        processes: vec![Process {
            pid: 1,
            parent: 0,
            group: 1,
            session: 0,
            name: "leader".to_owned(),
            state: State::Alive(alive(threads, memory)),
        }],
        descriptions: Descriptions::default(),
        shared_objects: vec![SharedObject {
            memfd_name: Some("shared".to_owned()),
            bytes: PAGE,
            seals: 0,
            mode: 0o777,
            pages: Vec::new(),
        }],
        temporary: Vec::new(),
    }
}

fn alive(threads: Vec<Thread>, memory: Memory) -> Alive {
    let mut signal = vec![0; 128];
    signal[..4].copy_from_slice(&libc::SIGUSR1.to_le_bytes());
    Alive {
        threads,
        memory,
        descriptors: Vec::new(),
        working_directory: "/".to_owned(),
        root: "/".to_owned(),
        umask: 0o022,
        actions: vec![SignalAction {
            signal: libc::SIGTERM,
            handler: 1, // SIG_IGN
            flags: 0,
            restorer: 0,
            mask: 0,
        }],
        pending: vec![signal],
        limits: vec![Limit {
            resource: 7, // RLIMIT_NOFILE
            current: 123,
            maximum: 456,
        }],
        interval_timers: [
            IntervalTimer {
                remaining_ns: 1_000_000_000_000,
                interval_ns: 0,
            },
            IntervalTimer::default(),
            IntervalTimer::default(),
        ],
        posix_timers: vec![PosixTimer {
            id: 5,
            clock: libc::CLOCK_MONOTONIC,
            notify: libc::SIGEV_THREAD_ID,
            signal: libc::SIGUSR2,
            value: 0xabcd,
            tid: 7,
            timer: IntervalTimer {
                remaining_ns: 1_000_000_000_000,
                interval_ns: 5,
            },
        }],
        dumpable: 1,
        is_subreaper: false,
        oom_score_adjustment: 0,
        personality: 0,
        huge_pages_disabled: false,
        stopped_by: None,
        terminal: None,
    }
}

fn mapping(start: u64, end: u64, protection: i32, offset: u64) -> Mapping {
    Mapping {
        start,
        end,
        protection: protection.cast_unsigned(),
        backing: Backing::Anonymous,
        grows_down: false,
        locked: None,
        unreserved: false,
        droppable: false,
        advice: MadviseFlags::default(),
        guards: Vec::new(),
        pages: vec![PageRun {
            start,
            bytes: PAGE,
            offset,
        }],
    }
}

fn thread(tid: i32, name: &str, code: u64, tls: u64, clock: u64, stack: u64) -> Thread {
    let mut registers = vec![0; 27];
    registers[2] = clock; // r13
    registers[4] = MAPPED; // rbp
    registers[5] = DATA; // rbx
    registers[16] = code;
    registers[17] = 0x33; // cs
    registers[18] = 0x202; // eflags
    registers[19] = stack;
    registers[20] = 0x2b; // ss
    registers[21] = tls; // fs_base
    let mut extended_state = vec![0; 2696];
    extended_state[..2].copy_from_slice(&0x37f_u16.to_le_bytes());
    extended_state[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
    extended_state[512] = 0b111; // x87, SSE, AVX
    extended_state[208..216].copy_from_slice(&LOW_XMM3.to_le_bytes());
    extended_state[624..632].copy_from_slice(&HIGH_YMM3.to_le_bytes());
    Thread {
        tid,
        name: name.to_owned(),
        registers,
        extended_state,
        signal_mask: 1 << (libc::SIGUSR1 - 1),
        pending: Vec::new(),
        alternate_stack: (0, 2, 0),
        clear_tid_address: 0,
        robust_list: (0, 0),
        rseq: Some(Rseq {
            address: DATA + PAGE + u64::from(tid.cast_unsigned()) * 64,
            size: 32,
            signature: 0x5305_3053,
            flags: 0,
        }),
        parent_death_signal: 0,
        credentials: Credentials {
            users: [1000, 1000, 1000, 1000],
            groups: [1001, 1001, 1001, 1001],
            supplementary: vec![5, 7],
            capabilities: [0, 0, 0, 0xa804_25fb, 0],
            secure_bits: 0,
        },
        scheduling: Scheduling {
            policy: 0,
            nice: 3,
            priority: 0,
            flags: 0,
            io_priority: 0,
        },
        // Of the second thread one that is not there.
        processors: if tid == 7 { vec![0, 1 << 62] } else { vec![1] },
        timer_slack_ns: 50_000,
        no_new_privileges: false,
        // BPF_RET | BPF_K, SECCOMP_RET_ALLOW
        seccomp: vec![SeccompFilter {
            flags: 0,
            instructions: vec![fermata_sys::seccomp::pack(6, 0, 0, 0x7fff_0000)],
        }],
    }
}
