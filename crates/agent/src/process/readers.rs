//! Who reads a stream, as far as it matters for what must be kept.
//!
//! ```text
//! started ──► expected for 1 s ──► somebody reads: last answer [from, next) ──► gone after 10 s without a read
//! ```
//!
//! Nobody says that they stop reading. Readers at offsets do not say who they are either: who asks for what follows an
//! answer is taken for the one that got it.

use std::time::{Duration, Instant};

/// A reader that asks for nothing for so long is gone. Slow ones work on what they got for a while between two reads.
pub(super) const PRESENT_AFTER_READ: Duration = Duration::from_secs(10);
/// Who starts a process in order to read its output needs a moment to ask for it.
pub(super) const EXPECTED_AFTER_START: Duration = Duration::from_secs(1);
/// More readers at a time than anybody needs; beyond it, who would be taken for gone first is.
const MAX_PRESENT: usize = 64;

#[derive(Debug)]
struct Reader {
    /// `None`: one at offsets.
    name: Option<Box<str>>,
    /// Where the last answer began: until the next one is asked for, it may have to be repeated.
    from: u64,
    next: u64,
    present_until: Instant,
}

/// A read, as far as it tells where its reader is.
#[derive(Debug)]
pub(super) struct Sign<'a> {
    pub(super) name: Option<&'a str>,
    /// Where the reader wanted to begin.
    pub(super) asked: u64,
    /// What it got; an empty range when nothing was there.
    pub(super) from: u64,
    pub(super) next: u64,
    /// How long it will be there at least, also without another read.
    pub(super) present_until: Instant,
}

/// The readers of one stream.
#[derive(Debug, Default)]
pub(super) struct Readers {
    /// Until when the first one is expected, unless it came.
    expected_until: Option<Instant>,
    present: Vec<Reader>,
}

impl Readers {
    pub(super) fn expected_until(until: Instant) -> Self {
        Self {
            expected_until: Some(until),
            present: Vec::new(),
        }
    }

    pub(super) fn note(&mut self, sign: &Sign<'_>, now: Instant) {
        self.expected_until = None;
        self.present.retain(|reader| reader.present_until > now);
        if let Some(index) = self.find(sign) {
            let reader = &mut self.present[index];
            reader.from = sign.from;
            reader.next = sign.next;
            reader.present_until = sign.present_until;
            return;
        }
        if self.present.len() >= MAX_PRESENT {
            let first_to_go = self
                .present
                .iter()
                .enumerate()
                .min_by_key(|(_, reader)| reader.present_until)
                .map(|(index, _)| index);
            first_to_go.map(|index| self.present.swap_remove(index));
        }
        self.present.push(Reader {
            name: sign.name.map(Box::from),
            from: sign.from,
            next: sign.next,
            present_until: sign.present_until,
        });
    }

    /// A reader that has got the end of the stream.
    pub(super) fn leave(&mut self, sign: &Sign<'_>) {
        if let Some(index) = self.find(sign) {
            self.present.swap_remove(index);
        }
        if self.present.is_empty() {
            *self = Self::default();
        }
    }

    fn find(&self, sign: &Sign<'_>) -> Option<usize> {
        self.present
            .iter()
            .position(|reader| match (sign.name, &reader.name) {
                (Some(name), Some(known)) => **known == *name,
                (None, None) => reader.next == sign.asked,
                _ => false,
            })
    }

    /// From where on somebody still needs what was written; `None` when nobody is there.
    pub(super) fn needed_from(&self, now: Instant) -> Option<u64> {
        let expected = self.expected_until.filter(|until| *until > now).map(|_| 0);
        let present = self
            .present
            .iter()
            .filter(|reader| reader.present_until > now)
            .map(|reader| reader.from);
        expected.into_iter().chain(present).min()
    }

    /// When the next reader will be gone if it does not read.
    pub(super) fn next_departure(&self, now: Instant) -> Option<Instant> {
        let present = self.present.iter().map(|reader| reader.present_until);
        self.expected_until
            .into_iter()
            .chain(present)
            .filter(|until| *until > now)
            .min()
    }

