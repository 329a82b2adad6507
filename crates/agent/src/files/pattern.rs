//! Regular expressions as callers write them.
//!
//! Searching uses our own dialect, as ripgrep does. Replacing follows Go's regexp, from which it differs in little: Go's
//! `\d \s \w \b` know ASCII only, `[` needs no escape inside a class, and `\Q…\E` quotes.

use regex::bytes::{Regex, RegexBuilder};

use crate::failure::Refusal;

/// Groups in groups; the compiler calls itself for each, on a small stack.
const NESTING: u32 = 50;
/// Memory for a compiled expression.
const COMPILED_BYTES: usize = 4 << 20;
const CACHED_BYTES: usize = 4 << 20;

pub(super) fn search(pattern: &str) -> Result<Regex, Refusal> {
    RegexBuilder::new(pattern)
        .nest_limit(NESTING)
        .size_limit(COMPILED_BYTES)
        .dfa_size_limit(CACHED_BYTES)
        .build()
        .map_err(|error| {
            // The lines before the last one repeat the pattern, however long it is.
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default();
            let reason = reason.strip_prefix("error: ").unwrap_or(reason);
            Refusal::invalid(format!("the pattern is not valid: {reason}"))
        })
}

pub(super) fn replacement_search(pattern: &str) -> Result<Regex, Refusal> {
    search(&from_go(pattern))
}

/// Rewrites the few things of Go's dialect that mean something else in ours.
fn from_go(pattern: &str) -> String {
    let mut rewritten = String::with_capacity(pattern.len());
    let mut rest = pattern;
    // How far into a class: nothing, right behind its opening (where `]` is literal), or inside.
    let mut class: Option<usize> = None;
    while let Some(character) = rest.chars().next() {
        let after = &rest[character.len_utf8()..];
        rest = after;
        match (character, class) {
            ('\\', _) => {
                let Some(escaped) = after.chars().next() else {
                    rewritten.push('\\');
                    break;
                };
                rest = &after[escaped.len_utf8()..];
                if escaped == 'Q' && class.is_none() {
                    let (quoted, behind) = rest.split_once("\\E").unwrap_or((rest, ""));
                    rewritten.push_str(&regex::escape(quoted));
                    rest = behind;
                } else {
                    push_escape(&mut rewritten, escaped, class.is_some());
                }
                class = class.map(|length| length + 1);
            }
            ('[', None) => {
                rewritten.push('[');
                if let Some(behind) = rest.strip_prefix('^') {
                    rewritten.push('^');
                    rest = behind;
                }
                class = Some(0);
            }
            ('[', Some(length)) => {
                match rest.find(":]").filter(|_| rest.starts_with(':')) {
                    Some(end) => {
                        rewritten.push('[');
                        rewritten.push_str(&rest[..end + 2]);
                        rest = &rest[end + 2..];
                    }
                    None => rewritten.push_str("\\["),
                }
                class = Some(length + 1);
            }
            (']', Some(0)) => {
                rewritten.push_str("\\]");
                class = Some(1);
            }
            (']', Some(_)) => {
                rewritten.push(']');
                class = None;
            }
            ('&' | '~', Some(length)) => {
                // `&&` and `~~` are operators of our dialect only.
                rewritten.push('\\');
                rewritten.push(character);
                class = Some(length + 1);
            }
            (_, _) => {
                rewritten.push(character);
                class = class.map(|length| length + 1);
            }
        }
    }
    rewritten
}

fn push_escape(rewritten: &mut String, escaped: char, in_class: bool) {
    match (escaped, in_class) {
        ('d', _) => rewritten.push_str("[0-9]"),
        ('D', _) => rewritten.push_str("[^0-9]"),
        ('s', _) => rewritten.push_str(r"[\t\n\f\r ]"),
        ('S', _) => rewritten.push_str(r"[^\t\n\f\r ]"),
        ('w', _) => rewritten.push_str("[0-9A-Za-z_]"),
        ('W', _) => rewritten.push_str("[^0-9A-Za-z_]"),
        ('b', false) => rewritten.push_str(r"(?-u:\b)"),
        ('B', false) => rewritten.push_str(r"(?-u:\B)"),
        // Word boundaries in ours, plain characters in Go's.
        ('<' | '>', _) => rewritten.push(escaped),
        _ => {
            rewritten.push('\\');
            rewritten.push(escaped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(pattern: &str, text: &str, replacement: &str) -> String {
        let regex = replacement_search(pattern).unwrap();
        let bytes = regex.replace_all(text.as_bytes(), replacement.as_bytes());
        String::from_utf8(bytes.into_owned()).unwrap()
    }

    #[test]
    fn gos_dialect_means_what_it_means_in_go() {
        // Each expectation is what Go's regexp.ReplaceAllString gives.
        for (pattern, text, replacement, expected) in [
            (r"\w+", "naïve x", "<>", "<>ï<> <>"),
            (r"\d", "1²٣", "n", "n²٣"),
            (r"[[:alpha:][]+", "ab[c]", "x", "x]"),
            (r"[]a]+", "]a]b", "x", "xb"),
            (r"[^]a]+", "]abc", "x", "]ax"),
            (r"[a&&b]", "a&b", "x", "xxx"),
            (r"[\d\s-]+", "a1 -2b", "x", "axb"),
            (r"\<a\>", "<a>", "x", "x"),
            (r"\Qa.b\E.", "a.bc axbc", "x", "x axbc"),
            (r"(?P<y>\d+)-(\d+)", "1-2", "${2}-${y}", "2-1"),
            (r"a(b)?", "a", "[$1]", "[]"),
            (r"a", "a", "$$1", "$1"),
            (r"\$\{x\}", "${x}", "y", "y"),
            (r"(?s)a.b", "a\nb", "x", "x"),
            (r"(?m)^", "a\nb", "> ", "> a\n> b"),
            (
                r"a\.b\+\*\?\(\)\|\[\]\{\}\^\$\\",
                r"a.b+*?()|[]{}^$\",
                "x",
                "x",
            ),
        ] {
            assert_eq!(replaced(pattern, text, replacement), expected, "{pattern}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused_and_not_suffered() {
        for pattern in ["(", "[", "a{2000000}", r"\", r"\C"] {
            assert!(replacement_search(pattern).is_err(), "{pattern}");
        }
        let deep = "(".repeat(100_000) + &")".repeat(100_000);
        assert!(search(&deep).is_err());
    }
}
