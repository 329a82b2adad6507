//! Where something is copied from or to.

use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// One side of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// `-`
    Stream,
    /// A path here.
    Local(PathBuf),
    /// `SANDBOX:/path`
    Inside { sandbox: String, path: Vec<u8> },
}

impl Place {
    /// What is before a colon is a sandbox unless it has a slash, so `./a:b` is a local file.
    pub(super) fn parse(text: &str) -> Self {
        if text == "-" {
            return Self::Stream;
        }
        match text.split_once(':') {
            Some((sandbox, path)) if !sandbox.is_empty() && !sandbox.contains('/') => {
                Self::Inside {
                    sandbox: sandbox.to_owned(),
                    path: absolute(path),
                }
            }
            _ => Self::Local(PathBuf::from(text)),
        }
    }
}

fn absolute(path: &str) -> Vec<u8> {
    if path.starts_with('/') {
        path.as_bytes().to_vec()
    } else {
        [b"/", path.as_bytes()].concat()
    }
}

/// `name` in `directory`, inside the sandbox.
pub(super) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.to_vec();
    if !path.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// The last part of a path; `None` for the root and for paths that end in `..`.
pub(super) fn base_name(path: &[u8]) -> Option<&[u8]> {
    let end = path.iter().rposition(|byte| *byte != b'/')? + 1;
    let start = path[..end]
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |slash| slash + 1);
    let name = &path[start..end];
    is_plain_name(name).then_some(name)
}

/// Names come from inside a sandbox: none may lead out of the directory that is written to.
pub(super) fn is_plain_name(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0)
}

/// As the local filesystem wants it.
pub(super) fn local_name(name: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(name.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_after_a_plain_word_names_a_sandbox() {
        let inside = |sandbox: &str, path: &[u8]| Place::Inside {
            sandbox: sandbox.to_owned(),
            path: path.to_vec(),
        };
        assert_eq!(Place::parse("abc:/a:b"), inside("abc", b"/a:b"));
        assert_eq!(Place::parse("abc:x"), inside("abc", b"/x"));
        assert_eq!(Place::parse("abc:"), inside("abc", b"/"));
        for local in ["./a:b", "/a:b", ":a", "a"] {
            assert_eq!(Place::parse(local), Place::Local(PathBuf::from(local)));
        }
        assert_eq!(Place::parse("-"), Place::Stream);
    }

    #[test]
    fn names_that_lead_elsewhere_are_not_plain() {
        for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0"] {
            assert!(!is_plain_name(name));
        }
        assert!(is_plain_name(b"a\n\xff"));
    }

    #[test]
    fn the_last_part_is_found_behind_slashes() {
        assert_eq!(base_name(b"/a/b//"), Some(&b"b"[..]));
        assert_eq!(base_name(b"a"), Some(&b"a"[..]));
        assert_eq!(base_name(b"/"), None);
        assert_eq!(base_name(b"/a/.."), None);
    }
}
