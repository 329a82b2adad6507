use proptest::prelude::*;

use super::*;

/// Long after its process was started: nobody is expected to read.
fn output(limit: usize) -> Output {
    with_budget(limit, Arc::new(Budget::new(usize::MAX)))
}

fn with_budget(limit: usize, budget: Arc<Budget>) -> Output {
    Output::with_readers(limit, budget, Readers::default())
}

/// Writes as if all readers were gone.
fn append(output: &mut Output, data: &[u8]) {
    output.append(data, Instant::now() + 2 * PRESENT_AFTER_READ);
}

fn read(output: &mut Output, from: From<'_>, max: usize) -> Result<Option<Piece>, Refusal> {
    let now = Instant::now();
    output.read(from, max, now, now)
}

fn at(output: &mut Output, offset: u64, max: usize) -> Option<Piece> {
    read(output, From::Offset(offset), max).unwrap()
}

fn next(output: &mut Output, name: &str, request_id: &str, max: usize) -> Option<Piece> {
    read(output, From::Cursor { name, request_id }, max).unwrap()
}

fn piece(offset: u64, data: &'static [u8], dropped_bytes: u64, end: bool) -> Piece {
    Piece {
        offset,
        data: Bytes::from_static(data),
        dropped_bytes,
        end,
    }
}

/// What was written, as numbered bytes that tell their place.
fn written(from: u64, length: usize) -> Vec<u8> {
    (from..)
        .take(length)
        .map(|place| u8::try_from(place % 251).unwrap())
        .collect()
}

#[test]
fn readers_at_offsets_do_not_disturb_each_other() {
    let mut output = output(10);
    assert_eq!(at(&mut output, 0, 10), None);
    append(&mut output, b"abcdef");
    assert_eq!(at(&mut output, 2, 2), Some(piece(2, b"cd", 0, false)));
    assert_eq!(at(&mut output, 0, 99), Some(piece(0, b"abcdef", 0, false)));
    assert_eq!(at(&mut output, 6, 99), None);
    append(&mut output, b"ghijkl");
    assert_eq!(at(&mut output, 0, 3), Some(piece(2, b"cde", 2, false)));
    output.finish();
    assert_eq!(at(&mut output, 10, 9), Some(piece(10, b"kl", 0, true)));
    assert_eq!(at(&mut output, 12, 9), Some(piece(12, b"", 0, true)));
}

#[test]
fn a_repeated_request_gets_the_same_bytes_and_a_new_one_the_next() {
    let mut output = output(100);
    append(&mut output, b"abc");
    assert_eq!(
        next(&mut output, "x", "1", 99),
        Some(piece(0, b"abc", 0, false))
    );
    append(&mut output, b"def");
    assert_eq!(
        next(&mut output, "x", "1", 99),
        Some(piece(0, b"abc", 0, false))
    );
    assert_eq!(
        next(&mut output, "y", "1", 99),
        Some(piece(0, b"abcdef", 0, false))
    );
    assert_eq!(
        next(&mut output, "x", "2", 2),
        Some(piece(3, b"de", 0, false))
    );
    // Without an id nothing can be a repetition.
    assert_eq!(
        next(&mut output, "x", "", 1),
        Some(piece(5, b"f", 0, false))
    );
    assert_eq!(next(&mut output, "x", "", 1), None);
    output.finish();
    assert_eq!(next(&mut output, "x", "4", 1), Some(piece(6, b"", 0, true)));
}

#[test]
fn a_request_that_got_nothing_may_get_more_when_it_is_repeated() {
    let mut output = output(100);
    assert_eq!(next(&mut output, "x", "1", 99), None);
    append(&mut output, b"abc");
    assert_eq!(
        next(&mut output, "x", "1", 99),
        Some(piece(0, b"abc", 0, false))
    );
}

#[test]
fn a_cursor_is_told_what_it_missed() {
    let mut output = output(4);
    append(&mut output, b"abcdef");
    assert_eq!(
        next(&mut output, "x", "1", 99),
        Some(piece(2, b"cdef", 2, false))
    );
    append(&mut output, b"ghijkl");
    assert_eq!(
        next(&mut output, "x", "2", 99),
        Some(piece(8, b"ijkl", 2, false))
    );
}

#[test]
fn discarded_output_is_gone_and_what_comes_later_too() {
    let budget = Arc::new(Budget::new(100));
    let mut output = with_budget(100, Arc::clone(&budget));
    append(&mut output, b"abc");
    output.discard();
    assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    append(&mut output, b"def");
    output.finish();
    assert_eq!(at(&mut output, 0, 9), Some(piece(6, b"", 6, true)));
}

#[test]
fn too_many_cursors_are_refused() {
    let mut output = output(10);
    append(&mut output, b"a");
    for number in 0..MAX_CURSORS {
        next(&mut output, &number.to_string(), "", 9).unwrap();
    }
    let more = From::Cursor {
        name: "more",
        request_id: "",
    };
    let refused = read(&mut output, more, 9);
    assert_eq!(refused.unwrap_err().kind, Kind::ResourceExhausted);
}

#[test]
fn streams_are_squeezed_while_all_together_hold_too_much() {
    let budget = Arc::new(Budget::new(2 * SQUEEZED_BYTES));
    let mut outputs: Vec<_> = (0..3)
        .map(|_| with_budget(4 * SQUEEZED_BYTES, Arc::clone(&budget)))
        .collect();
    for output in &mut outputs {
        for _ in 0..64 {
            append(output, &[7; SQUEEZED_BYTES / 16]);
        }
    }
    assert!(budget.used.load(Ordering::Relaxed) < 5 * SQUEEZED_BYTES);
    drop(outputs);
    assert_eq!(budget.used.load(Ordering::Relaxed), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is written and read in whatever portions: a piece holds the very bytes of its offsets, cursors miss
    /// nothing that they are not told of, and memory is bounded.
    #[test]
    fn pieces_are_true(
        limit in prop_oneof![1_usize..100, 1_usize..300_000],
        steps in prop::collection::vec((prop_oneof![0_usize..50, 0_usize..150_000], 0_usize..200_000, any::<bool>()), 1..30),
    ) {
        let budget = Arc::new(Budget::new(usize::MAX));
        let mut output = with_budget(limit, Arc::clone(&budget));
        let mut end = 0;
        let mut cursor = 0;
        for (number, (length, max, repeat)) in steps.into_iter().enumerate() {
            append(&mut output, &written(end, length));
            end += length as u64;
            prop_assert!(budget.used.load(Ordering::Relaxed) <= limit + CHUNK_BYTES);
            let request_id = number.to_string();
            let Some(piece) = next(&mut output, "c", &request_id, max) else {
                prop_assert_eq!(cursor, end);
                continue;
            };
            prop_assert_eq!(piece.offset, cursor + piece.dropped_bytes);
            prop_assert!(piece.dropped_bytes == 0 || piece.offset + limit as u64 == end);
            prop_assert_eq!(&piece.data[..], &written(piece.offset, piece.data.len())[..]);
            prop_assert_eq!(piece.data.len(), max.min(usize::try_from(end - piece.offset).unwrap()));
            cursor = piece.offset + piece.data.len() as u64;
            if repeat && !piece.data.is_empty() {
                let again = next(&mut output, "c", &request_id, 1);
                prop_assert_eq!(again.as_ref().map(|again| &again.data), Some(&piece.data));
            }
            if piece.data.is_empty() {
                // Nothing was handed out, so nothing was passed over either.
                cursor = piece.offset - piece.dropped_bytes;
            }
        }
        drop(output);
        prop_assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }
}
