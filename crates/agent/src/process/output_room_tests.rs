use proptest::prelude::*;

use super::*;

/// Of the readers in the property below. All of them read often enough to count as present.
#[derive(Debug, Clone, Copy)]
enum Who {
    Cursor,
    Text,
    Offset,
}

#[derive(Debug, Clone)]
enum Step {
    Write(usize),
    Read(Who, usize),
    Repeat,
    Wait(Duration),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = prop_oneof![Just(Who::Cursor), Just(Who::Text), Just(Who::Offset)];
    let step = prop_oneof![
        4 => (0_usize..100_000).prop_map(Step::Write),
        4 => (who, 4_usize..100_000).prop_map(|(who, max)| Step::Read(who, max)),
        1 => Just(Step::Repeat),
        1 => (0_u64..300).prop_map(|millis| Step::Wait(Duration::from_millis(millis))),
    ];
    // So few that all waits together are shorter than a reader's absence may be.
    prop::collection::vec(step, 1..30)
}

fn output(limit: usize, now: Instant) -> Output {
    Output::new(limit, Arc::new(Budget::new(usize::MAX)), now)
}

/// What was written, as numbered bytes that tell their place and are text.
fn written(from: u64, length: usize) -> Vec<u8> {
    let letter = |place| b'0' + u8::try_from(place % 71).unwrap();
    (from..).take(length).map(letter).collect()
}

/// Appends as much as there is room for, as the owner of the pipe does; gives how much that was.
fn write(output: &mut Output, length: usize, now: Instant) -> usize {
    let taken = length.min(output.room(now).unwrap_or(usize::MAX));
    output.append(&written(output.end, taken), now);
    taken
}

fn read(
    output: &mut Output,
    who: Who,
    place: u64,
    request_id: &str,
    max: usize,
    now: Instant,
) -> Option<Piece> {
    let name = "reader";
    let from = match who {
        Who::Cursor => From::Cursor { name, request_id },
        Who::Text => From::TextCursor {
            name: "text",
            request_id,
        },
        Who::Offset => From::Offset(place),
    };
    output.read(from, max, now, now).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever is written and read in whatever order: who reads gets every byte, in order, and the writer can go on once
    /// everybody has read.
    #[test]
    fn present_readers_lose_nothing(limit in prop_oneof![1_usize..100, 1_usize..300_000], steps in steps()) {
        let mut now = Instant::now();
        let mut output = output(limit, now);
        let mut places = [0_u64; 3];
        let mut last = None;
        // All are there from the first.
        for who in [Who::Cursor, Who::Text, Who::Offset] {
            read(&mut output, who, 0, "first", 4, now);
        }
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Write(length) => { write(&mut output, length, now); }
                Step::Wait(pause) => now += pause,
                Step::Read(who, max) => {
                    let place = &mut places[who as usize];
                    let request_id = number.to_string();
                    if let Some(piece) = read(&mut output, who, *place, &request_id, max, now) {
                        prop_assert_eq!((piece.offset, piece.dropped_bytes), (*place, 0));
                        prop_assert_eq!(&piece.data[..], &written(*place, piece.data.len())[..]);
                        *place += piece.data.len() as u64;
                        if matches!(who, Who::Cursor) {
                            last = Some((request_id, piece));
                        }
                    } else {
                        prop_assert_eq!(*place, output.end);
                        // A new question says that the last answer has arrived.
                        if matches!(who, Who::Cursor) {
                            last = None;
                        }
                    }
                }
                Step::Repeat => if let Some((request_id, piece)) = &last {
                    let again = read(&mut output, Who::Cursor, 0, request_id, 1, now);
                    prop_assert_eq!(again.as_ref(), Some(piece));
                }
            }
            let held: u64 = output.chunks.iter().map(|chunk| chunk.len() as u64).sum();
            prop_assert!(held <= (limit + CHUNK_BYTES) as u64);
        }
        for who in [Who::Cursor, Who::Text, Who::Offset] {
            for round in ["last", "nothing"] {
                let place = &mut places[who as usize];
                if let Some(piece) = read(&mut output, who, *place, round, usize::MAX, now) {
                    prop_assert_eq!(piece.dropped_bytes, 0);
                    *place += piece.data.len() as u64;
                }
            }
            prop_assert_eq!(places[who as usize], output.end);
        }
        prop_assert_eq!(output.room(now), Some(limit));
        prop_assert!(output.has_room_again(now));
    }

    /// Without readers there is always room, and the newest is kept.
    #[test]
    fn unread_output_never_stops_its_writer(limit in 0_usize..300_000, writes in prop::collection::vec(0_usize..200_000, 1..20)) {
        let now = Instant::now() + EXPECTED_AFTER_START;
        let mut output = output(limit, now - EXPECTED_AFTER_START);
        for length in writes {
            prop_assert_eq!(output.room(now), None);
            prop_assert_eq!(write(&mut output, length, now), length);
        }
        let kept = output.end.min(limit as u64);
        prop_assert_eq!(output.start, output.end - kept);
    }
}

