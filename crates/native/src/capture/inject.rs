//! System calls run by a stopped process, where the kernel tells something only to the process itself.
//!
//! ```text
//! leader: mmap ─► room ─► any thread: list written, run, results read ─► leader: munmap ─► registers as they were
//! ```

use std::io;
use std::time::Duration;

use fermata_sys::injection::{CALL_BYTES, Call, calls, code};
use fermata_sys::tracee::{Registers, Stop, Tracee, read_memory, write_memory};

use super::procfs::MapLine;
use super::stopped::{StoppedProcess, StoppedThread};

/// How long a call that does not wait for anything may take.
const CALL_LIMIT: Duration = Duration::from_secs(5);

const PAGE_BYTES: u64 = 4096;
/// `syscall`
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// Signals of which one says that a list has come to its end; it is never delivered. Whichever has nobody waiting for it.
const END_SIGNALS: [i32; 4] = [23, 28, 29, 17];

/// Memory of a process that holds the code, a list, and what the calls write. Gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Room<'a> {
    process: &'a StoppedProcess,
    syscall: u64,
    address: u64,
    bytes: u64,
    end_signal: i32,
}

impl<'a> Room<'a> {
    /// Room for lists of `calls` calls and `results` bytes that they write.
    pub(crate) fn make(
        process: &'a StoppedProcess,
        maps: &[MapLine],
        calls: usize,
        results: usize,
    ) -> io::Result<Self> {
        let syscall = find_syscall(process, maps)?;
        let needed = code().len().next_multiple_of(CALL_BYTES) + (calls + 1) * CALL_BYTES + results;
        let bytes = (needed as u64).next_multiple_of(PAGE_BYTES);
        let leader = leader(process)?;
        let pending: Vec<i32> = leader
            .tracee()?
            .pending_signals(true)?
            .iter()
            .filter_map(|signal| signal.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)))
            .collect();
        let end_signal = END_SIGNALS
            .into_iter()
            .find(|signal| !pending.contains(signal))
            .ok_or(io::ErrorKind::ResourceBusy)?;
        // PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS
        let map = Call::new(calls::MMAP, [0, bytes, 7, 0x22, u64::MAX, 0]);
        let address = single(leader, syscall, &map)?.cast_unsigned();
        let room = Self {
            process,
            syscall,
            address,
            bytes,
            end_signal,
        };
        write_memory(process.task.host_pid, address, code())?;
        Ok(room)
    }

    /// Where results may be written: behind a list of `calls`.
    pub(crate) fn results(&self, calls: usize) -> u64 {
        self.list() + ((calls + 1) * CALL_BYTES) as u64
    }

    fn list(&self) -> u64 {
        self.address + code().len().next_multiple_of(CALL_BYTES) as u64
    }

    /// Makes a thread run a list; what the calls returned is in it afterwards. A child that one of them makes is returned too; it
    /// stands still.
    pub(crate) fn run(
        &self,
        thread: &StoppedThread,
        calls: &mut [Call],
    ) -> io::Result<Option<Tracee>> {
        let pid = self.process.task.pid;
        let end = Call::new(
            calls::TGKILL,
            [
                i64::from(pid).cast_unsigned(),
                i64::from(thread.tid).cast_unsigned(),
                i64::from(self.end_signal).cast_unsigned(),
            ],
        );
        self.write(calls, &end)?;
        let tracee = thread.tracee()?;
        tracee.set_signal_mask(!(1_u64 << (self.end_signal - 1)))?;
        tracee.set_registers(&self.at_the_list(thread.registers))?;
        let mut newborn = None;
        tracee.go_on()?;
        loop {
            match tracee.wait_for_stop(CALL_LIMIT)? {
                Stop::Signal(signal) if signal == self.end_signal => break,
                Stop::Cloned => {
                    newborn = Some(tracee.newborn()?);
                    tracee.go_on()?;
                }
                // Its group is stopped by job control, which does not concern what it is made to do.
                Stop::Stopped(_) | Stop::Asked => tracee.go_on()?,
                Stop::Signal(_) | Stop::Ended(_) => return Err(io::ErrorKind::Interrupted.into()),
            }
        }
        tracee.set_signal_mask(!0)?;
        self.read(calls)?;
        Ok(newborn)
    }

    /// Makes a newborn child run a list until it ends, or, when the list has it make a child, until that is there.
    pub(crate) fn run_to_the_end(
        &self,
        child: &Tracee,
        like: &StoppedThread,
        calls: &[Call],
    ) -> io::Result<Option<Tracee>> {
        let end = Call::new(calls::EXIT_GROUP, [0]);
        self.write(calls, &end)?;
        child.set_registers(&self.at_the_list(like.registers))?;
        child.go_on()?;
        let mut newborn = None;
        loop {
            match child.wait_for_stop(CALL_LIMIT)? {
                Stop::Ended(_) => return Ok(newborn),
                Stop::Cloned => {
                    newborn = Some(child.newborn()?);
                    child.go_on()?;
                }
                Stop::Stopped(_) | Stop::Asked => child.go_on()?,
                Stop::Signal(_) => return Err(io::ErrorKind::Interrupted.into()),
            }
        }
    }

    /// What the calls have written.
    pub(crate) fn read_results(&self, calls: usize, into: &mut [u8]) -> io::Result<()> {
        read_exactly(self.process.task.host_pid, self.results(calls), into)
    }

    fn at_the_list(&self, registers: Registers) -> Registers {
        Registers {
            rip: self.address,
            rbx: self.list(),
            // Not in a system call: nothing is to be restarted.
            orig_rax: u64::MAX,
            ..registers
        }
    }

    fn write(&self, calls: &[Call], end: &Call) -> io::Result<()> {
        let bytes: Vec<u8> = calls.iter().chain([end]).flat_map(Call::to_bytes).collect();
        write_memory(self.process.task.host_pid, self.list(), &bytes)
    }

    fn read(&self, calls: &mut [Call]) -> io::Result<()> {
        let mut bytes = vec![0; calls.len() * CALL_BYTES];
        read_exactly(self.process.task.host_pid, self.list(), &mut bytes)?;
        for (call, bytes) in calls.iter_mut().zip(bytes.as_chunks().0) {
            call.result = Call::result_in(bytes);
        }
        Ok(())
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if let Ok(leader) = leader(self.process) {
            let unmap = Call::new(calls::MUNMAP, [self.address, self.bytes]);
            // Fails only when the process is gone, and the room with it.
            let _ = single(leader, self.syscall, &unmap);
        }
    }
}

