"""Every call of `fs` but the searching ones, with its errors."""

import os
import stat
import threading
import time
import uuid

import pytest
from beta9.exceptions import SandboxFileSystemError
from commands import run, sh

MISSING = "(?i)no such file or directory"
CHUNK = 4 * 1024 * 1024


@pytest.mark.parametrize("size", [0, 1, 4095, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_bytes_come_back_as_they_went(sandbox, size):
    data = os.urandom(size)
    sandbox.fs.write_bytes("/tmp/data", data)
    assert sandbox.fs.read_bytes("/tmp/data") == data
    assert sandbox.fs.stat_file("/tmp/data").size == size


def test_text(sandbox):
    sandbox.fs.write_text("/tmp/text", "ünï ☃\n")
    assert sandbox.fs.read_text("/tmp/text") == "ünï ☃\n"
    assert sh(sandbox, "cat /tmp/text") == "ünï ☃\n"


def test_upload_and_download_of_files(sandbox, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"content")
    sandbox.fs.upload_file(str(source), "/workspace/there")
    sandbox.fs.download_file("/workspace/there", str(target))
    assert target.read_bytes() == b"content"


def test_mode_and_missing_parents(sandbox):
    sandbox.fs.write_bytes("/tmp/new/deep/tool", b"#!/bin/sh\necho ran\n", mode=0o755)
    assert run(sandbox, "/tmp/new/deep/tool").stdout == "ran\n"
    sandbox.fs.write_bytes("/tmp/private", b"", mode=0o600)
    assert sh(sandbox, "stat -c %a /tmp/private /tmp/new/deep") == "600\n755\n"


def test_writing_again_replaces(sandbox):
    sandbox.fs.write_text("/tmp/file", "a long first content")
    sandbox.fs.write_text("/tmp/file", "short")
    assert sandbox.fs.read_text("/tmp/file") == "short"


def test_relative_paths_mean_the_same_to_every_call(sandbox):
    """The client's own upload uses the file calls and, for the last step, processes."""
    sandbox.fs.write_text("relative.txt", "here")
    assert sandbox.fs.read_text("relative.txt") == "here"
    assert sandbox.fs.read_text("/workspace/relative.txt") == "here"
    assert sandbox.fs.stat_file("relative.txt").size == 4


def test_a_failed_upload_leaves_the_old_file_and_no_rest(sandbox):
    sh(sandbox, "mkdir /tmp/dir; echo old >/tmp/dir/file")
    with pytest.raises(SandboxFileSystemError):
        sandbox.fs.write_text("/tmp/dir/file/below", "x")
    with pytest.raises(SandboxFileSystemError):
        sandbox.fs.write_text("/proc/version", "x")
    assert sh(sandbox, "ls -A /tmp/dir; cat /tmp/dir/file") == "file\nold\n"


@pytest.mark.parametrize("path", ["/tmp/none", "/none/at/all"])
def test_what_does_not_exist(sandbox, path):
    for call in (sandbox.fs.read_bytes, sandbox.fs.stat_file, sandbox.fs.list_files, sandbox.fs.remove):
        with pytest.raises(SandboxFileSystemError, match=MISSING) as caught:
            call(path)
        assert path in str(caught.value)


def test_wrong_kinds(sandbox):
    with pytest.raises(SandboxFileSystemError, match="(?i)is a directory"):
        sandbox.fs.read_bytes("/etc")
    with pytest.raises(SandboxFileSystemError, match="(?i)not a directory"):
        sandbox.fs.list_files("/etc/passwd")
    with pytest.raises(SandboxFileSystemError):
        sandbox.fs.create_directory("/etc/passwd")


def test_reading_a_pipe_does_not_hang(sandbox):
    """Opening a FIFO waits for a writer; the whole sandbox must not wait with it."""
    sh(sandbox, "mkfifo /tmp/pipe")
    with pytest.raises(SandboxFileSystemError):
        sandbox.fs.read_bytes("/tmp/pipe")
    assert run(sandbox, "echo", "alive").stdout == "alive\n"


def test_files_without_a_size_of_their_own(sandbox):
    assert b"Linux" in sandbox.fs.read_bytes("/proc/version")


def test_stat(sandbox):
    sh(
        sandbox,
        "echo 12345 >/tmp/f; chmod 4640 /tmp/f; chown 7:8 /tmp/f; touch -d @1234567890 /tmp/f; mkdir -m 1777 /tmp/d",
    )
    info = sandbox.fs.stat_file("/tmp/f")
    assert (info.name, info.size, info.is_dir) == ("f", 6, False)
    assert (info.owner, info.group, info.mod_time) == ("7", "8", 1234567890)
    assert info.permissions & 0o777 == 0o640
    directory = sandbox.fs.stat_file("/tmp/d")
    assert directory.is_dir
    assert directory.permissions & 0o777 == 0o777
    # Go's FileMode, as the wire has it: the directory bit is the highest.
    assert directory.mode & 0x80000000


def test_list_files(sandbox):
    sh(sandbox, "mkdir -p /tmp/l/sub; echo x >/tmp/l/.hidden; ln -s /none /tmp/l/dangling; mkfifo /tmp/l/pipe")
    entries = {entry.name: entry for entry in sandbox.fs.list_files("/tmp/l")}
    assert set(entries) == {"sub", ".hidden", "dangling", "pipe"}
    assert entries["sub"].is_dir
    assert entries[".hidden"].size == 2
    assert not entries["dangling"].is_dir
    assert sandbox.fs.list_files("/tmp/l/sub") == []


def test_a_directory_with_many_entries(sandbox):
    sh(sandbox, "mkdir /tmp/many; cd /tmp/many; seq -f 'a-rather-long-file-name-%.0f' 1 20000 | xargs touch")
    assert len(sandbox.fs.list_files("/tmp/many")) == 20_000


def test_create_and_delete_directories(sandbox):
    sandbox.fs.create_directory("/tmp/a/b/c")
    assert sh(sandbox, "stat -c %a /tmp/a/b/c") == "755\n"
    sandbox.fs.create_directory("/tmp/a/b/c")
    sandbox.fs.write_text("/tmp/a/b/file", "x")
    sandbox.fs.delete_directory("/tmp/a")
    with pytest.raises(SandboxFileSystemError, match=MISSING):
        sandbox.fs.stat_file("/tmp/a")
    sandbox.fs.delete_directory("/tmp/a")


def test_delete_file_and_remove(sandbox):
    sh(sandbox, "echo keep >/tmp/target; ln -s /tmp/target /tmp/link; mkdir -p /tmp/d/e; ln -s / /tmp/d/e/root")
    sandbox.fs.delete_file("/tmp/link")
    assert sandbox.fs.read_text("/tmp/target") == "keep\n"
    sandbox.fs.remove("/tmp/target")
    sandbox.fs.remove("/tmp/d")
    assert sh(sandbox, "ls -A /tmp; ls / | grep -c etc") == "1\n"


def test_wait_for(sandbox):
    writer = threading.Thread(
        target=lambda: sh(sandbox, "printf 12 >/tmp/w; until [ -e /tmp/go ]; do sleep 0.02; done; printf 3 >>/tmp/w")
    )
    writer.start()
    assert sandbox.fs.wait_for("/tmp/w", size=2).size == 2
    sandbox.fs.write_text("/tmp/go", "")
    assert sandbox.fs.wait_for("/tmp/w", timeout=20, size=3).size == 3
    writer.join()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        sandbox.fs.wait_for("/tmp/never", timeout=0.3)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "name", ["a\nb", " lead", "trail ", "-dash", "quo'te\"s", "back\\slash", "☃" * 80, "tab\there"]
)
def test_unusual_names(sandbox, name):
    """Made inside: the client's own upload cannot name a file with a newline (it misreads sha256sum's escaping)."""
    run(sandbox, "sh", "-c", 'mkdir /tmp/n; printf content >"/tmp/n/$1"', "sh", name)
    assert [entry.name for entry in sandbox.fs.list_files("/tmp/n")] == [name]
    assert sandbox.fs.stat_file(f"/tmp/n/{name}").name == name
    assert sandbox.fs.read_text(f"/tmp/n/{name}") == "content"
    sandbox.fs.delete_file(f"/tmp/n/{name}")
    assert sandbox.fs.list_files("/tmp/n") == []


def test_a_name_that_is_not_text_does_not_hide_the_others(sandbox):
    sh(sandbox, "mkdir /tmp/n; touch \"$(printf '/tmp/n/\\377')\" /tmp/n/fine")
    assert "fine" in [entry.name for entry in sandbox.fs.list_files("/tmp/n")]
    assert len(sandbox.fs.list_files("/tmp/n")) == 2


def test_paths_that_point_out_of_the_root_stay_inside(sandbox, tmp_path):
    canary = tmp_path / "canary"
    canary.write_text("of the host")
    os.chmod(tmp_path, stat.S_IRWXU)
    up = "/.." * 20
    sh(sandbox, f"ln -s {up} /tmp/root; ln -s {up}{canary} /tmp/file; ln -s ../../../../../.. /tmp/relative")
    for path in (f"{up}{canary}", f"/tmp/root{canary}", "/tmp/file", f"/tmp/relative{canary}"):
        with pytest.raises(SandboxFileSystemError, match=MISSING):
            sandbox.fs.read_bytes(path)
    # In the sandbox's own /proc, process 1's root is the sandbox's root too.
    with pytest.raises(SandboxFileSystemError, match=MISSING):
        sandbox.fs.read_bytes(f"/proc/1/root{canary}")

    name = f"escaped-{uuid.uuid4().hex}"
    for prefix in (up, "/tmp/root", "/tmp/relative"):
        sandbox.fs.write_text(f"{prefix}/tmp/{name}", "inside")
        assert not os.path.exists(f"/tmp/{name}")
        assert sandbox.fs.read_text(f"/tmp/{name}") == "inside"
        sandbox.fs.delete_file(f"{prefix}/tmp/{name}")
    for path in (f"{up}{tmp_path}", f"/tmp/root{tmp_path}"):
        sandbox.fs.delete_directory(path)
    assert canary.read_text() == "of the host"
