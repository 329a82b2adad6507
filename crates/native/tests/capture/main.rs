//! Capturing processes that run on.

#[cfg(test)]
mod guest;
#[cfg(test)]
mod hostile;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use fermata_native::NativeError;
    use fermata_native::capture::Seized;
    use fermata_native::image::{Backing, Image, Mapping, State};

    use crate::guest::{GUEST, Guest};

    #[test]
    fn a_process_is_held_and_does_not_notice() {
        let guest = Guest::start(GUEST);
        let before = guest.ask("a");
        assert_eq!(before, "a 103 2");
        let maps = || fs::read_to_string(format!("/proc/{}/maps", guest.pid())).unwrap();
        let maps_before = maps();
        let directory = tempfile::tempdir().unwrap();
        let begin = std::time::Instant::now();
        let seized = Seized::take(guest.pid(), &[guest.pid()]).unwrap();
        let taken = begin.elapsed();
        let held = seized
            .hold(directory.path(), Vec::new(), Path::new("/"))
            .unwrap();
        let read = begin.elapsed();
        seized.let_go();
        let gone = begin.elapsed();
        assert_eq!(maps(), maps_before);
        assert_eq!(guest.ask("b"), "b 104 2");
        held.write(directory.path()).unwrap();
        println!(
            "taken {taken:?} read {read:?} gone {gone:?} written {:?}",
            begin.elapsed()
        );
        assert_eq!(guest.ask("c"), "c 105 2");

        let image = Image::read(directory.path()).unwrap();
        let [process] = image.processes.as_slice() else {
            panic!("{:?}", image.processes);
        };
        assert_eq!(process.pid, guest.pid());
        let State::Alive(alive) = &process.state else {
            panic!("it has not ended");
        };
        assert_eq!(alive.threads.len(), 2);
        assert!(alive.actions.iter().any(|action| action.signal == 10));
        assert_eq!(alive.interval_timers[0].interval_ns, 5_000_000_000);
        assert!(alive.interval_timers[0].remaining_ns > 900_000_000_000);
        assert!(alive.memory.mappings.iter().any(|mapping| matches!(&mapping.backing, Backing::PrivateFile { path, .. } if path.contains("python"))));
        // What the program had at the instant, not what it has written since.
        let pages = fs::read(directory.path().join("pages")).unwrap();
        let found = pages
            .windows(16)
            .filter(|bytes| bytes.ends_with(b"fermata!ferm") && bytes.contains(&b'g'))
            .count();
        assert!(found <= 1);
        assert!(pages.windows(12).any(|bytes| bytes == b"germata!ferm"));
        assert!(pages.len() > 4 << 20);
    }

    /// Locked and guarded memory, and a thread that keeps to a processor.
    const ODD_GUEST: &str = "
import ctypes, mmap, os
os.closerange(3, 65536)
libc = ctypes.CDLL(None)
memory = mmap.mmap(-1, 16 * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.write(b'm' * 16 * 4096)
place = ctypes.addressof(ctypes.c_char.from_buffer(memory))
results = [libc.madvise(ctypes.c_void_p(place + 4 * 4096), 2 * 4096, 102)]
locked = mmap.mmap(-1, 8 * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
place = ctypes.addressof(ctypes.c_char.from_buffer(locked))
results.append(libc.mlock2(ctypes.c_void_p(place), 8 * 4096, 1))
os.sched_setaffinity(0, {0})
with open('answers', 'w') as answers:
    print('ready', end='', file=answers)
while True:
    with open('questions') as questions:
        exec(questions.read())
    with open('answers', 'w') as answers:
        print(results, end='', file=answers)
";

    fn capture(guest: &Guest) -> Result<Image, NativeError> {
        let directory = tempfile::tempdir().unwrap();
        let seized = Seized::take(guest.pid(), &[guest.pid()])?;
        let held = seized.hold(directory.path(), Vec::new(), Path::new("/"))?;
        seized.let_go();
        held.write(directory.path())?;
        Image::read(directory.path())
    }

    #[test]
    fn locked_and_guarded_memory_and_processors_are_held() {
        let guest = Guest::start(ODD_GUEST);
        assert_eq!(guest.ask(""), "[0, 0]");
        let image = capture(&guest).unwrap();
        let (_, alive) = image.living().next().unwrap();
        let mappings = &alive.memory.mappings;
        let guarded: Vec<_> = mappings
            .iter()
            .filter(|mapping| !mapping.guards.is_empty())
            .collect();
        let [mapping] = guarded.as_slice() else {
            panic!("{guarded:?}");
        };
        let [(start, end)] = mapping.guards[..] else {
            panic!("{mapping:?}");
        };
        assert_eq!(end - start, 2 * 4096);
        // Nothing is there to be kept, and all around is.
        assert!(
            mapping
                .pages
                .iter()
                .all(|run| run.start + run.bytes <= start || run.start >= end)
        );
        assert!(
            mapping
                .pages
                .iter()
                .any(|run| run.start + run.bytes == start)
        );
        assert!(mapping.pages.iter().any(|run| run.start == end));
        let locked = |mapping: &&Mapping| {
            mapping.locked == Some(true) && mapping.end - mapping.start == 8 * 4096
        };
        assert_eq!(mappings.iter().filter(locked).count(), 1);
        assert_eq!(alive.threads[0].processors, [1]);
        assert_ne!(alive.memory.vdso_digest, [0; 32]);
    }

    #[test]
    fn memory_that_would_be_lost_is_refused() {
        for (change, reason) in [
            (
                "libc.madvise(ctypes.c_void_p(place), 4096, 18)",
                "is wiped in children",
            ),
            ("libc.mlockall(2)", "it locks all memory that it will have"),
        ] {
            let guest = Guest::start(ODD_GUEST);
            assert_eq!(guest.ask(change), "[0, 0]");
            let error = capture(&guest).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
            assert_eq!(guest.ask(""), "[0, 0]");
        }
    }

    #[test]
    fn what_is_dropped_on_the_way_goes_on() {
        let guest = Guest::start(GUEST);
        drop(Seized::take(guest.pid(), &[guest.pid()]).unwrap());
        assert_eq!(guest.ask("a"), "a 103 2");
        let directory = tempfile::tempdir().unwrap();
        for turn in 0..20_u8 {
            let seized = Seized::take(guest.pid(), &[guest.pid()]).unwrap();
            let into = directory.path().join(turn.to_string());
            fs::create_dir(&into).unwrap();
            drop(seized.hold(&into, Vec::new(), Path::new("/")).unwrap());
            seized.let_go();
            assert_eq!(guest.ask("b"), format!("b {} 2", 104 + turn));
        }
    }

    #[test]
    fn a_stranger_in_the_control_group_is_refused() {
        let guest = Guest::start(GUEST);
        let own = std::process::id().cast_signed();
        let error = Seized::take(guest.pid(), &[guest.pid(), own]).unwrap_err();
        assert!(error.to_string().contains("does not descend"), "{error}");
    }
}
