use std::fs;

use crate::fermata::Fermata;

#[test]
fn each_setting_is_shown_with_its_origin() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    fs::write(
        &file,
        "memory_cap = \"4G\"\nname_servers = [\"192.0.2.1\"]\n",
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let ended = Fermata::new(&[
        "config",
        "show",
        "--json",
        "--config",
        file,
        "--http",
        "127.0.0.1:7",
    ])
    .variable("FERMATA_GRPC", "127.0.0.1:8")
    .variable("FERMATA_BUILD_ENVIRONMENT", "SECRET=hunter2")
    .run();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let document: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let shown = |name: &str| {
        (
            document[name]["value"].clone(),
            document[name]["origin"].clone(),
        )
    };
    assert_eq!(shown("http"), ("127.0.0.1:7".into(), "--http".into()));
    assert_eq!(
        shown("grpc"),
        ("127.0.0.1:8".into(), "$FERMATA_GRPC".into())
    );
    assert_eq!(shown("memory_cap"), ("4.0 GiB".into(), file.into()));
    assert_eq!(shown("name_servers"), ("192.0.2.1".into(), file.into()));
    assert_eq!(
        shown("data_dir"),
        ("/var/lib/fermata".into(), "default".into())
    );
    assert!(
        !ended.stdout.contains("hunter2"),
        "a value that may be secret is shown"
    );
}

#[test]
fn an_unknown_key_is_an_error_that_names_it_and_the_known_ones() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    fs::write(&file, "htpp = \"127.0.0.1:7\"\n").unwrap();
    let ended = Fermata::new(&["config", "show", "--config", file.to_str().unwrap()]).run();
    assert_eq!(ended.code, 2);
    assert_eq!(ended.stdout, "");
    let mut lines = ended.stderr.lines();
    let (error, hint) = (lines.next().unwrap(), lines.next().unwrap());
    assert!(
        error.starts_with("error: the configuration file"),
        "{error}"
    );
    assert!(error.contains("htpp"), "{error}");
    assert!(
        hint.starts_with("hint: known keys:") && hint.contains("http"),
        "{hint}"
    );
    assert_eq!(
        lines.next(),
        None,
        "more than one line of error and one of hint"
    );
}

#[test]
fn a_wrong_variable_stops_the_server_before_it_does_anything() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let ended = Fermata::new(&["serve", "--data-dir", data.to_str().unwrap()])
        .variable("FERMATA_HTTP", "here")
        .run();
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.contains("FERMATA_HTTP"), "{}", ended.stderr);
    assert!(!data.exists());
}
