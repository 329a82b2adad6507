//! Output that comes faster than it is read.

use std::time::{Duration, Instant};

use fermata_protocol::agent::{OutputChunk, Stream};
use fermata_runtime::OutputFrom;

use crate::support::{Agent, LONG};

/// What the agent keeps of a stream by default, and what lies in the pipe and in its hands besides.
const KEPT_BYTES: u64 = 16 << 20;
const ON_THE_WAY_BYTES: u64 = 1 << 20;
/// How long a reader counts as present after a read, and longer than that.
const PRESENT: Duration = Duration::from_secs(10);
const GONE: Duration = Duration::from_secs(15);
const LINES: u64 = 1_200_000;
const LINE_BYTES: usize = 100;
const ALL_BYTES: u64 = LINES * LINE_BYTES as u64;

/// Numbered lines from one process, whose pid is the started one's.
async fn start_flood(agent: &Agent) -> i32 {
    agent
        .start(&["seq", "-f", "%099.0f", "1", &LINES.to_string()])
        .await
}

/// The process has written this much since it was started (proc(5), `/proc/PID/io`).
fn written_bytes(pid: i32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    let line = io.lines().find(|line| line.starts_with("wchar")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Looks again and again until it is so.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Until nothing more fits, if only `read_bytes` were read.
async fn written_in_vain(pid: i32, read_bytes: u64) {
    let full = read_bytes + KEPT_BYTES;
    eventually("the buffer is full", || written_bytes(pid) >= full).await;
    assert!(written_bytes(pid) <= full + ON_THE_WAY_BYTES);
}

async fn read(agent: &Agent, pid: i32, from: OutputFrom, max_bytes: u64) -> OutputChunk {
    let read = agent
        .client
        .read_output(pid, Stream::Stdout, from, max_bytes, LONG);
    read.await.unwrap()
}

/// Follows the lines, whatever the pieces in which they come.
#[derive(Default)]
struct Lines {
    last: u64,
    rest: Vec<u8>,
}

impl Lines {
    fn check(&mut self, data: &[u8]) {
        self.rest.extend_from_slice(data);
        let lines = self.rest.chunks_exact(LINE_BYTES);
        let rest = lines.remainder().to_vec();
        for line in lines {
            self.last += 1;
            assert_eq!(line, format!("{:099}\n", self.last).as_bytes());
        }
        self.rest = rest;
    }
}

#[tokio::test]
async fn a_reader_however_slow_gets_every_byte_in_order_and_the_program_waits_for_it() {
    let agent = Agent::spawn();
    let pid = start_flood(&agent).await;
    let mut lines = Lines::default();
    let mut read_bytes = 0;
    for number in 0.. {
        let from = OutputFrom::Cursor {
            name: "slow".to_owned(),
            request_id: number.to_string(),
        };
        let chunk = read(&agent, pid, from, 1 << 20).await;
        assert_eq!(chunk.dropped_bytes, 0);
        // The answer may have to be repeated, so it does not count as read yet.
        if number % 32 == 31 && ALL_BYTES > read_bytes + KEPT_BYTES + ON_THE_WAY_BYTES {
            written_in_vain(pid, read_bytes).await;
            // A capture closes the connections.
            drop(agent.client.suspend().await);
        }
        lines.check(&chunk.data);
        read_bytes += u64::try_from(chunk.data.len()).unwrap();
        if chunk.end {
            break;
        }
    }
    assert_eq!((lines.last, read_bytes), (LINES, ALL_BYTES));
    assert_eq!(agent.wait(pid).await.exit_code, 0);
    assert!(
        agent.memory_kib("VmHWM") < 40 << 10,
        "peak of {} KiB",
        agent.memory_kib("VmHWM")
    );
}

#[tokio::test]
async fn readers_at_offsets_wait_for_the_slower_one() {
    let agent = Agent::spawn();
    let pid = start_flood(&agent).await;
    // Both are there before anything could be dropped.
    let (mut slow, mut fast) = (1, 0);
    read(&agent, pid, OutputFrom::Offset(0), slow).await;
    while slow < 3 * KEPT_BYTES {
        while fast < slow + KEPT_BYTES / 2 {
            let chunk = read(&agent, pid, OutputFrom::Offset(fast), 4 << 20).await;
            assert_eq!(chunk.offset, fast);
            fast += u64::try_from(chunk.data.len()).unwrap();
        }
        let chunk = read(&agent, pid, OutputFrom::Offset(slow), 1 << 20).await;
        assert_eq!(chunk.offset, slow);
        slow += u64::try_from(chunk.data.len()).unwrap();
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_holds_the_program_for_a_while_and_nobody_is_busy() {
    let agent = Agent::spawn();
    let pid = start_flood(&agent).await;
    read(&agent, pid, OutputFrom::Offset(0), 1).await;
    written_in_vain(pid, 0).await;
    let (since, busy) = (Instant::now(), agent.busy_ticks());
    let state = agent.client.wait(pid, PRESENT + LONG).await.unwrap();
    assert_eq!((state.running, state.exit_code), (false, 0));
    let held = since.elapsed();
    assert!(
        held > PRESENT / 2 && held < PRESENT + LONG,
        "held for {held:?}"
    );
    // 100 a second; taking the rest of the output is among them.
    let ticks = agent.busy_ticks() - busy;
    assert!(ticks < 500, "{ticks} ticks");
    let chunk = read(&agent, pid, OutputFrom::Offset(1), 1).await;
    assert_eq!(chunk.offset, ALL_BYTES - KEPT_BYTES);
}

#[tokio::test]
async fn a_writer_that_hangs_up_while_it_is_held_back_costs_nothing_and_is_read_to_its_end() {
    const WRITTEN: u64 = KEPT_BYTES + 30_000;
    let agent = Agent::spawn();
    // The program itself ends at once, and what it left behind fills buffer and pipe, and ends too.
    let script = format!("head -c {WRITTEN} /dev/zero & echo $! >&2");
    let pid = agent.sh(&script).await;
    read(&agent, pid, OutputFrom::Offset(0), 1).await;
    let from = OutputFrom::Offset(0);
    let writer = agent
        .client
        .read_output(pid, Stream::Stderr, from, 0, LONG)
        .await
        .unwrap();
    let writer = String::from_utf8(writer.data.to_vec()).unwrap();
    let gone = format!("/proc/{}", writer.trim());
    eventually("the writer has ended", || {
        !std::path::Path::new(&gone).exists()
    })
    .await;
    let busy = agent.busy_ticks();
    let since = Instant::now();
    // Looked at while time passes: a loop that spins would take all of it.
    eventually("half a second has passed", || {
        since.elapsed() > Duration::from_millis(500)
    })
    .await;
    let ticks = agent.busy_ticks() - busy;
    assert!(ticks < 20, "{ticks} ticks");
    let mut offset = 1;
    loop {
        let chunk = read(&agent, pid, OutputFrom::Offset(offset), 0).await;
        assert_eq!(chunk.offset, offset);
        offset += u64::try_from(chunk.data.len()).unwrap();
        if chunk.end {
            break;
        }
    }
    assert_eq!(offset, WRITTEN);
}

#[tokio::test]
async fn a_program_that_is_held_back_can_be_ended_and_its_output_stays() {
    let agent = Agent::spawn();
    let pid = start_flood(&agent).await;
    read(&agent, pid, OutputFrom::Offset(0), 1).await;
    written_in_vain(pid, 0).await;
    let written = written_bytes(pid);
    agent.client.signal(pid, 9).await.unwrap();
    assert_eq!(agent.wait(pid).await.exit_code, 128 + 9);
    // Also what lay in the pipe.
    let output = agent.output(pid, Stream::Stdout).await;
    assert!(u64::try_from(output.len()).unwrap() >= written);
}

#[tokio::test]
async fn standing_still_makes_no_reader_go_away() {
    let agent = Agent::spawn();
    let pid = start_flood(&agent).await;
    let first = read(&agent, pid, OutputFrom::Offset(0), 1 << 20).await;
    written_in_vain(pid, 0).await;
    // As a capture does, for longer than a reader may be silent.
    agent.signal(rustix::process::Signal::STOP);
    tokio::time::sleep(GONE).await;
    agent.signal(rustix::process::Signal::CONT);
    let next = u64::try_from(first.data.len()).unwrap();
    let chunk = read(&agent, pid, OutputFrom::Offset(next), 1).await;
    assert_eq!((chunk.offset, chunk.dropped_bytes), (next, 0));
}

#[tokio::test]
async fn only_the_stream_that_is_read_is_held_back() {
    let agent = Agent::spawn();
    let script = "head -c 100000000 /dev/zero >&2; echo done";
    let pid = agent.sh(script).await;
    // Stderr waits for nobody after its first second.
    assert_eq!(agent.stdout(pid).await, "done\n");
    let from = OutputFrom::Offset(0);
    let stderr = agent
        .client
        .read_output(pid, Stream::Stderr, from, 1, LONG)
        .await
        .unwrap();
    assert_eq!(stderr.offset, 100_000_000 - KEPT_BYTES);
}
