//! What a process's address space is made of.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;

use super::inject::read_exactly;
use super::objects::Objects;
use super::procfs::MapLine;
use super::stopped::StoppedProcess;
use super::task::Task;
use crate::NativeError;
use crate::image::{Backing, Layout, MadviseFlags, Mapping, VdsoPart};

/// How the memory of a restore program is called in the maps of a restored process. It is no part of the program's.
const PROGRAM_REGION: &str = "/memfd:fermata-program (deleted)";

pub(crate) fn maps(process: &StoppedProcess) -> Result<Vec<MapLine>, NativeError> {
    let task = &process.task;
    let text = fs::read_to_string(format!("/proc/{}/maps", task.host_pid))
        .map_err(task.failed("read the memory map"))?;
    let lines = text.lines().filter(|line| !line.ends_with("[vsyscall]"));
    let (program, maps): (Vec<MapLine>, Vec<MapLine>) = lines
        .map(|line| MapLine::parse(line).map_err(task.failed("read the memory map")))
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .partition(|map| map.path == PROGRAM_REGION);
    let is_in_program = |address: u64| {
        let mut program = program.iter();
        program.any(|map| (map.start..map.end).contains(&address))
    };
    let mut threads = process.threads.iter();
    // Played on itself, a moment ago: it may go on, and has not yet.
    if threads.any(|thread| is_in_program(thread.registers.rip)) {
        return Err(NativeError::Busy {
            owner: task.owner(),
        });
    }
    Ok(maps)
}

pub(crate) fn layout(process: &StoppedProcess, brk: u64) -> Result<Layout, NativeError> {
    let task = &process.task;
    let failed = || task.failed("read the layout of the memory");
    let directory = format!("/proc/{}", task.host_pid);
    let vector = fs::read(format!("{directory}/auxv")).map_err(failed())?;
    let executable = fs::read_link(format!("{directory}/exe")).map_err(failed())?;
    let executable = executable
        .into_os_string()
        .into_string()
        .map_err(|_| task.unheld("the path of its program is not UTF-8"))?;
    if executable.ends_with(" (deleted)") {
        return Err(task.unheld(format!("its program {executable} is not there any more")));
    }
    let stat = &process.stat;
    Ok(Layout {
        start_code: stat.start_code,
        end_code: stat.end_code,
        start_data: stat.start_data,
        end_data: stat.end_data,
        start_brk: stat.start_brk,
        brk,
        start_stack: stat.start_stack,
        arg_start: stat.arg_start,
        arg_end: stat.arg_end,
        env_start: stat.env_start,
        env_end: stat.env_end,
        auxiliary_vector: vector
            .as_chunks()
            .0
            .iter()
            .map(|bytes| u64::from_ne_bytes(*bytes))
            .collect(),
        executable,
    })
}

/// The mappings, without pages and without what only `VmFlags` says; that is read later, from the copy.
pub(crate) fn mappings(
    process: &StoppedProcess,
    maps: &[MapLine],
    objects: &mut Objects,
) -> Result<Vec<Mapping>, NativeError> {
    maps.iter()
        .map(|map| {
            Ok(Mapping {
                start: map.start,
                end: map.end,
                protection: protection(map.permissions),
                backing: backing(process, map, objects)?,
                grows_down: map.path == "[stack]",
                locked: None,
                unreserved: false,
                droppable: false,
                advice: MadviseFlags::default(),
                pages: Vec::new(),
                guards: Vec::new(),
            })
        })
        .collect()
}

/// `PROT_*`
fn protection(permissions: [u8; 4]) -> u32 {
    [(b'r', 1), (b'w', 2), (b'x', 4)]
        .into_iter()
        .zip(permissions)
        .filter(|((letter, _), found)| letter == found)
        .map(|((_, bit), _)| bit)
        .sum()
}

fn backing(
    process: &StoppedProcess,
    map: &MapLine,
    objects: &mut Objects,
) -> Result<Backing, NativeError> {
    let task = &process.task;
    let shared = map.permissions[3] == b's';
    let refuse = |what: &str| {
        let (start, path) = (map.start, &map.path);
        Err(task.unheld(format!("its memory at {start:#x} is {what} ({path})")))
    };
    match map.path.as_str() {
        "[vvar]" => return Ok(Backing::Vdso(VdsoPart::Variables)),
        "[vvar_vclock]" => return Ok(Backing::Vdso(VdsoPart::VirtualClocks)),
        "[vdso]" => return Ok(Backing::Vdso(VdsoPart::Code)),
        "" | "[heap]" | "[stack]" if !shared => return Ok(Backing::Anonymous),
        path if path.starts_with("[stack:") => return Ok(Backing::Anonymous),
        _ => {}
    }
    if map.path == "/dev/zero (deleted)" || map.path.starts_with("/memfd:") {
        let file = mapped_file(task, map)?;
        return Ok(Backing::Object {
            object: objects.place(file.as_fd(), &map.path, &task.owner())?,
            offset: map.offset,
            shared,
        });
    }
    if map.path.ends_with(" (deleted)") {
        return refuse("of a file that has no name any more");
    }
    if !map.path.starts_with('/') {
        return refuse("of an unknown kind");
    }
    if map.path.starts_with("/dev/") && !map.path.starts_with("/dev/shm/") {
        return refuse("of a device");
    }
    let path = map.path.clone();
    let offset = map.offset;
    if !shared {
        return Ok(Backing::PrivateFile { path, offset });
    }
    Ok(Backing::SharedFile {
        writable: may_write(task, map)?,
        path,
        offset,
    })
}

