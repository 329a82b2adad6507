//! Threads of others, stopped and read by `ptrace(2)`.
//!
//! ```text
//! seize ─► interrupt ─► wait_for_stop ─► registers, signals, ... ─► run_until_signal ─► detach: it goes on
//! ```
//!
//! The thread that seizes is the only one that may go on with a tracee.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::time::{Duration, Instant};

/// `struct user_regs_struct`, in its order.
pub type Registers = libc::user_regs_struct;

/// How many words [`Registers`] has.
pub const REGISTER_WORDS: usize = size_of::<Registers>() / 8;

// linux/ptrace.h, linux/elf.h
const OPTION_TRACE_CLONE: usize = libc::PTRACE_O_TRACECLONE as usize;
const OPTION_TRACE_FORK: usize = libc::PTRACE_O_TRACEFORK as usize;
const OPTION_SUSPEND_SECCOMP: usize = 1 << 21;
const GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420f;
const GET_FILTER: libc::c_uint = 0x420c;
const NT_X86_XSTATE: usize = 0x202;
const PEEK_SHARED: u32 = 1;
/// Larger than any extended state: AVX-512 needs 2.7 KiB, AMX 11 KiB.
const EXTENDED_STATE_BYTES: usize = 16 << 10;
/// `sizeof(siginfo_t)`
const SIGINFO_BYTES: usize = 128;

/// Why a tracee stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Because it was asked to, or because it was born traced.
    Asked,
    /// It is stopped by this signal, as by job control.
    Stopped(i32),
    /// This signal is about to be delivered; it is not when the tracee goes on.
    Signal(i32),
    /// It has made a child.
    Cloned,
    /// It has ended; the number is of `wait(2)`.
    Ended(i32),
}

/// `rseq(2)`: area, size, signature, flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RseqRegistration {
    /// Where the area is.
    pub address: u64,
    /// How large it is.
    pub size: u32,
    /// What precedes abort handlers.
    pub signature: u32,
    /// Of the registration.
    pub flags: u32,
}

/// A seized thread.
#[derive(Debug, PartialEq, Eq)]
pub struct Tracee {
    tid: i32,
}

impl Tracee {
    /// Seizes a thread: its children and new threads are born seized and stopped, and seccomp filters do not apply to it until it
    /// is let go (`PTRACE_O_SUSPEND_SECCOMP`), so that what it is made to call is never refused.
    ///
    /// # Errors
    /// What `ptrace(2)` says; `EPERM` when somebody else traces it.
    pub fn seize(tid: i32) -> io::Result<Self> {
        let options = OPTION_TRACE_CLONE | OPTION_TRACE_FORK | OPTION_SUSPEND_SECCOMP;
        request(libc::PTRACE_SEIZE, tid, 0, options)?;
        Ok(Self { tid })
    }

    /// The child that this tracee has just made ([`Stop::Cloned`]); it is, or soon will be, stopped.
    ///
    /// # Errors
    /// What `ptrace(2)` says.
    pub fn newborn(&self) -> io::Result<Self> {
        let mut message: libc::c_ulong = 0;
        request(
            libc::PTRACE_GETEVENTMSG,
            self.tid,
            0,
            ptr::from_mut(&mut message).expose_provenance(),
        )?;
        let tid = i32::try_from(message).map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(Self { tid })
    }

    /// Its id, as this process sees it.
    #[must_use]
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// Asks it to stop.
    ///
    /// # Errors
    /// What `ptrace(2)` says.
    pub fn interrupt(&self) -> io::Result<()> {
        request(libc::PTRACE_INTERRUPT, self.tid, 0, 0)
    }

    /// Waits until it stands still.
    ///
    /// # Errors
    /// What `waitpid(2)` says; `TimedOut`.
    pub fn wait_for_stop(&self, limit: Duration) -> io::Result<Stop> {
        let deadline = Instant::now() + limit;
        loop {
            let mut status = 0;
            // SAFETY: the status lives through the call.
            let found =
                unsafe { libc::waitpid(self.tid, &raw mut status, libc::__WALL | libc::WNOHANG) };
            if found == -1 {
                return Err(io::Error::last_os_error());
            }
            if found == self.tid {
                return Ok(decode(status));
            }
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // A stop takes microseconds, and waitpid(2) has no deadline of its own.
            std::thread::yield_now();
        }
    }

