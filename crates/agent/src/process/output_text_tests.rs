use proptest::prelude::*;

use super::*;

fn output() -> Output {
    Output::new(1000, Arc::new(Budget::new(usize::MAX)), Instant::now())
}

fn next(output: &mut Output, request_id: &str, max: usize) -> Option<Vec<u8>> {
    let name = "text";
    let now = Instant::now();
    let piece = output
        .read(From::TextCursor { name, request_id }, max, now, now)
        .unwrap();
    piece.map(|piece| piece.data.to_vec())
}

#[test]
fn a_character_in_two_writes_is_read_as_one() {
    let mut output = output();
    output.append(b"a\xe2\x82", Instant::now());
    assert_eq!(next(&mut output, "1", 99).unwrap(), b"a");
    assert_eq!(next(&mut output, "2", 99), None);
    output.append(b"\xac", Instant::now());
    assert_eq!(next(&mut output, "3", 99).unwrap(), "€".as_bytes());
    assert_eq!(next(&mut output, "3", 99).unwrap(), "€".as_bytes());
}

#[test]
fn what_the_stream_ends_with_is_read_however_it_ends() {
    let mut output = output();
    output.append(b"a\xe2\x82", Instant::now());
    output.finish();
    assert_eq!(next(&mut output, "1", 99).unwrap(), b"a\xe2\x82");
}

#[test]
fn bytes_that_can_be_no_character_do_not_wait() {
    for bytes in [
        &b"\xff"[..],
        b"\x80\x80\x80",
        b"\xc0",
        b"\xf5\x80",
        b"\xe0\x80",
        b"\xed\xa0",
    ] {
        let mut output = output();
        output.append(bytes, Instant::now());
        assert_eq!(next(&mut output, "1", 99).unwrap(), bytes);
    }
}

#[test]
fn a_portion_smaller_than_a_character_still_moves_on() {
    let mut output = output();
    output.append("€".as_bytes(), Instant::now());
    assert_eq!(next(&mut output, "1", 1).unwrap(), b"\xe2");
}

#[test]
fn a_gap_at_the_end_is_told_once() {
    let mut output = Output::new(0, Arc::new(Budget::new(usize::MAX)), Instant::now());
    output.append(b"abc", Instant::now());
    output.finish();
    let from = |request_id| From::TextCursor {
        name: "text",
        request_id,
    };
    let mut dropped = |request_id| {
        let now = Instant::now();
        let piece = output.read(from(request_id), 99, now, now).unwrap();
        piece.unwrap().dropped_bytes
    };
    assert_eq!(dropped("1"), 3);
    assert_eq!(dropped("1"), 3);
    assert_eq!(dropped("2"), 0);
}

proptest! {
    #[test]
    fn text_is_read_whole_in_whole_characters(text in "\\PC{0,60}", cuts in prop::collection::vec(0_usize..200, 0..8), max in 4_usize..40) {
        let mut output = output();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
        cuts.sort_unstable();
        cuts.push(text.len());
        let mut read = String::new();
        let mut written = 0;
        for (step, cut) in cuts.into_iter().enumerate() {
            output.append(&text.as_bytes()[written..cut], Instant::now());
            written = cut;
            let mut number = 0;
            while let Some(data) = next(&mut output, &format!("{step}.{number}"), max) {
                read.push_str(std::str::from_utf8(&data).unwrap());
                number += 1;
            }
        }
        prop_assert_eq!(read, text);
    }
}
