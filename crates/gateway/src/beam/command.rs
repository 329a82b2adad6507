//! Command lines and environments of processes.

use std::collections::{BTreeMap, HashMap};

use fermata_engine::agent::EnvironmentVariable;

use super::failure::BeamError;

/// What a process finds when neither image, sandbox nor call says otherwise.
const DEFAULTS: [(&str, &str); 5] = [
    ("HOME", "/root"),
    ("LANG", "C.UTF-8"),
    (
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ),
    ("PYTHONUNBUFFERED", "1"),
    ("TERM", "xterm"),
];

/// Splits as a POSIX shell does, without running one.
pub(super) fn split(command: &str) -> Result<Vec<Vec<u8>>, BeamError> {
    let words = shlex::bytes::split(command.as_bytes()).ok_or_else(|| {
        BeamError::invalid(format!(
            "command has a quotation that does not end: {}",
            shortened(command)
        ))
    })?;
    if words.is_empty() {
        return Err(BeamError::invalid("command is empty"));
    }
    if command.contains('\0') {
        return Err(BeamError::invalid("command contains a NUL byte"));
    }
    Ok(words)
}

/// The reverse; bytes that are no text are replaced.
pub(super) fn quote<'a>(words: impl IntoIterator<Item = &'a [u8]>) -> String {
    let quoted: Vec<String> = words
        .into_iter()
        .map(|word| {
            // An argument of a process cannot contain the NUL that quoting would refuse.
            let word = String::from_utf8_lossy(word).replace('\0', "");
            shlex::try_quote(&word).map_or_else(|_| word.clone(), |quoted| quoted.into_owned())
        })
        .collect();
    quoted.join(" ")
}

fn shortened(text: &str) -> String {
    const MOST: usize = 200;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    let mut start: String = text.chars().take(MOST).collect();
    start.push('…');
    start
}

/// The whole environment of a process. Later ones win: defaults, image and sandbox, identity, call.
pub(super) fn environment(
    sandbox: &BTreeMap<String, String>,
    identity: &[(&str, &str)],
    call: &HashMap<String, String>,
) -> Result<Vec<EnvironmentVariable>, BeamError> {
    let mut all: BTreeMap<&str, &str> = DEFAULTS.into_iter().collect();
    all.extend(
        sandbox
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    );
    all.extend(identity.iter().copied());
    for (name, value) in call {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(BeamError::invalid(format!(
                "env has an invalid entry named {name:?}"
            )));
        }
        all.insert(name, value);
    }
    Ok(all
        .into_iter()
        .map(|(name, value)| EnvironmentVariable {
            name: name.to_owned().into(),
            value: value.to_owned().into(),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command: &str) -> Vec<String> {
        split(command)
            .unwrap()
            .into_iter()
            .map(|word| String::from_utf8(word).unwrap())
            .collect()
    }

    #[test]
    fn what_python_quotes_comes_back() {
        // Python's shlex.join(["sh", "-c", "echo 'a b' \"$HOME\"", "", "#x", "ä\n"])
        let command = "sh -c 'echo '\"'\"'a b'\"'\"' \"$HOME\"' '' '#x' 'ä\n'";
        assert_eq!(
            words(command),
            ["sh", "-c", "echo 'a b' \"$HOME\"", "", "#x", "ä\n"]
        );
    }

    #[test]
    fn nothing_is_expanded() {
        assert_eq!(
            words("echo $HOME *.txt ~ `x`"),
            ["echo", "$HOME", "*.txt", "~", "`x`"]
        );
    }

    #[test]
    fn a_command_that_makes_no_sense_is_refused() {
        for (command, reason) in [
            ("echo 'a", "quotation"),
            ("echo \\", "quotation"),
            ("", "empty"),
            (" \n", "empty"),
            ("a\0b", "NUL"),
        ] {
            let error = split(command).unwrap_err().to_string();
            assert!(error.contains(reason), "{command:?}: {error}");
        }
        assert!(
            split(&format!("'{}", "a".repeat(1 << 20)))
                .unwrap_err()
                .to_string()
                .len()
                < 400
        );
    }

    #[test]
    fn quoting_is_the_reverse_of_splitting() {
        let arguments: [&[u8]; 5] = [b"sh", b"-c", b"echo 'a' \"b\"\n", b"", b"$x"];
        let split: Vec<Vec<u8>> = split(&quote(arguments)).unwrap();
        assert_eq!(split, arguments.map(<[u8]>::to_vec));
        assert_eq!(quote([b"a\xff".as_slice()]), "'a\u{fffd}'");
    }

    #[test]
    fn the_call_wins_over_identity_over_sandbox_over_defaults() {
        let sandbox =
            BTreeMap::from([("HOME", "/home/a"), ("CONTAINER_ID", "wrong"), ("X", "1")].map(own));
        let call = HashMap::from([("X", "2")].map(own));
        let all: BTreeMap<String, String> =
            environment(&sandbox, &[("CONTAINER_ID", "right")], &call)
                .unwrap()
                .into_iter()
                .map(|variable| {
                    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                    (text(&variable.name), text(&variable.value))
                })
                .collect();
        assert_eq!(all["HOME"], "/home/a");
        assert_eq!(all["CONTAINER_ID"], "right");
        assert_eq!(all["X"], "2");
        assert_eq!(all["LANG"], "C.UTF-8");
        assert!(all["PATH"].contains("/usr/bin"));
    }

    #[test]
    fn a_variable_without_a_name_is_refused() {
        for name in ["", "A=B", "A\0"] {
            let call = HashMap::from([own((name, "1"))]);
            assert!(
                environment(&BTreeMap::new(), &[], &call).is_err(),
                "{name:?}"
            );
        }
    }

    fn own((name, value): (&str, &str)) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }
}