    /// Lets it run. A signal that it was about to get is dropped.
    ///
    /// # Errors
    /// What `ptrace(2)` says.
    pub fn go_on(&self) -> io::Result<()> {
        request(libc::PTRACE_CONT, self.tid, 0, 0)
    }

    /// Lets it run for one instruction; a system call is one.
    ///
    /// # Errors
    /// What `ptrace(2)` says.
    pub fn go_on_until_call_ends(&self) -> io::Result<()> {
        request(libc::PTRACE_SYSCALL, self.tid, 0, 0)
    }

    /// Lets go of it: it runs, or stays stopped by the signal that had stopped it.
    ///
    /// # Errors
    /// What `ptrace(2)` says.
    pub fn detach(self) -> io::Result<()> {
        request(libc::PTRACE_DETACH, self.tid, 0, 0)
    }

    /// Its registers.
    ///
    /// # Errors
    /// What `ptrace(2)` says.
    pub fn registers(&self) -> io::Result<Registers> {
        let mut registers = MaybeUninit::<Registers>::uninit();
        request(
            libc::PTRACE_GETREGS,
            self.tid,
            0,
            registers.as_mut_ptr().expose_provenance(),
        )?;
        // SAFETY: the request has filled all of it.
        Ok(unsafe { registers.assume_init() })
    }

    /// Sets its registers.
    ///
    /// # Errors
    /// What `ptrace(2)` says; `EIO` for values that no program can have.
    pub fn set_registers(&self, registers: &Registers) -> io::Result<()> {
        request(
            libc::PTRACE_SETREGS,
            self.tid,
            0,
            ptr::from_ref(registers).expose_provenance(),
        )
    }

    /// Its extended state (`NT_X86_XSTATE`).
    ///
    /// # Errors
    /// What `ptrace(2)` says.
    pub fn extended_state(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0_u8; EXTENDED_STATE_BYTES];
        let mut vector = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        request(
            libc::PTRACE_GETREGSET,
            self.tid,
            NT_X86_XSTATE,
            ptr::from_mut(&mut vector).expose_provenance(),
        )?;
        bytes.truncate(vector.iov_len);
        Ok(bytes)
    }

    /// The signals that it blocks.
    ///
    /// # Errors
    /// What `ptrace(2)` says.
    pub fn signal_mask(&self) -> io::Result<u64> {
        let mut mask = 0_u64;
        request(
            libc::PTRACE_GETSIGMASK as libc::c_uint,
            self.tid,
            size_of::<u64>(),
            ptr::from_mut(&mut mask).expose_provenance(),
        )?;
        Ok(mask)
    }

    /// Sets which signals it blocks.
    ///
    /// # Errors
    /// What `ptrace(2)` says.
    pub fn set_signal_mask(&self, mask: u64) -> io::Result<()> {
        request(
            libc::PTRACE_SETSIGMASK as libc::c_uint,
            self.tid,
            size_of::<u64>(),
            ptr::from_ref(&mask).expose_provenance(),
        )
    }

    /// Signals that wait for it, or for its process, as `siginfo_t`.
    ///
    /// # Errors
    /// What `ptrace(2)` says.
    pub fn pending_signals(&self, of_process: bool) -> io::Result<Vec<Vec<u8>>> {
        const AT_ONCE: u8 = 32;
        let mut signals = Vec::new();
        loop {
            let arguments = libc::ptrace_peeksiginfo_args {
                off: signals.len() as u64,
                flags: if of_process { PEEK_SHARED } else { 0 },
                nr: AT_ONCE.into(),
            };
            let mut found = [[0_u8; SIGINFO_BYTES]; AT_ONCE as usize];
            // SAFETY: the arguments and room for as many signals as they ask for live through the call.
            let count = unsafe {
                libc::ptrace(
                    libc::PTRACE_PEEKSIGINFO as libc::c_uint,
                    self.tid,
                    ptr::from_ref(&arguments),
                    found.as_mut_ptr(),
                )
            };
            let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
            signals.extend(found[..count].iter().map(|signal| signal.to_vec()));
            if count < usize::from(AT_ONCE) {
                return Ok(signals);
            }
        }
    }

    /// Its restartable sequences; `None` when it has registered none.
    ///
    /// # Errors
    /// What `ptrace(2)` says.
    pub fn rseq(&self) -> io::Result<Option<RseqRegistration>> {
        #[repr(C)]
        #[derive(Default)]
        struct Configuration {
            address: u64,
            size: u32,
            signature: u32,
            flags: u32,
            pad: u32,
        }
        let mut configuration = Configuration::default();
        request(
            GET_RSEQ_CONFIGURATION,
            self.tid,
            size_of::<Configuration>(),
            ptr::from_mut(&mut configuration).expose_provenance(),
        )?;
        Ok((configuration.address != 0).then_some(RseqRegistration {
            address: configuration.address,
            size: configuration.size,
            signature: configuration.signature,
            flags: configuration.flags,
        }))
    }

    /// Its seccomp program with this number, the first installed first (`get_nth_filter`), packed as [`crate::seccomp`] has them; `None` when it
    /// has no more.
    ///
    /// # Errors
    /// What `ptrace(2)` says; `EMEDIUMTYPE` for a filter that is no program.
    pub fn seccomp_filter(&self, number: usize) -> io::Result<Option<Vec<u64>>> {
        let ask = |buffer: usize| {
            // SAFETY: the buffer is null, or has room for as many instructions as the filter has.
            let count = unsafe { libc::ptrace(GET_FILTER, self.tid, number, buffer) };
            usize::try_from(count).map_err(|_| io::Error::last_os_error())
        };
        let count = match ask(0) {
            Ok(count) => count,
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let mut instructions = vec![
            libc::sock_filter {
                code: 0,
                jt: 0,
                jf: 0,
                k: 0
            };
            count
        ];
        ask(instructions.as_mut_ptr().expose_provenance())?;
        Ok(Some(
            instructions
                .iter()
                .map(|one| crate::seccomp::pack(one.code, one.jt, one.jf, one.k))
                .collect(),
        ))
    }
}

