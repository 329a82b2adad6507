//! Capturing processes that run on.

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};

    use fermata_native::capture::Seized;
    use fermata_native::image::{Backing, Image, State};
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    /// A Python program that is asked and answers by lines. Nothing of this test is open in it while it waits.
    struct Guest {
        child: Child,
        directory: tempfile::TempDir,
    }

    impl Guest {
        fn start(program: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            for name in ["questions", "answers"] {
                let path = directory.path().join(name);
                mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
            }
            let child = Command::new("python3")
                .args(["-c", program])
                .current_dir(directory.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let guest = Self { child, directory };
            assert_eq!(guest.answer(), "ready");
            guest
        }

        fn answer(&self) -> String {
            fs::read_to_string(self.directory.path().join("answers")).unwrap()
        }

        fn ask(&self, question: &str) -> String {
            fs::write(self.directory.path().join("questions"), question).unwrap();
            self.answer()
        }

        fn pid(&self) -> i32 {
            self.child.id().cast_signed()
        }
    }

    impl Drop for Guest {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    const GUEST: &str = "
import os, signal, threading
# What this test was started with by accident is not its own.
os.closerange(3, 65536)
def answer(*words):
    with open('answers', 'w') as answers:
        print(*words, end='', file=answers)
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 1000, 5)
data = bytearray(b'fermata!' * (4 << 20 >> 3))
threading.Thread(target=threading.Event().wait, daemon=True).start()
answer('ready')
while True:
    with open('questions') as questions:
        line = questions.read()
    data[0] += 1
    answer(line, data[0], threading.active_count())
";

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
