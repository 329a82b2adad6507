use std::process::Command;

use crate::fermata::{Fermata, pretend_server};

#[test]
fn the_exports_survive_the_shell_and_point_at_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let token = "it's \"$HOME\" `x`";
    pretend_server(directory.path(), "127.0.0.1:41", "0.0.0.0:42", token);
    let ended = Fermata::new(&["env", "--data-dir", directory.path().to_str().unwrap()]).run();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let script = format!(
        "{}\nprintf '%s\\n' \"$BETA9_GATEWAY_HOST\" \"$BETA9_GATEWAY_PORT\" \"$BEAM_TOKEN\" \"$FERMATA_URL\" \"$API_PORT\"",
        ended.stdout
    );
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let values = String::from_utf8(output.stdout).unwrap();
    let values: Vec<_> = values.lines().collect();
    assert_eq!(
        values,
        ["127.0.0.1", "41", token, "http://127.0.0.1:42", "42"]
    );
}

#[test]
fn no_configuration_file_of_the_client_can_win_over_the_exports() {
    let directory = tempfile::tempdir().unwrap();
    pretend_server(directory.path(), "127.0.0.1:41", "127.0.0.1:42", "t");
    let ended = Fermata::new(&[
        "env",
        "--json",
        "--data-dir",
        directory.path().to_str().unwrap(),
    ])
    .run();
    let document: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let path = document["CONFIG_PATH"].as_str().unwrap();
    assert!(!std::path::Path::new(path).exists());
}

#[test]
fn a_directory_without_server_is_an_error_with_a_hint() {
    let directory = tempfile::tempdir().unwrap();
    let ended = Fermata::new(&["env"])
        .variable("FERMATA_DATA_DIR", directory.path())
        .run();
    assert_eq!(ended.code, 2);
    assert_eq!(ended.stdout, "");
    assert!(
        ended.stderr.starts_with("error: no server is running"),
        "{}",
        ended.stderr
    );
    assert!(
        ended.stderr.contains("\nhint: start one"),
        "{}",
        ended.stderr
    );
}