#[test]
fn the_beginning_is_kept_for_a_moment_for_whoever_started_the_process() {
    let now = Instant::now();
    let mut output = output(100, now);
    assert_eq!(write(&mut output, 150, now), 100);
    assert_eq!(output.room(now), Some(0));
    let soon = now + EXPECTED_AFTER_START;
    assert_eq!(output.next_departure(now), Some(soon));
    assert_eq!(output.room(soon), None);
}

#[test]
fn a_reader_that_went_away_stops_the_writer_only_for_a_while() {
    let now = Instant::now();
    let mut output = output(100, now);
    write(&mut output, 60, now);
    read(&mut output, Who::Cursor, 0, "1", 20, now);
    assert_eq!(write(&mut output, 100, now), 40);
    assert!(output.is_awaited(now));
    let gone = now + PRESENT_AFTER_READ;
    assert_eq!(output.next_departure(now), Some(gone));
    assert_eq!(write(&mut output, 100, gone), 100);
    assert!(!output.is_awaited(gone));
    // It comes back, is told what it missed, and counts again.
    let piece = read(&mut output, Who::Cursor, 0, "2", 10, gone).unwrap();
    assert_eq!((piece.offset, piece.dropped_bytes), (100, 80));
    assert_eq!(write(&mut output, 100, gone), 0);
}

#[test]
fn a_reader_that_waits_for_output_is_there_however_long_it_waits() {
    let now = Instant::now();
    let mut output = output(100, now);
    let deadline = now + Duration::from_secs(3600);
    let waiting = output.read(From::Offset(0), 10, now, deadline).unwrap();
    assert_eq!(waiting, None);
    assert_eq!(write(&mut output, 150, deadline), 100);
    let piece = output
        .read(From::Offset(0), 10, deadline, deadline)
        .unwrap();
    assert_eq!(piece.unwrap().dropped_bytes, 0);
}

#[test]
fn who_gives_up_waiting_is_gone_soon() {
    let now = Instant::now();
    let mut output = output(100, now);
    let deadline = now + Duration::from_secs(3600);
    output.read(From::Offset(0), 10, now, deadline).unwrap();
    output.give_up(From::Offset(0), now);
    assert_eq!(output.room(now + PRESENT_AFTER_READ), None);
}

#[test]
fn what_an_ended_process_left_in_its_pipe_takes_nothing_from_a_reader() {
    let now = Instant::now();
    let mut output = output(100, now);
    write(&mut output, 100, now);
    output.append(&written(100, 70), now);
    output.finish();
    let piece = read(&mut output, Who::Cursor, 0, "1", 999, now).unwrap();
    assert_eq!(
        (
            piece.offset,
            piece.dropped_bytes,
            piece.data.len(),
            piece.end
        ),
        (0, 0, 170, true)
    );
    assert!(!output.is_awaited(now));
}

#[test]
fn a_stopped_writer_goes_on_when_it_is_worth_while() {
    let now = Instant::now();
    let mut output = output(100, now);
    write(&mut output, 100, now);
    read(&mut output, Who::Cursor, 0, "1", 24, now);
    read(&mut output, Who::Cursor, 0, "2", 1, now);
    assert_eq!(output.room(now), Some(24));
    assert!(!output.has_room_again(now));
    read(&mut output, Who::Cursor, 0, "3", 1, now);
    assert!(output.has_room_again(now));
}

#[test]
fn discarded_output_is_waited_for_by_nobody() {
    let now = Instant::now();
    let mut output = output(100, now);
    write(&mut output, 100, now);
    output.discard();
    assert_eq!(output.room(now), None);
    output.read(From::Offset(0), 10, now, now).unwrap();
    assert_eq!(output.room(now), None);
}

#[test]
fn streams_wait_for_their_readers_also_while_all_together_hold_too_much() {
    let now = Instant::now();
    let budget = Arc::new(Budget::new(SQUEEZED_BYTES));
    let mut output = Output::new(4 * SQUEEZED_BYTES, budget, now);
    assert_eq!(
        write(&mut output, 3 * SQUEEZED_BYTES, now),
        3 * SQUEEZED_BYTES
    );
    assert_eq!(output.room(now), Some(0));
    let first = output.read(From::Offset(0), usize::MAX, now, now).unwrap();
    assert_eq!(first.unwrap().dropped_bytes, 0);
    let end = bytes_u64(3 * SQUEEZED_BYTES);
    output.read(From::Offset(end), 1, now, now).unwrap();
    assert_eq!(output.room(now), Some(SQUEEZED_BYTES));
}