fn leader(process: &StoppedProcess) -> io::Result<&StoppedThread> {
    process
        .threads
        .first()
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// One call, without any room.
fn single(thread: &StoppedThread, syscall: u64, call: &Call) -> io::Result<i64> {
    let tracee = thread.tracee()?;
    let [rdi, rsi, rdx, r10, r8, r9] = call.arguments;
    tracee.set_signal_mask(!0)?;
    tracee.set_registers(&Registers {
        rip: syscall,
        rax: call.number,
        rdi,
        rsi,
        rdx,
        r10,
        r8,
        r9,
        orig_rax: u64::MAX,
        ..thread.registers
    })?;
    // Stops at its begin and at its end.
    let mut stops = 0;
    while stops < 2 {
        tracee.go_on_until_call_ends()?;
        match tracee.wait_for_stop(CALL_LIMIT)? {
            Stop::Signal(signal) if signal == SIGTRAP => stops += 1,
            Stop::Stopped(_) | Stop::Asked => {}
            _ => return Err(io::ErrorKind::Interrupted.into()),
        }
    }
    let result = tracee.registers()?.rax.cast_signed();
    tracee.set_registers(&thread.registers)?;
    if (-4095..0).contains(&result) {
        let errno = i32::try_from(-result).unwrap_or(0);
        return Err(io::Error::from_raw_os_error(errno));
    }
    Ok(result)
}

const SIGTRAP: i32 = 5;

/// A `syscall` instruction: every process has the kernel's vDSO, and that has some.
fn find_syscall(process: &StoppedProcess, maps: &[MapLine]) -> io::Result<u64> {
    let vdso = maps
        .iter()
        .find(|map| map.path == "[vdso]")
        .ok_or(io::ErrorKind::NotFound)?;
    let length = usize::try_from(vdso.end - vdso.start).unwrap_or(0);
    let mut bytes = vec![0; length];
    read_exactly(process.task.host_pid, vdso.start, &mut bytes)?;
    bytes
        .windows(SYSCALL.len())
        .position(|window| window == SYSCALL)
        .map(|at| vdso.start + at as u64)
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

pub(crate) fn read_exactly(host_pid: i32, address: u64, into: &mut [u8]) -> io::Result<()> {
    let length = into.len();
    match read_memory(host_pid, &[(address, length)], into)? {
        count if count == length => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
