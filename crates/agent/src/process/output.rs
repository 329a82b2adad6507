//! One stream's output: a bounded window over all that was ever written, readable at offsets or by cursors.
//!
//! ```text
//! offset 0        start                                   end
//!   │  dropped     │  chunk  │  chunk  │  chunk  │ chunk     │  (grows)
//!   └──────────────┴─────────┴─────────┴─────────┴───────────┘
//!                            ▲ cursor "client": last answer [from, to), next read begins at `to`
//! ```
//!
//! While nobody reads, the newest bytes push out the oldest, so that the writer never waits. While somebody does, what
//! they have not got stays: [`Output::room`] says how much more may come, and the caller leaves the rest in the pipe.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use prost::bytes::Bytes;

use super::READ_BYTES;
use super::readers::{EXPECTED_AFTER_START, PRESENT_AFTER_READ, Readers, Sign};
use crate::failure::Refusal;
use fermata_protocol::agent::failure::Kind;

/// The size of a full chunk: large enough that the allocator maps it by itself and gives it back when it is freed.
const CHUNK_BYTES: usize = 64 << 10;
/// What a stream may keep when all streams together hold too much.
const SQUEEZED_BYTES: usize = 256 << 10;
/// More readers of one stream than anybody needs.
const MAX_CURSORS: usize = 64;

/// What all streams hold together.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    pub(crate) const fn new(limit: usize) -> Self {
        Self {
            used: AtomicUsize::new(0),
            limit,
        }
    }

    /// Whether finished processes should give up what they hold.
    pub(crate) fn is_tight(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.limit / 2
    }

    fn is_exhausted(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.limit
    }
}

/// A piece of output.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) data: Bytes,
    pub(crate) dropped_bytes: u64,
    pub(crate) end: bool,
}

/// Where a reader wants to begin.
#[derive(Debug, Clone, Copy)]
pub(crate) enum From<'a> {
    Offset(u64),
    Cursor {
        name: &'a str,
        request_id: &'a str,
    },
    /// As `Cursor`, but what is read does not end inside a UTF-8 character, unless the stream does.
    TextCursor {
        name: &'a str,
        request_id: &'a str,
    },
}

#[derive(Debug)]
struct Cursor {
    name: String,
    request_id: String,
    /// The range of the last answer.
    from: u64,
    to: u64,
}

/// The output of one stream.
#[derive(Debug)]
pub(crate) struct Output {
    budget: Arc<Budget>,
    chunks: VecDeque<Vec<u8>>,
    /// The offset at which the first chunk begins; may be below `start`.
    base: u64,
    start: u64,
    end: u64,
    limit: usize,
    ended: bool,
    read_to: u64,
    cursors: Vec<Cursor>,
    readers: Readers,
}

impl Output {
    /// The output of a process that is started now.
    pub(crate) fn new(limit: usize, budget: Arc<Budget>, now: Instant) -> Self {
        let expected_until = now + EXPECTED_AFTER_START;
        Self::with_readers(limit, budget, Readers::expected_until(expected_until))
    }

    fn with_readers(limit: usize, budget: Arc<Budget>, readers: Readers) -> Self {
        Self {
            budget,
            chunks: VecDeque::new(),
            base: 0,
            start: 0,
            end: 0,
            limit,
            ended: false,
            read_to: 0,
            cursors: Vec::new(),
            readers,
        }
    }

    /// A stream on which nothing will ever come.
    pub(crate) fn ended(budget: Arc<Budget>) -> Self {
        let mut output = Self::with_readers(0, budget, Readers::default());
        output.finish();
        output
    }

    /// No more will be appended.
    pub(crate) fn finish(&mut self) {
        self.ended = true;
    }

    /// Whether somebody has read all there is and will be.
    pub(crate) fn is_read_fully(&self) -> bool {
        self.ended && self.read_to == self.end
    }

    /// Whether somebody is there who has not got all there is.
    pub(crate) fn is_awaited(&self, now: Instant) -> bool {
        self.readers
            .needed_from(now)
            .is_some_and(|from| from < self.end)
    }

    /// How much may be appended without taking anything from a reader; `None` when nobody reads.
    pub(crate) fn room(&self, now: Instant) -> Option<usize> {
        let needed_from = self.needed_from(now)?;
        let needed = usize::try_from(self.end - needed_from).unwrap_or(usize::MAX);
        Some(self.current_limit().saturating_sub(needed))
    }

    /// Whether there is so much room that it is worth while to go on after a stop.
    pub(crate) fn has_room_again(&self, now: Instant) -> bool {
        let enough = READ_BYTES.min(self.current_limit() / 4).max(1);
        self.room(now).is_none_or(|room| room >= enough)
    }

    /// When there may be room although nobody has read.
    pub(crate) fn next_departure(&self, now: Instant) -> Option<Instant> {
        self.readers.next_departure(now)
    }

