//! Finding a regular expression in text files, line by line.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use fermata_protocol::agent::{FileMatches, FindResult, Match};
use prost::Message as _;
use prost::bytes::Bytes;
use regex::bytes::Regex;

use super::walk::visit_files;
use super::{pattern, still_wanted};
use crate::connection::Caller;
use crate::failure::Refusal;

/// Matches in one answer unless the caller says otherwise.
const USUAL_MATCHES: u64 = 10_000;
/// Bytes of matches in one answer: it must fit a frame, whatever the caller says.
const MAX_ANSWER_BYTES: usize = 12 << 20;
/// A file with a longer line is not taken for text.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// Lines between two looks whether the caller is still there.
const LINES_A_LOOK: u32 = 4096;

pub(super) fn find(
    caller: &Caller,
    path: &Path,
    pattern: &str,
    max_matches: u64,
) -> Result<FindResult, Refusal> {
    let mut search = Search {
        caller,
        regex: pattern::search(pattern)?,
        left: if max_matches == 0 {
            USUAL_MATCHES
        } else {
            max_matches
        },
        bytes_left: MAX_ANSWER_BYTES,
        truncated: false,
    };
    let mut files = Vec::new();
    visit_files(caller, path, |path, file| {
        let matches = search.search_file(file)?;
        if !matches.is_empty() {
            files.push(FileMatches {
                path: Bytes::copy_from_slice(path.as_os_str().as_bytes()),
                matches,
            });
        }
        Ok(if search.truncated {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    })?;
    Ok(FindResult {
        files,
        truncated: search.truncated,
    })
}

struct Search<'a> {
    caller: &'a Caller,
    regex: Regex,
    left: u64,
    bytes_left: usize,
    truncated: bool,
}

impl Search<'_> {
    /// The matches in a file until it turns out not to be text.
    fn search_file(&mut self, file: File) -> Result<Vec<Match>, Refusal> {
        let mut matches = Vec::new();
        let mut reader = BufReader::with_capacity(64 << 10, file);
        let is_text = reader.fill_buf().is_ok_and(|start| !start.contains(&0));
        let mut line = Vec::new();
        let mut number: u32 = 0;
        while is_text && !self.truncated {
            line.clear();
            // One more than allowed, to tell a long line from a too long one.
            let read = reader
                .by_ref()
                .take(MAX_LINE_BYTES + 1)
                .read_until(b'\n', &mut line);
            if !matches!(read, Ok(1..)) {
                break;
            }
            if line.last() == Some(&b'\n') {
                line.pop();
            } else if line.len() as u64 > MAX_LINE_BYTES {
                break;
            }
            if line.contains(&0) {
                break;
            }
            number = number.saturating_add(1);
            if number.is_multiple_of(LINES_A_LOOK) {
                still_wanted(self.caller)?;
            }
            self.search_line(number, &line, &mut matches);
        }
        Ok(matches)
    }

    fn search_line(&mut self, number: u32, line: &[u8], matches: &mut Vec<Match>) {
        for found in self.regex.find_iter(line) {
            let one = Match {
                start_line: number,
                start_column: column(found.start()),
                end_line: number,
                end_column: column(found.end()),
                content: Bytes::copy_from_slice(found.as_bytes()),
            };
            let bytes = one.encoded_len() + 8;
            if self.left == 0 || bytes > self.bytes_left {
                self.truncated = true;
                return;
            }
            self.left -= 1;
            self.bytes_left -= bytes;
            matches.push(one);
        }
    }
}

fn column(index: usize) -> u32 {
    u32::try_from(index).map_or(u32::MAX, |index| index.saturating_add(1))
}
