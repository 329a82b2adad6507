"""Input for a process, which the client stages as a file."""

import hashlib
import io

from commands import finish, sh


def test_text_bytes_and_files(sandbox):
    for source in ("héllo\n", "héllo\n".encode(), io.BytesIO("héllo\n".encode())):
        assert finish(sandbox.process.exec("cat", stdin=source)).stdout == "héllo\n"


def test_empty_input_ends_at_once(sandbox):
    assert finish(sandbox.process.exec("wc", "-c", stdin=b"")).stdout.strip() == "0"


def test_without_input_a_reader_sees_the_end(sandbox):
    assert finish(sandbox.process.exec("cat"), timeout=10) == (0, "", "")


def test_large_input_in_another_directory(sandbox):
    data = bytes(range(256)) * 40_000
    result = finish(sandbox.process.exec("sh", "-c", "pwd; sha256sum", stdin=data, cwd="/tmp"))
    assert result.stdout.split() == ["/tmp", hashlib.sha256(data).hexdigest(), "-"]


def test_nothing_stays_behind(sandbox):
    finish(sandbox.process.exec("cat", stdin="x"))
    assert sh(sandbox, "ls -A /tmp") == ""
