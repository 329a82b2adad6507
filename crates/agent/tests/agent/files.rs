//! Files.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use fermata_protocol::agent::failure::Kind;

use crate::support::{Agent, refusal};

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn named(root: &Path, name: &[u8]) -> PathBuf {
    root.join(OsStr::from_bytes(name))
}

#[tokio::test]
async fn what_is_written_is_read_listed_and_removed_under_any_name() {
    let agent = Agent::spawn();
    let root = tempfile::tempdir().unwrap();
    for name in [
        &b"plain"[..],
        b"new\nline",
        b"\xff\xfe",
        b" ",
        b"-rf",
        b"a'b\"c",
    ] {
        let path = named(root.path(), name);
        agent
            .client
            .write_file(bytes(&path), 0, 0o640, b"content".to_vec())
            .await
            .unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
        let status = agent.client.stat(bytes(&path)).await.unwrap();
        assert_eq!((&status.name[..], status.size_bytes), (name, 7));
        let chunk = agent.client.read_file(bytes(&path), 3, 2).await.unwrap();
        assert_eq!(&chunk.data[..], b"te");
    }
    let listing = agent
        .client
        .list_directory(bytes(root.path()))
        .await
        .unwrap();
    let names: Vec<_> = listing
        .entries
        .iter()
        .map(|entry| &entry.name[..])
        .collect();
    assert_eq!(
        names,
        [
            &b" "[..],
            b"-rf",
            b"a'b\"c",
            b"new\nline",
            b"plain",
            b"\xff\xfe"
        ]
    );
    agent
        .client
        .remove(bytes(&root.path().join("new\nline")))
        .await
        .unwrap();
    assert!(!root.path().join("new\nline").exists());
}

#[tokio::test]
async fn large_files_go_in_parts_both_ways() {
    let agent = Agent::spawn();
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("deep/er/large");
    let part: Vec<u8> = (0..4_u32 << 20)
        .map(|place| u8::try_from(place % 251).unwrap())
        .collect();
    let size = u64::try_from(part.len()).unwrap();
    for number in 0..8 {
        agent
            .client
            .write_file(bytes(&path), number * size, 0o644, part.clone())
            .await
            .unwrap();
    }
    let mut offset = 0;
    loop {
        let chunk = agent
            .client
            .read_file(bytes(&path), offset, size)
            .await
            .unwrap();
        assert_eq!(chunk.size_bytes, 8 * size);
        assert!(chunk.data == part || chunk.data.is_empty());
        offset += u64::try_from(chunk.data.len()).unwrap();
        if chunk.end {
            break;
        }
    }
    assert_eq!(offset, 8 * size);
    // A large answer leaves nothing behind once the callers are gone.
    let _suspended = agent.client.suspend().await;
    assert!(
        agent.memory_kib("VmRSS") < 8 << 10,
        "{} KiB",
        agent.memory_kib("VmRSS")
    );
}

#[tokio::test]
async fn links_and_dots_lead_where_the_sandbox_itself_is_led() {
    let agent = Agent::spawn();
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("directory")).unwrap();
    fs::write(root.path().join("file"), "x").unwrap();
    symlink("../file", root.path().join("directory/link")).unwrap();
    symlink("nowhere", root.path().join("dangling")).unwrap();
    symlink("loop", root.path().join("loop")).unwrap();
    let path = |name: &str| bytes(&root.path().join(name)).to_vec();

    let link = agent.client.stat(&path("directory/link")).await.unwrap();
    assert_eq!(
        (link.mode & 0o170_000, &link.link_target[..]),
        (0o100_000, &b"../file"[..])
    );
    for name in ["dangling", "loop"] {
        let status = agent.client.stat(&path(name)).await.unwrap();
        assert_eq!(status.mode & 0o170_000, 0o120_000, "{name}");
    }
    let dots = agent.client.stat(&path("directory/../file")).await.unwrap();
    assert_eq!(dots.size_bytes, 1);
    let above = agent.client.stat(b"/../../../..").await.unwrap();
    assert_eq!(above.mode & 0o170_000, 0o040_000);

    agent.client.remove(&path("directory/link")).await.unwrap();
    assert!(root.path().join("file").exists());
    assert_eq!(
        refusal(agent.client.remove(b"/").await).0,
        Kind::InvalidArgument
    );
    assert_eq!(
        refusal(agent.client.remove(b"/tmp/..").await).0,
        Kind::InvalidArgument
    );
}