    /// Everybody stood still for so long, readers too.
    pub(super) fn postpone(&mut self, pause: Duration) {
        let present = self
            .present
            .iter_mut()
            .map(|reader| &mut reader.present_until);
        for until in self.expected_until.iter_mut().chain(present) {
            *until += pause;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn sign(name: Option<&str>, from: u64, next: u64, present_until: Instant) -> Sign<'_> {
        Sign {
            name,
            asked: from,
            from,
            next,
            present_until,
        }
    }

    #[test]
    fn the_first_reader_is_expected_for_a_while_only() {
        let now = Instant::now();
        let readers = Readers::expected_until(now + SECOND);
        assert_eq!(readers.needed_from(now), Some(0));
        assert_eq!(readers.next_departure(now), Some(now + SECOND));
        assert_eq!(readers.needed_from(now + SECOND), None);
        assert_eq!(readers.next_departure(now + SECOND), None);
    }

    #[test]
    fn what_the_slowest_needs_is_kept_until_it_is_gone() {
        let now = Instant::now();
        let mut readers = Readers::expected_until(now + SECOND);
        readers.note(&sign(Some("slow"), 5, 9, now + SECOND), now);
        readers.note(&sign(Some("fast"), 30, 40, now + 2 * SECOND), now);
        assert_eq!(readers.needed_from(now), Some(5));
        assert_eq!(readers.next_departure(now), Some(now + SECOND));
        assert_eq!(readers.needed_from(now + SECOND), Some(30));
        readers.note(&sign(Some("slow"), 9, 12, now + 2 * SECOND), now);
        assert_eq!(readers.needed_from(now + SECOND), Some(9));
        assert_eq!(readers.needed_from(now + 2 * SECOND), None);
    }

    #[test]
    fn readers_at_offsets_are_known_by_where_they_go_on() {
        let now = Instant::now();
        let until = now + SECOND;
        let mut readers = Readers::default();
        readers.note(&sign(None, 0, 10, until), now);
        readers.note(&sign(None, 10, 20, until), now);
        assert_eq!(readers.needed_from(now), Some(10));
        // Another one reads what the first has read: now there are two.
        readers.note(&sign(None, 10, 15, until), now);
        readers.note(&sign(None, 20, 30, until), now);
        assert_eq!(readers.needed_from(now), Some(10));
        readers.note(&sign(None, 15, 25, until), now);
        assert_eq!(readers.needed_from(now), Some(15));
    }

    #[test]
    fn who_has_read_all_is_not_waited_for() {
        let now = Instant::now();
        let mut readers = Readers::default();
        readers.note(&sign(Some("a"), 0, 10, now + SECOND), now);
        readers.note(&sign(Some("b"), 2, 10, now + SECOND), now);
        readers.leave(&sign(Some("a"), 10, 10, now + SECOND));
        assert_eq!(readers.needed_from(now), Some(2));
        readers.leave(&sign(Some("b"), 10, 10, now + SECOND));
        assert_eq!(readers.needed_from(now), None);
    }

    #[test]
    fn a_pause_of_everything_ends_nobodys_stay() {
        let now = Instant::now();
        let mut readers = Readers::default();
        readers.note(&sign(None, 7, 9, now + SECOND), now);
        readers.postpone(60 * SECOND);
        assert_eq!(readers.needed_from(now + 60 * SECOND), Some(7));
        assert_eq!(readers.needed_from(now + 61 * SECOND), None);
    }

    #[test]
    fn only_so_many_are_known() {
        let now = Instant::now();
        let mut readers = Readers::default();
        for number in 0..=64_u32 {
            let name = number.to_string();
            let until = now + SECOND * (number + 1);
            readers.note(&sign(Some(&name), number.into(), 100, until), now);
        }
        assert_eq!(readers.needed_from(now), Some(1));
    }
}
