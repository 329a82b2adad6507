"""`find_in_files` and `replace_in_files`."""

import pytest
from beta9.exceptions import SandboxFileSystemError
from commands import sh


def found(sandbox, path, pattern):
    return {
        (result.path, match.range.start.line, match.range.start.column, match.content)
        for result in sandbox.fs.find_in_files(path, pattern)
        for match in result.matches
    }


def test_find(sandbox):
    sh(
        sandbox,
        "mkdir -p /tmp/s/.hidden; cd /tmp/s; echo TODO >.hidden/g; echo none >h;"
        " printf 'one\\n  TODO: a\\nx TODO: b\\n' >f",
    )
    assert found(sandbox, "/tmp/s", r"TODO(: \w)?") == {
        ("/tmp/s/f", 2, 3, "TODO: a"),
        ("/tmp/s/f", 3, 3, "TODO: b"),
        ("/tmp/s/.hidden/g", 1, 1, "TODO"),
    }
    assert found(sandbox, "/tmp/s", "^absent$") == set()


def test_find_in_one_file(sandbox):
    sandbox.fs.write_text("/tmp/f", "a1 b22 c333\n")
    assert {content for *_, content in found(sandbox, "/tmp/f", r"\d{2,}")} == {"22", "333"}


def test_find_does_not_leave_through_links_nor_stop_at_odd_files(sandbox):
    sh(sandbox, "mkdir /tmp/s; ln -s / /tmp/s/root; mkfifo /tmp/s/pipe; ln -s loop /tmp/s/loop; echo needle >/tmp/s/f")
    assert {path for path, *_ in found(sandbox, "/tmp/s", "needle")} == {"/tmp/s/f"}


def test_find_passes_over_bytes_that_are_not_text(sandbox):
    sh(sandbox, "mkdir /tmp/s; printf 'needle \\377\\376\\n' >/tmp/s/f; head -c 3000000 /dev/urandom >/tmp/s/binary")
    assert "/tmp/s/f" in {path for path, *_ in found(sandbox, "/tmp/s", "needle")}


@pytest.mark.parametrize("pattern", ["(", "[z-a]", "*"])
def test_a_pattern_that_is_none_is_refused(sandbox, pattern):
    with pytest.raises(SandboxFileSystemError):
        sandbox.fs.find_in_files("/etc", pattern)
    with pytest.raises(SandboxFileSystemError):
        sandbox.fs.replace_in_files("/tmp", pattern, "x", regex=True)


def test_search_in_what_does_not_exist(sandbox):
    with pytest.raises(SandboxFileSystemError, match="(?i)no such file"):
        sandbox.fs.find_in_files("/none", "x")
    with pytest.raises(SandboxFileSystemError, match="(?i)no such file"):
        sandbox.fs.replace_in_files("/none", "x", "y")


@pytest.mark.parametrize(
    ("before", "old", "new", "after"),
    [
        ("a.b axb", "a.b", "c", "c axb"),
        ("price 5", "5", "$1 $$ ${name}", "price $1 $$ ${name}"),
        ("(x)[y]{z}^|+*?\\", "(x)[y]{z}^|+*?\\", "plain", "plain"),
        ("line\nline\n", "line\n", "", ""),
        ("ünï", "ï", "i", "üni"),
        ("aaa", "a", "aa", "aaaaaa"),
    ],
)
def test_replace_takes_text_literally(sandbox, before, old, new, after):
    sandbox.fs.write_text("/tmp/r/f", before)
    sandbox.fs.replace_in_files("/tmp/r", old, new)
    assert sandbox.fs.read_text("/tmp/r/f") == after


@pytest.mark.parametrize(
    ("before", "pattern", "new", "after"),
    [
        ("key=value", r"(\w+)=(\w+)", "$2=$1", "value=key"),
        ("v1.2", r"v(?P<major>\d+)\.(\d+)", "${major}-$2", "1-2"),
        ("cost", "cost", "$$5", "$5"),
        ("ab", "(a)", "${1}1", "a1b"),
        ("one\ntwo\n", "(?m)^", "> ", "> one\n> two\n> "),
    ],
)
def test_replace_with_a_pattern_expands_as_go_does(sandbox, before, pattern, new, after):
    sandbox.fs.write_text("/tmp/r/f", before)
    sandbox.fs.replace_in_files("/tmp/r", pattern, new, regex=True)
    assert sandbox.fs.read_text("/tmp/r/f") == after


def test_replace_keeps_the_file_what_it_was(sandbox):
    sh(
        sandbox,
        "mkdir /tmp/r; echo old >/tmp/r/f; chmod 751 /tmp/r/f; chown 5:6 /tmp/r/f;"
        " ln -s f /tmp/r/link; echo none >/tmp/r/g; touch -d @1000 /tmp/r/g",
    )
    sandbox.fs.replace_in_files("/tmp/r", "old", "new")
    assert sh(sandbox, "cat /tmp/r/f; stat -c '%a %u %g' /tmp/r/f; readlink /tmp/r/link; stat -c %Y /tmp/r/g") == (
        "new\n751 5 6\nf\n1000\n"
    )