    /// Everything stood still for so long: no reader could have read.
    pub(crate) fn postpone_departures(&mut self, pause: Duration) {
        self.readers.postpone(pause);
    }

    fn needed_from(&self, now: Instant) -> Option<u64> {
        // Of discarded output nobody gets anything, however long it is kept from coming.
        let from = self
            .readers
            .needed_from(now)
            .filter(|_from| self.limit > 0)?;
        Some(from.clamp(self.start, self.end))
    }

    fn current_limit(&self) -> usize {
        if self.budget.is_exhausted() {
            self.limit.min(SQUEEZED_BYTES)
        } else {
            self.limit
        }
    }

    /// Gives up everything that is held, and whatever may still come.
    pub(crate) fn discard(&mut self) {
        self.limit = 0;
        self.drop_before(self.end);
        self.chunks.shrink_to_fit();
        self.cursors = Vec::new();
    }

    pub(crate) fn append(&mut self, mut data: &[u8], now: Instant) {
        let end = self.end + bytes_u64(data.len());
        let first_kept = end
            .saturating_sub(bytes_u64(self.current_limit()))
            .min(self.needed_from(now).unwrap_or(u64::MAX));
        // What would be dropped at once need not be copied.
        if first_kept > self.end {
            let skipped = within(first_kept - self.end, data.len());
            self.end = first_kept;
            self.drop_all_chunks();
            data = &data[skipped..];
        }
        let recycled = self.drop_before(first_kept.max(self.start));
        if self.push(data, recycled).is_err() {
            // No memory: this output counts as dropped.
            self.end = end;
            self.drop_all_chunks();
        }
    }

    /// Copies `data` behind the last byte.
    fn push(
        &mut self,
        mut data: &[u8],
        mut recycled: Option<Vec<u8>>,
    ) -> Result<(), std::collections::TryReserveError> {
        while !data.is_empty() {
            if self
                .chunks
                .back()
                .is_none_or(|last| last.len() >= CHUNK_BYTES)
            {
                self.chunks.try_reserve(1)?;
                self.chunks.push_back(recycled.take().unwrap_or_default());
            }
            let Some(last) = self.chunks.back_mut() else {
                break;
            };
            let count = data.len().min(CHUNK_BYTES - last.len());
            let needed = last.len() + count;
            if needed > last.capacity() {
                let capacity = needed.max(last.capacity() * 2).min(CHUNK_BYTES);
                last.try_reserve_exact(capacity - last.len())?;
            }
            let (now, later) = data.split_at(count);
            last.extend_from_slice(now);
            self.end += bytes_u64(count);
            self.budget.used.fetch_add(count, Ordering::Relaxed);
            data = later;
        }
        Ok(())
    }

    fn drop_all_chunks(&mut self) {
        let held: usize = self.chunks.iter().map(Vec::len).sum();
        self.budget.used.fetch_sub(held, Ordering::Relaxed);
        self.chunks.clear();
        self.base = self.end;
        self.start = self.end;
    }

    /// Forgets what lies before `start`; a chunk that became free is handed out for further use.
    fn drop_before(&mut self, start: u64) -> Option<Vec<u8>> {
        self.start = start;
        let mut free = None;
        while let Some(first) = self.chunks.front() {
            let length = first.len();
            if self.base + bytes_u64(length) > start {
                break;
            }
            self.base += bytes_u64(length);
            self.budget.used.fetch_sub(length, Ordering::Relaxed);
            free = self.chunks.pop_front().map(|mut chunk| {
                chunk.clear();
                chunk
            });
        }
        free
    }

    /// What there is for a reader; `None` when there is nothing yet, for which the reader waits until `deadline`.
    pub(crate) fn read(
        &mut self,
        from: From<'_>,
        max: usize,
        now: Instant,
        deadline: Instant,
    ) -> Result<Option<Piece>, Refusal> {
        let piece = match from {
            From::Offset(offset) => self.read_range(offset, self.end, max),
            From::Cursor { name, request_id } => self.read_cursor(name, request_id, max, false)?,
            From::TextCursor { name, request_id } => {
                self.read_cursor(name, request_id, max, true)?
            }
        };
        match &piece {
            Some(piece) => self.note(from, piece, now, now),
            None => self.note(from, &self.nothing(from), now, deadline.max(now)),
        }
        Ok(piece)
    }

    fn note(&mut self, from: From<'_>, piece: &Piece, now: Instant, waits_until: Instant) {
        let sign = Sign {
            name: match from {
                From::Offset(_) => None,
                From::Cursor { name, .. } | From::TextCursor { name, .. } => Some(name),
            },
            asked: piece.offset - piece.dropped_bytes,
            from: piece.offset,
            next: piece.offset + bytes_u64(piece.data.len()),
            present_until: waits_until + PRESENT_AFTER_READ,
        };
        if piece.end {
            self.readers.leave(&sign);
        } else {
            self.readers.note(&sign, now);
        }
    }