#[tokio::test]
async fn errors_are_worded_as_programs_word_them() {
    let agent = Agent::spawn();
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), "x").unwrap();
    let path = |name: &str| bytes(&root.path().join(name)).to_vec();
    let client = &agent.client;
    let missing = "no such file or directory";
    for (result, kind, words) in [
        (
            client.stat(&path("no")).await.map(drop),
            Kind::NotFound,
            missing,
        ),
        (
            client.list_directory(&path("no")).await.map(drop),
            Kind::NotFound,
            missing,
        ),
        (
            client.read_file(&path("no"), 0, 1).await.map(drop),
            Kind::NotFound,
            missing,
        ),
        (
            client.find_in_files(&path("no"), "x").await.map(drop),
            Kind::NotFound,
            missing,
        ),
        (
            client
                .replace_in_files(&path("no"), "x", "y")
                .await
                .map(drop),
            Kind::NotFound,
            missing,
        ),
        (
            client.list_directory(&path("file")).await.map(drop),
            Kind::NotADirectory,
            "not a directory",
        ),
        (
            client.write_file(&path("file/x"), 0, 0, vec![]).await,
            Kind::NotADirectory,
            "not a directory",
        ),
        (
            client.read_file(&path(""), 0, 1).await.map(drop),
            Kind::IsADirectory,
            "is a directory",
        ),
        (
            client.create_directory(&path("file"), 0).await,
            Kind::AlreadyExists,
            "file exists",
        ),
        (
            client.stat(&path(&"n".repeat(300))).await.map(drop),
            Kind::InvalidArgument,
            "file name too long",
        ),
        (
            client.stat(b"").await.map(drop),
            Kind::InvalidArgument,
            "empty",
        ),
        (
            client.find_in_files(&path(""), "(").await.map(drop),
            Kind::InvalidArgument,
            "pattern",
        ),
        (
            client.write_file(b"/dev/full", 0, 0, vec![1]).await,
            Kind::InvalidArgument,
            "not a regular file",
        ),
        (
            client.write_file(b"/proc/version", 0, 0, vec![1]).await,
            Kind::InvalidArgument,
            "illegal seek",
        ),
    ] {
        let (found, message) = refusal(result);
        assert!(
            found == kind && message.contains(words),
            "{found:?}: {message}"
        );
    }
    client.create_directory(&path("a/b"), 0).await.unwrap();
    client.remove(&path("a")).await.unwrap();
    client.remove(&path("a")).await.unwrap();
    assert!(!root.path().join("a").exists());
}

#[tokio::test]
async fn patterns_are_found_at_their_places() {
    let agent = Agent::spawn();
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join(".hidden/deep")).unwrap();
    fs::write(
        root.path().join(".hidden/deep/one.txt"),
        "first\nsay h\u{e9}llo h\u{e9}llo\n",
    )
    .unwrap();
    fs::write(root.path().join("binary"), b"hello\0hello").unwrap();
    fs::write(root.path().join(".gitignore"), "*.txt\n").unwrap();
    fs::write(root.path().join("windows"), "import x\r\n import y\r\n").unwrap();
    symlink(root.path().join(".hidden"), root.path().join("link")).unwrap();
    let find = |pattern: &'static str| {
        let (client, path) = (&agent.client, bytes(root.path()));
        async move { client.find_in_files(path, pattern).await.unwrap() }
    };
    let found = find("h.llo").await;
    assert!(!found.truncated);
    let [file] = &found.files[..] else {
        panic!("{found:?}");
    };
    assert_eq!(file.path, bytes(&root.path().join(".hidden/deep/one.txt")));
    let places: Vec<_> = file
        .matches
        .iter()
        .map(|one| {
            (
                one.start_line,
                one.start_column,
                one.end_line,
                one.end_column,
            )
        })
        .collect();
    assert_eq!(places, [(2, 5, 2, 11), (2, 12, 2, 18)]);
    assert_eq!(file.matches[0].content, "h\u{e9}llo".as_bytes());
    assert_eq!(find(r"^import\s+\w").await.files[0].matches.len(), 1);
    assert!(find("nothing of this").await.files.is_empty());

    fs::write(root.path().join("many"), "m\n".repeat(20_000)).unwrap();
    let many = find("^m$").await;
    assert!(many.truncated);
    assert_eq!(
        many.files
            .iter()
            .map(|file| file.matches.len())
            .sum::<usize>(),
        10_000
    );
}

#[tokio::test]
async fn patterns_in_patterns_are_searched_or_refused_on_a_small_stack() {
    let agent = Agent::spawn();
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), "a\n").unwrap();
    let nested = |depth: usize| "(".repeat(depth) + "a" + &")?".repeat(depth);
    let path = bytes(root.path());
    // A group and its repetition nest one each.
    let found = agent.client.find_in_files(path, &nested(25)).await.unwrap();
    assert_eq!(found.files[0].matches[0].content, "a");
    for depth in [100, 100_000] {
        let refused = agent.client.find_in_files(path, &nested(depth)).await;
        assert_eq!(refusal(refused).0, Kind::InvalidArgument);
    }
}

#[tokio::test]
async fn replacing_changes_what_matches_and_nothing_else() {
    let agent = Agent::spawn();
    let root = tempfile::tempdir().unwrap();
    let script = root.path().join("script");
    fs::write(&script, "host=old:1\nhost=old:2\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o4751)).unwrap();
    std::os::unix::fs::chown(&script, Some(12), Some(34)).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o4751)).unwrap();
    fs::write(root.path().join("other"), "nothing").unwrap();
    fs::write(root.path().join("binary"), b"old:1\0").unwrap();
    let untouched = fs::metadata(root.path().join("other")).unwrap().ino();
    let path = bytes(root.path());
    let result = agent
        .client
        .replace_in_files(path, r"old:(\d)", "new:${1}0$$")
        .await
        .unwrap();
    assert_eq!((result.files_changed, result.replacements), (1, 2));
    assert_eq!(
        fs::read_to_string(&script).unwrap(),
        "host=new:10$\nhost=new:20$\n"
    );
    let metadata = fs::metadata(&script).unwrap();
    assert_eq!(
        (metadata.mode() & 0o7777, metadata.uid(), metadata.gid()),
        (0o4751, 12, 34)
    );
    assert_eq!(
        fs::metadata(root.path().join("other")).unwrap().ino(),
        untouched
    );
    assert_eq!(fs::read(root.path().join("binary")).unwrap(), b"old:1\0");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 3);
    let again = agent
        .client
        .replace_in_files(path, r"old:(\d)", "x")
        .await
        .unwrap();
    assert_eq!((again.files_changed, again.replacements), (0, 0));
}
