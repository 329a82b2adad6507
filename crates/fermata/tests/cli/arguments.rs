use crate::fermata::Fermata;

#[test]
fn wrong_arguments_are_told_on_stderr_with_code_2() {
    for wrong in [
        &["bogus"][..],
        &[],
        &["exec", "sandbox"],
        &["run", "--memory", "much"],
        &["run", "--block-network", "--allow", "10.0.0.0/8"],
        &["run", "--cpu", "-1"],
        &["serve", "--http", "nowhere"],
    ] {
        let ended = Fermata::new(wrong).run();
        assert_eq!(ended.code, 2, "{wrong:?}: {}", ended.stderr);
        assert_eq!(ended.stdout, "", "{wrong:?}");
        assert_ne!(ended.stderr, "", "{wrong:?}");
    }
}

#[test]
fn help_names_every_command() {
    let help = Fermata::new(&["--help"]).run();
    assert_eq!(help.code, 0);
    for command in [
        "serve", "env", "doctor", "run", "exec", "ps", "logs", "cp", "stop", "rm", "image",
        "snapshot",
    ] {
        let listed = help
            .stdout
            .lines()
            .any(|line| line.trim_start().starts_with(command));
        assert!(listed, "{command} is not in:\n{}", help.stdout);
    }
}

#[test]
fn completions_are_made_for_every_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let ended = Fermata::new(&["completions", shell]).run();
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        assert!(ended.stdout.contains("snapshot"), "{shell}");
    }
}

#[test]
fn the_version_is_known_without_a_server() {
    let directory = tempfile::tempdir().unwrap();
    let ended = Fermata::new(&["version", "--json"])
        .variable("FERMATA_DATA_DIR", directory.path())
        .run();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let document: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(document["client"], env!("CARGO_PKG_VERSION"));
    assert!(document["server"].is_null());
    assert!(ended.stderr.contains("no server"), "{}", ended.stderr);
}
