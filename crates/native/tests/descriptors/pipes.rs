//! Pipes and FIFOs.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

use super::harness::{Case, held, put, refused, take};

pub(crate) const CASES: &[Case] = &[
    ("a_pipe_keeps_content_size_and_flags", content),
    ("a_pipe_keeps_its_packets", packets),
    ("a_pipe_without_writer_ends_after_its_content", no_writer),
    ("a_pipe_without_reader_is_broken", no_reader),
    ("a_pipe_that_leads_outside_is_refused", outside),
    ("a_fifo_keeps_its_content", fifo),
    ("a_full_pipe", full),
];

fn content() {
    held(
        || {
            let (reader, writer) = pipe_with(PipeFlags::empty()).unwrap();
            fcntl_setpipe_size(&writer, 256 << 10).unwrap();
            rustix::io::write(&writer, b"held").unwrap();
            rustix::fs::fcntl_setfl(&reader, OFlags::NONBLOCK).unwrap();
            put(100, reader);
            put(101, writer);
        },
        || {
            let (mut reader, mut writer) = (File::from(take(100)), File::from(take(101)));
            assert_eq!(fcntl_getpipe_size(&reader).unwrap(), 256 << 10);
            let flags = |file: &File| rustix::fs::fcntl_getfl(file).unwrap();
            assert!(flags(&reader).contains(OFlags::NONBLOCK));
            assert!(!flags(&writer).contains(OFlags::NONBLOCK));
            writer.write_all(b" and more").unwrap();
            drop(writer);
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            assert_eq!(text, "held and more");
        },
    );
}

fn packets() {
    held(
        || {
            let (reader, writer) = pipe_with(PipeFlags::DIRECT).unwrap();
            rustix::io::write(&writer, b"one").unwrap();
            rustix::io::write(&writer, b"two").unwrap();
            put(100, reader);
            put(101, writer);
        },
        || {
            let mut reader = File::from(take(100));
            let mut buffer = [0; 16];
            for word in ["one", "two"] {
                let length = reader.read(&mut buffer).unwrap();
                assert_eq!(&buffer[..length], word.as_bytes());
            }
            let writer = take(101);
            assert!(
                rustix::fs::fcntl_getfl(&writer)
                    .unwrap()
                    .contains(OFlags::DIRECT)
            );
        },
    );
}

fn no_writer() {
    held(
        || {
            let (reader, writer) = pipe_with(PipeFlags::empty()).unwrap();
            rustix::io::write(&writer, b"last").unwrap();
            put(100, reader);
        },
        || {
            let mut text = String::new();
            File::from(take(100)).read_to_string(&mut text).unwrap();
            assert_eq!(text, "last");
        },
    );
}

fn no_reader() {
    held(
        || {
            let (_, writer) = pipe_with(PipeFlags::empty()).unwrap();
            put(100, writer);
        },
        || {
            let error = File::from(take(100)).write(b"x").unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
        },
    );
}

fn outside() {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let reason = refused(|| put(100, writer.try_clone().unwrap()));
    assert!(reason.contains("outside"), "{reason}");
    drop((reader, writer));
}

fn fifo() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    held(
        || {
            let both = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .unwrap();
            let reader = rustix::fs::open(&path, OFlags::RDONLY, Mode::empty()).unwrap();
            let writer = rustix::fs::open(&path, OFlags::WRONLY, Mode::empty()).unwrap();
            rustix::io::write(&writer, b"held").unwrap();
            put(100, reader);
            put(101, writer);
            drop(both);
        },
        || {
            drop(take(101));
            let mut text = String::new();
            File::from(take(100)).read_to_string(&mut text).unwrap();
            assert_eq!(text, "held");
        },
    );
}

fn full() {
    let content: Vec<u8> = (0..=255).cycle().take(64 << 10).collect();
    held(
        || {
            let (reader, writer) = pipe_with(PipeFlags::NONBLOCK).unwrap();
            let mut written = 0;
            while let Ok(length) = rustix::io::write(&writer, &content[written..]) {
                written += length;
                if written == content.len() {
                    break;
                }
            }
            assert_eq!(written, content.len());
            put(100, reader);
            put(101, writer);
        },
        || {
            let writer = take(101);
            assert_eq!(
                rustix::io::write(&writer, b"x"),
                Err(rustix::io::Errno::AGAIN)
            );
            drop(writer);
            let mut bytes = Vec::new();
            File::from(take(100)).read_to_end(&mut bytes).unwrap();
            assert!(bytes == content);
        },
    );
}
