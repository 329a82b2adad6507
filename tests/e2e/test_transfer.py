"""Transfers of gigabytes."""

import hashlib
import os

import pytest
from beta9.exceptions import SandboxFileSystemError
from commands import sh

GIGABYTE = 1 << 30


def digest_of(path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture
def big_file(tmp_path):
    """A gigabyte in which no two pages are equal, so that nothing swapped or repeated goes unseen."""
    path = tmp_path / "big"
    seed = os.urandom(1 << 20)
    with path.open("wb") as file:
        for number in range(GIGABYTE // len(seed)):
            file.write(number.to_bytes(8, "little") + seed[8:])
    yield path
    path.unlink()


@pytest.mark.timeout(600)
def test_a_gigabyte_up_and_down(sandbox, big_file, tmp_path):
    digest = digest_of(big_file)
    sandbox.fs.upload_file(str(big_file), "/workspace/big")
    assert sh(sandbox, "sha256sum /workspace/big", timeout=120).split()[0] == digest
    back = tmp_path / "back"
    sandbox.fs.download_file("/workspace/big", str(back))
    assert digest_of(back) == digest
    back.unlink()


def test_a_hole_is_read_as_zeros(sandbox, tmp_path):
    sh(sandbox, "truncate -s 100M /tmp/sparse; printf end >>/tmp/sparse")
    target = tmp_path / "sparse"
    sandbox.fs.download_file("/tmp/sparse", str(target))
    assert target.stat().st_size == 100 * (1 << 20) + 3
    with target.open("rb") as file:
        assert not any(file.read(1 << 20))


def test_a_download_that_fails_leaves_no_local_file(sandbox, tmp_path):
    with pytest.raises(SandboxFileSystemError):
        sandbox.fs.download_file("/none", str(tmp_path / "none"))
    assert list(tmp_path.iterdir()) == []
