//! A program to capture.

use std::fs;
use std::process::{Child, Command, Stdio};

use rustix::fs::{CWD, FileType, Mode, mknodat};

/// A Python program that is asked and answers by lines. Nothing of this test is open in it while it waits.
pub(crate) struct Guest {
    child: Child,
    directory: tempfile::TempDir,
}

impl Guest {
    pub(crate) fn start(program: &str) -> Self {
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

    pub(crate) fn answer(&self) -> String {
        fs::read_to_string(self.directory.path().join("answers")).unwrap()
    }

    pub(crate) fn ask(&self, question: &str) -> String {
        fs::write(self.directory.path().join("questions"), question).unwrap();
        self.answer()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) const GUEST: &str = "
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
