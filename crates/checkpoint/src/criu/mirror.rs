//! Which package archive this machine uses.

use std::fs;
use std::path::Path;

/// The address from which the host takes its own release, because often nothing else can be reached; `None` for Debian's default.
pub(super) fn of_host(apt: &Path) -> Option<String> {
    let mut files = vec![apt.join("sources.list")];
    if let Ok(entries) = fs::read_dir(apt.join("sources.list.d")) {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    files
        .iter()
        .filter_map(|file| Some((file.extension()?.to_str()?, fs::read_to_string(file).ok()?)))
        .find_map(|(kind, text)| match kind {
            "sources" => of_paragraphs(&text),
            "list" => of_lines(&text),
            _ => None,
        })
}

/// deb822 paragraphs (`sources.list(5)`).
fn of_paragraphs(text: &str) -> Option<String> {
    let text = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect::<Vec<_>>()
        .join("\n");
    text.split("\n\n").find_map(|paragraph| {
        let field = |name: &str| {
            paragraph
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| key.trim().eq_ignore_ascii_case(name))
                .map(|(_, value)| value.trim())
        };
        let suites = field("Suites")?;
        let is_main = field("Components")?
            .split_whitespace()
            .any(|word| word == "main");
        let enabled = field("Enabled").is_none_or(|value| value.eq_ignore_ascii_case("yes"));
        let uri = field("URIs")?.split_whitespace().next()?;
        (enabled && is_main && suites.split_whitespace().all(is_of_archive) && is_debian(uri))
            .then(|| uri.to_owned())
    })
}

/// One-line entries.
fn of_lines(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb ")?.trim();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1.trim(),
            None => rest,
        };
        let mut words = rest.split_whitespace();
        let (uri, suite) = (words.next()?, words.next()?);
        (is_of_archive(suite) && words.any(|word| word == "main") && is_debian(uri))
            .then(|| uri.to_owned())
    })
}

/// Security updates have an archive of their own, which has no unstable.
fn is_of_archive(suite: &str) -> bool {
    !suite.contains("security") && !suite.contains('/')
}

/// Every mirror of Debian's archive ends so; others have no `sid`.
fn is_debian(uri: &str) -> bool {
    uri.trim_end_matches('/').ends_with("debian")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_archive_is_told_from_others() {
        let text = "Types: deb\n# a note\nURIs: http://security.example/debian-security\nSuites: bookworm-security\n\
                    Components: main\n\nTypes: deb\nURIs: http://mirror.example/debian/\nSuites: bookworm bookworm-updates\n\
                    Components: main\n";
        assert_eq!(
            of_paragraphs(text).unwrap(),
            "http://mirror.example/debian/"
        );
        let text = "deb https://apt.example stable main\n# deb http://no.example/debian sid main\n\
                    deb [signed-by=/a b] http://mirror.example/debian bookworm main contrib\n";
        assert_eq!(of_lines(text).unwrap(), "http://mirror.example/debian");
        assert_eq!(
            of_lines("deb https://node.example/node_20.x nodistro main"),
            None
        );
    }
}