    /// As `nothing`, for a reader that has stopped waiting.
    pub(crate) fn give_up(&mut self, from: From<'_>, now: Instant) -> Piece {
        let piece = self.nothing(from);
        self.note(from, &piece, now, now);
        piece
    }

    /// The answer to a reader for whom nothing has come in time.
    fn nothing(&self, from: From<'_>) -> Piece {
        let offset = match from {
            From::Offset(offset) => offset,
            From::Cursor { name, .. } | From::TextCursor { name, .. } => {
                let cursor = self.cursors.iter().find(|cursor| cursor.name == name);
                cursor.map_or(self.start, |cursor| cursor.to)
            }
        };
        Piece {
            offset,
            data: Bytes::new(),
            dropped_bytes: 0,
            end: false,
        }
    }

    fn read_cursor(
        &mut self,
        name: &str,
        request_id: &str,
        max: usize,
        whole_characters: bool,
    ) -> Result<Option<Piece>, Refusal> {
        let known = self.cursors.iter().position(|cursor| cursor.name == name);
        let next = known.map_or(0, |index| self.cursors[index].to);
        if let Some(index) = known {
            let cursor = &self.cursors[index];
            if !request_id.is_empty() && cursor.request_id == request_id {
                let (from, to) = (cursor.from, cursor.to);
                return Ok(self.read_range(from, to, usize::MAX));
            }
        } else if self.cursors.len() >= MAX_CURSORS {
            return Err(Refusal::new(
                Kind::ResourceExhausted,
                format!("one stream cannot have more than {MAX_CURSORS} cursors"),
            ));
        }
        let Some(mut piece) = self.read_range(next, self.end, max) else {
            return Ok(None);
        };
        if whole_characters && !piece.end {
            let complete = piece.data.len() - unfinished_character(&piece.data);
            if complete > 0 {
                piece.data.truncate(complete);
            } else if piece.data.len() < max {
                // The rest of the only character is yet to come.
                return Ok(None);
            }
        }
        // An empty answer is not remembered, for its repetition may as well bring what has come since; unless it tells of a
        // gap, which must be told once.
        if !piece.data.is_empty() || (piece.dropped_bytes > 0 && piece.end) {
            let cursor = Cursor {
                name: name.to_owned(),
                request_id: request_id.to_owned(),
                from: next,
                to: piece.offset + bytes_u64(piece.data.len()),
            };
            match known {
                Some(index) => self.cursors[index] = cursor,
                None => self.cursors.push(cursor),
            }
        }
        Ok(Some(piece))
    }

    fn read_range(&mut self, from: u64, to: u64, max: usize) -> Option<Piece> {
        let asked = from;
        let from = from.max(self.start.min(to));
        if from >= self.end {
            return self.ended.then(|| Piece {
                offset: from,
                data: Bytes::new(),
                dropped_bytes: from - asked,
                end: true,
            });
        }
        let to = to.min(from.saturating_add(bytes_u64(max)));
        let mut data = Vec::with_capacity(usize::try_from(to.saturating_sub(from)).unwrap_or(0));
        let mut position = self.base;
        for chunk in &self.chunks {
            let chunk_end = position + bytes_u64(chunk.len());
            if chunk_end > from && position < to {
                let begin = within(from.saturating_sub(position), chunk.len());
                let finish = within(to - position, chunk.len());
                data.extend_from_slice(&chunk[begin..finish]);
            }
            position = chunk_end;
        }
        let read_to = from + bytes_u64(data.len());
        self.read_to = self.read_to.max(read_to);
        Some(Piece {
            offset: from,
            data: data.into(),
            dropped_bytes: from - asked,
            end: self.ended && read_to == self.end,
        })
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.drop_all_chunks();
    }
}

/// How many bytes at the end belong to a UTF-8 character that is not all there. What can be no character does not wait.
fn unfinished_character(data: &[u8]) -> usize {
    let tail = &data[data.len().saturating_sub(3)..];
    let mut length = 0;
    for byte in tail.iter().rev() {
        length += 1;
        match byte {
            0x80..=0xBF => {}
            0xC2..=0xF4 => {
                return std::str::from_utf8(&tail[tail.len() - length..])
                    .err()
                    .filter(|error| error.error_len().is_none())
                    .map_or(0, |_unfinished| length);
            }
            _ => return 0,
        }
    }
    0
}

/// A place inside a chunk: never beyond its length.
fn within(position: u64, length: usize) -> usize {
    usize::try_from(position).map_or(length, |position| position.min(length))
}

/// Lossless where pointers are at most 64 bits wide.
fn bytes_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "output_text_tests.rs"]
mod text_tests;

#[cfg(test)]
#[path = "output_room_tests.rs"]
mod room_tests;
