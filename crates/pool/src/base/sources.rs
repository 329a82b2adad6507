//! Where the base image's packages come from: the host's own configuration where it is for the same release, so that a site's
//! mirror is used; else Debian's default.

use std::fs;
use std::io;
use std::path::Path;

use crate::{PoolError, Result};

/// The host's sources for `release` and its updates, in the form of `sources.list(5)` deb822 paragraphs and one-line entries;
/// empty when there are none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Sources {
    /// Paragraphs, for a `.sources` file.
    pub(super) paragraphs: String,
    /// Lines, for a `.list` file.
    pub(super) lines: String,
}

impl Sources {
    pub(super) fn of_host(apt: &Path, release: &str) -> Result<Self> {
        let mut sources = Self::default();
        let mut files = vec![apt.join("sources.list")];
        let directory = apt.join("sources.list.d");
        match fs::read_dir(&directory) {
            Ok(entries) => {
                for entry in entries {
                    files.push(entry.map_err(PoolError::file("list", &directory))?.path());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(PoolError::file("list", &directory)(error)),
        }
        files.sort();
        for file in files {
            let text = match fs::read_to_string(&file) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(PoolError::file("read", &file)(error)),
            };
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("sources") => sources.take_paragraphs(&text, release),
                Some("list") => sources.take_lines(&text, release),
                _ => {}
            }
        }
        Ok(sources)
    }

    /// Whether the release itself, not only its updates, is to be had.
    pub(super) fn is_complete(&self, release: &str) -> bool {
        let is_release = |word: &str| word == release;
        self.lines.split_whitespace().any(is_release)
            || self.paragraphs.split_whitespace().any(is_release)
    }

    fn take_lines(&mut self, text: &str, release: &str) {
        for line in text
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with("deb "))
        {
            let mut words = line.split_whitespace().skip(1).peekable();
            let mut in_options = words.peek().is_some_and(|word| word.starts_with('['));
            let mut words = words.skip_while(|word| {
                let skip = in_options;
                in_options &= !word.ends_with(']');
                skip
            });
            let (Some(uri), Some(suite)) = (words.next(), words.next()) else {
                continue;
            };
            if is_wanted(uri, &[suite], release) && words.any(|component| component == "main") {
                self.lines.push_str(line);
                self.lines.push('\n');
            }
        }
    }

    fn take_paragraphs(&mut self, text: &str, release: &str) {
        let text: String = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .flat_map(|line| [line.trim_end(), "\n"])
            .collect();
        for paragraph in text
            .split("\n\n")
            .map(str::trim)
            .filter(|paragraph| !paragraph.is_empty())
        {
            let field = |name: &str| {
                paragraph.lines().find_map(|line| {
                    let (key, value) = line.split_once(':')?;
                    key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
                })
            };
            let suites: Vec<&str> = field("Suites")
                .unwrap_or_default()
                .split_whitespace()
                .collect();
            let has = |name, wanted| {
                field(name)
                    .unwrap_or_default()
                    .split_whitespace()
                    .any(|word| word == wanted)
            };
            let enabled = field("Enabled").is_none_or(|value| value.eq_ignore_ascii_case("yes"));
            let uris = field("URIs").unwrap_or_default();
            if enabled
                && has("Types", "deb")
                && has("Components", "main")
                && is_wanted(uris, &suites, release)
            {
                self.paragraphs.push_str(paragraph);
                self.paragraphs.push_str("\n\n");
            }
        }
    }
}

/// Of Debian's own suites only, and without a password: the sources stay in the image.
fn is_wanted(uri: &str, suites: &[&str], release: &str) -> bool {
    let suite_is_ours = |suite: &&str| {
        suite
            .strip_prefix(release)
            .is_some_and(|pocket| matches!(pocket, "" | "-updates" | "-security"))
    };
    !suites.is_empty() && suites.iter().all(suite_is_ours) && !uri.contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> Sources {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("sources.list.d")).unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        Sources::of_host(directory.path(), "bookworm").unwrap()
    }

    #[test]
    fn paragraphs_of_the_release_are_taken_and_foreign_ones_are_not() {
        let debian = "Types: deb\n# a note\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
                      Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg";
        let foreign = "Types: deb\nURIs: https://x.example\nSuites: nodistro\nComponents: main";
        let disabled =
            "Enabled: no\nTypes: deb\nURIs: http://y.example\nSuites: bookworm\nComponents: main";
        let sources = host(&[(
            "sources.list.d/a.sources",
            &format!("{debian}\n\n{foreign}\n\n{disabled}\n"),
        )]);
        assert_eq!(
            sources.paragraphs,
            debian.replace("# a note\n", "") + "\n\n"
        );
        assert!(sources.is_complete("bookworm"));
    }

    #[test]
    fn lines_of_the_release_are_taken_and_passwords_are_not() {
        let sources = host(&[(
            "sources.list",
            "deb [arch=amd64 signed-by=/k.gpg] http://m.example/debian bookworm main contrib\n\
             deb-src http://m.example/debian bookworm main\n# deb http://m.example/debian bookworm main\n\
             deb http://user:secret@m.example/debian bookworm-security main\n\
             deb http://m.example/debian trixie main\ndeb http://p.example cloud-sdk-bookworm main\n",
        )]);
        assert_eq!(
            sources.lines,
            "deb [arch=amd64 signed-by=/k.gpg] http://m.example/debian bookworm main contrib\n"
        );
    }

    #[test]
    fn a_host_of_another_release_has_none() {
        let sources = host(&[("sources.list", "deb http://m.example/debian trixie main\n")]);
        assert_eq!(sources, Sources::default());
        assert!(!sources.is_complete("bookworm"));
        let updates = host(&[(
            "sources.list",
            "deb http://m.example/debian bookworm-updates main\n",
        )]);
        assert!(!updates.is_complete("bookworm"));
    }
}