fn request(request: libc::c_uint, tid: i32, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: every caller passes for `data` a number, or the address of a value of the size that the request reads or fills,
    // which lives through the call.
    if unsafe { libc::ptrace(request, tid, address, data) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn decode(status: i32) -> Stop {
    if !libc::WIFSTOPPED(status) {
        return Stop::Ended(status);
    }
    let signal = libc::WSTOPSIG(status) & 0x7f;
    match status >> 16 {
        libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK => Stop::Cloned,
        libc::PTRACE_EVENT_STOP if signal == libc::SIGTRAP => Stop::Asked,
        libc::PTRACE_EVENT_STOP => Stop::Stopped(signal),
        _ => Stop::Signal(signal),
    }
}

/// Copies out of another process's memory, one range after another, into `into`; returns how many bytes there were: fewer when a
/// page in the middle is not to be had.
///
/// # Errors
/// What `process_vm_readv(2)` says.
pub fn read_memory(pid: i32, ranges: &[(u64, usize)], into: &mut [u8]) -> io::Result<usize> {
    let remote = remote_vectors(ranges);
    let local = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: into.len(),
    };
    // SAFETY: the local range is the caller's buffer; the kernel checks the remote ones.
    let count = unsafe {
        libc::process_vm_readv(
            pid,
            &raw const local,
            1,
            remote.as_ptr(),
            remote.len() as libc::c_ulong,
            0,
        )
    };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Copies into another process's memory.
///
/// # Errors
/// What `process_vm_writev(2)` says; `WriteZero` when not all of it could be written.
pub fn write_memory(pid: i32, address: u64, bytes: &[u8]) -> io::Result<()> {
    let remote = remote_vectors(&[(address, bytes.len())]);
    let local = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: the local range is only read; the kernel checks the remote one.
    let count = unsafe { libc::process_vm_writev(pid, &raw const local, 1, remote.as_ptr(), 1, 0) };
    match usize::try_from(count) {
        Ok(count) if count == bytes.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::WriteZero.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

fn remote_vectors(ranges: &[(u64, usize)]) -> Vec<libc::iovec> {
    ranges
        .iter()
        .map(|(address, length)| libc::iovec {
            iov_base: ptr::without_provenance_mut(usize::try_from(*address).unwrap_or(usize::MAX)),
            iov_len: *length,
        })
        .collect()
}
