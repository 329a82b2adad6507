//! What `proc(5)` says of a process, as far as a capture needs it.

use std::io;
use std::str::FromStr;

/// `/proc/PID/stat`. Pids in it are those of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) state: char,
    pub(crate) parent: i32,
    /// The number of the controlling terminal's device, 0 for none.
    pub(crate) terminal: u32,
    /// What its parent gets at its end.
    pub(crate) exit_signal: i32,
    pub(crate) start_code: u64,
    pub(crate) end_code: u64,
    pub(crate) start_stack: u64,
    pub(crate) start_data: u64,
    pub(crate) end_data: u64,
    pub(crate) start_brk: u64,
    pub(crate) arg_start: u64,
    pub(crate) arg_end: u64,
    pub(crate) env_start: u64,
    pub(crate) env_end: u64,
    /// Of a zombie, as `wait(2)` has it.
    pub(crate) exit_status: i32,
}

/// `/proc/PID/status`. Ids of processes are those inside, where the field has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) name: String,
    pub(crate) pid: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    pub(crate) tracer: i32,
    pub(crate) umask: u32,
    pub(crate) users: [u32; 4],
    pub(crate) groups: [u32; 4],
    pub(crate) supplementary: Vec<u32>,
    /// Inheritable, permitted, effective, bounding, ambient.
    pub(crate) capabilities: [u64; 5],
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp_mode: u32,
    pub(crate) ignored: u64,
    pub(crate) caught: u64,
    pub(crate) locked_kib: u64,
}

/// A line of `/proc/PID/maps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MapLine {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// `rwxp` or `rwxs`.
    pub(crate) permissions: [u8; 4],
    pub(crate) offset: u64,
    pub(crate) path: String,
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{what} is not as expected"),
    )
}

fn number<T: FromStr>(word: Option<&str>, what: &str) -> io::Result<T> {
    word.and_then(|word| word.parse().ok())
        .ok_or_else(|| invalid(what))
}

impl Stat {
    pub(crate) fn parse(text: &str) -> io::Result<Self> {
        // The name may hold anything, parentheses included.
        let rest = text.rsplit_once(')').ok_or_else(|| invalid("stat"))?.1;
        let words: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Numbers as in proc_pid_stat(5); the third field is the first here.
        let word = |field: usize| words.get(field - 3).copied();
        let address = |field| number(word(field), "stat");
        Ok(Self {
            state: word(3)
                .and_then(|word| word.chars().next())
                .ok_or_else(|| invalid("stat"))?,
            parent: number(word(4), "stat")?,
            terminal: number::<i32>(word(7), "stat")?.cast_unsigned(),
            exit_signal: number(word(38), "stat")?,
            start_code: address(26)?,
            end_code: address(27)?,
            start_stack: address(28)?,
            start_data: address(45)?,
            end_data: address(46)?,
            start_brk: address(47)?,
            arg_start: address(48)?,
            arg_end: address(49)?,
            env_start: address(50)?,
            env_end: address(51)?,
            exit_status: number(word(52), "stat")?,
        })
    }
}

impl Status {
    pub(crate) fn parse(text: &str) -> io::Result<Self> {
        let mut status = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            let value = value.trim();
            let innermost = || number(value.split_ascii_whitespace().last(), key);
            let hexadecimal = || u64::from_str_radix(value, 16).map_err(|_| invalid(key));
            match key {
                "Name" => value.clone_into(&mut status.name),
                "Umask" => {
                    status.umask = u32::from_str_radix(value, 8).map_err(|_| invalid(key))?;
                }
                "TracerPid" => status.tracer = number(Some(value), key)?,
                "Uid" => status.users = four(value)?,
                "Gid" => status.groups = four(value)?,
                "Groups" => {
                    status.supplementary = value
                        .split_ascii_whitespace()
                        .map(|word| number(Some(word), key))
                        .collect::<io::Result<_>>()?;
                }
                "NSpid" => status.pid = innermost()?,
                "NSpgid" => status.group = innermost()?,
                "NSsid" => status.session = innermost()?,
                "VmLck" => {
                    status.locked_kib = number(value.split_ascii_whitespace().next(), key)?;
                }
                "SigIgn" => status.ignored = hexadecimal()?,
                "SigCgt" => status.caught = hexadecimal()?,
                "CapInh" => status.capabilities[0] = hexadecimal()?,
                "CapPrm" => status.capabilities[1] = hexadecimal()?,
                "CapEff" => status.capabilities[2] = hexadecimal()?,
                "CapBnd" => status.capabilities[3] = hexadecimal()?,
                "CapAmb" => status.capabilities[4] = hexadecimal()?,
                "NoNewPrivs" => status.no_new_privileges = value == "1",
                "Seccomp" => status.seccomp_mode = number(Some(value), key)?,
                _ => {}
            }
        }
        Ok(status)
    }
}

fn four(value: &str) -> io::Result<[u32; 4]> {
    let mut words = value.split_ascii_whitespace();
    let mut numbers = [0; 4];
    for slot in &mut numbers {
        *slot = number(words.next(), "an id")?;
    }
    Ok(numbers)
}

impl MapLine {
    pub(crate) fn parse(line: &str) -> io::Result<Self> {
        let mut rest = line;
        let mut word = || {
            let (word, left) = rest.split_once(' ').unwrap_or((rest, ""));
            rest = left;
            word
        };
        let (range, permissions, offset) = (word(), word(), word());
        let (_device, _inode) = (word(), word());
        let (start, end) = range.split_once('-').ok_or_else(|| invalid("maps"))?;
        let address = |text| u64::from_str_radix(text, 16).map_err(|_| invalid("maps"));
        Ok(Self {
            start: address(start)?,
            end: address(end)?,
            permissions: permissions
                .as_bytes()
                .try_into()
                .map_err(|_| invalid("maps"))?,
            offset: address(offset)?,
            // The kernel writes a line break in a name as its octal number.
            path: rest.trim_start().replace("\\012", "\n"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_read() {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap();
        let stat = Stat::parse(&read("stat")).unwrap();
        assert!(stat.start_code < stat.end_code && stat.arg_start < stat.arg_end);
        let status = Status::parse(&read("status")).unwrap();
        assert_eq!(status.pid, std::process::id().cast_signed());
        let maps = read("maps");
        let lines = maps
            .lines()
            .map(|line| MapLine::parse(line).unwrap())
            .collect::<Vec<_>>();
        assert!(lines.iter().any(|line| line.path == "[stack]"));
        assert!(lines.windows(2).all(|two| two[0].end <= two[1].start));
    }

    #[test]
    fn names_may_hold_spaces_and_parentheses() {
        let line = "7f0000000000-7f0000001000 rw-s 00002000 00:01 77 /a b) (c\\012d";
        let map = MapLine::parse(line).unwrap();
        assert_eq!((map.offset, map.path.as_str()), (0x2000, "/a b) (c\nd"));
        let mut text = "7 (x) y) Z 1 2 3 0".to_owned();
        for field in 8..=52 {
            text.push_str(&format!(" {field}"));
        }
        let stat = Stat::parse(&text).unwrap();
        assert_eq!((stat.state, stat.parent, stat.exit_status), ('Z', 1, 52));
        assert!(Stat::parse("7 (x) Z 1").is_err());
    }
}