/// Whether a shared mapping was made from a file open for writing: the link has the rights of the mapping's file.
fn may_write(task: &Task, map: &MapLine) -> Result<bool, NativeError> {
    if map.permissions[1] == b'w' {
        return Ok(true);
    }
    let link = rustix::fs::lstat(link_of(task, map)).map_err(task.failed("look at a mapping"))?;
    Ok(link.st_mode & 0o200 != 0)
}

fn link_of(task: &Task, map: &MapLine) -> String {
    let (pid, start, end) = (task.host_pid, map.start, map.end);
    format!("/proc/{pid}/map_files/{start:x}-{end:x}")
}

fn mapped_file(task: &Task, map: &MapLine) -> Result<File, NativeError> {
    File::open(link_of(task, map)).map_err(task.failed("open the shared memory"))
}

/// A part of `/proc/PID/smaps`: what `VmFlags` says of the mapping that begins at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) start: u64,
    pub(crate) words: Vec<String>,
}

/// Reads `VmFlags` of all mappings.
pub(crate) fn flags(host_pid: i32) -> io::Result<Vec<Flags>> {
    let text = fs::read_to_string(format!("/proc/{host_pid}/smaps"))?;
    let mut found = Vec::new();
    let mut start = 0;
    for line in text.lines() {
        if let Some(words) = line.strip_prefix("VmFlags:") {
            found.push(Flags {
                start,
                words: words.split_ascii_whitespace().map(str::to_owned).collect(),
            });
        } else if line.as_bytes().first().is_some_and(u8::is_ascii_hexdigit)
            && let Some((address, _)) = line.split_once('-')
            && let Ok(address) = u64::from_str_radix(address, 16)
        {
            start = address;
        }
    }
    Ok(found)
}

/// Notes them; `Err` says what cannot be held.
pub(crate) fn apply(mapping: &mut Mapping, words: &[String]) -> Result<(), String> {
    for word in words {
        let advice = &mut mapping.advice;
        match word.as_str() {
            // Read, write, execute, shared; that they may be; accounted; soft-dirty; that there may be guards.
            "rd" | "wr" | "ex" | "sh" | "mr" | "mw" | "me" | "ms" | "ac" | "sd" | "de" | "gu"
            | "??" => {}
            "dp" => mapping.droppable = true,
            "gd" => mapping.grows_down = true,
            // Not of a copy.
            "lo" | "lf" => {}
            "nr" => mapping.unreserved = true,
            "dc" => advice.dont_fork = true,
            "dd" => advice.dont_dump = true,
            "wf" => advice.wipe_on_fork = true,
            "hg" => advice.huge_pages = true,
            "nh" => advice.no_huge_pages = true,
            "mg" => advice.mergeable = true,
            "sr" => advice.sequential = true,
            "rr" => advice.random = true,
            // Sealed by the kernel.
            "io" | "pf" | "mm" | "sl" if matches!(mapping.backing, Backing::Vdso(_)) => {}
            other => {
                let start = mapping.start;
                return Err(format!("its memory at {start:#x} has the property {other}"));
            }
        }
    }
    if mapping.advice.wipe_on_fork && !mapping.droppable {
        let start = mapping.start;
        return Err(format!(
            "its memory at {start:#x} is wiped in children (MADV_WIPEONFORK)"
        ));
    }
    Ok(())
}

/// Notes what is locked (mlock(2)): a copy's memory never is, so this is of the process itself.
pub(crate) fn note_locks(mappings: &mut [Mapping], flags: &[Flags]) {
    let mut flags = flags.iter().peekable();
    for mapping in mappings {
        while flags.next_if(|flags| flags.start < mapping.start).is_some() {}
        let Some(words) = flags.next_if(|flags| flags.start == mapping.start) else {
            continue;
        };
        let has = |wanted: &str| words.words.iter().any(|word| word == wanted);
        mapping.locked = has("lo").then(|| has("lf"));
    }
}

/// BLAKE3 of the code of its vDSO.
pub(crate) fn vdso_digest(
    process: &StoppedProcess,
    maps: &[MapLine],
) -> Result<[u8; 32], NativeError> {
    let task = &process.task;
    let map = maps
        .iter()
        .find(|map| map.path == "[vdso]")
        .ok_or_else(|| task.unheld("it has no vDSO"))?;
    let mut code = vec![0; usize::try_from(map.end - map.start).unwrap_or(0)];
    read_exactly(task.host_pid, map.start, &mut code).map_err(task.failed("read the vDSO"))?;
    Ok(blake3::hash(&code).into())
}
