//! The token that every caller must show.

use std::io;
use std::path::Path;

use uuid::Uuid;

use super::error::ServeError;
use super::publish;
use crate::endpoint::TOKEN_FILE;
use crate::printer::Printer;
use crate::variables;

/// The official client's command line refuses shorter ones.
const SHORTEST: usize = 64;

/// The environment's, else the one kept in the directory, else a new one.
pub(super) fn load_or_make(directory: &Path, printer: Printer) -> Result<String, ServeError> {
    if let Some(token) = variables::read(variables::TOKEN) {
        check(&token, variables::TOKEN)?;
        if token.len() < SHORTEST {
            printer.warning(&format!(
                "the token in {} has less than {SHORTEST} characters: it is easier to guess, and `beam configure` refuses it",
                variables::TOKEN
            ));
        }
        return Ok(token);
    }
    let path = directory.join(TOKEN_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let token = text.trim().to_owned();
            check(&token, &path.display().to_string())?;
            Ok(token)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let token = make();
            publish::write_whole(directory, TOKEN_FILE, format!("{token}\n").as_bytes()).map_err(
                |source| ServeError::File {
                    action: "write",
                    path,
                    source,
                },
            )?;
            Ok(token)
        }
        Err(source) => Err(ServeError::File {
            action: "read",
            path,
            source,
        }),
    }
}

/// It must fit into an HTTP header.
fn check(token: &str, origin: &str) -> Result<(), ServeError> {
    let reason = if token.is_empty() {
        "it is empty"
    } else if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        "it has characters other than visible ASCII"
    } else {
        return Ok(());
    };
    Err(ServeError::Token {
        origin: origin.to_owned(),
        reason,
    })
}

/// 80 hexadecimal digits; 122 of the bits of a version 4 UUID are random, from the kernel.
fn make() -> String {
    let halves = [Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4()];
    halves
        .iter()
        .map(|half| half.simple().to_string())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_first_start_makes_a_long_private_token_and_later_ones_keep_it() {
        let directory = tempfile::tempdir().unwrap();
        let printer = Printer::new(false);
        let first = load_or_make(directory.path(), printer).unwrap();
        assert!(first.len() >= SHORTEST);
        assert_eq!(load_or_make(directory.path(), printer).unwrap(), first);
        let mode = std::fs::metadata(directory.path().join(TOKEN_FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_token_that_no_header_can_carry_is_refused() {
        for wrong in ["", "a b", "ä", "a\nb"] {
            check(wrong, "test").unwrap_err();
        }
    }
}
