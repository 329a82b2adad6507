"""A server with little room: what is full says so, and nothing that was held is lost."""

import shutil
import tempfile
import uuid
from pathlib import Path

import pytest
from beam import Image, Sandbox
from beta9.exceptions import ImageBuildError, SandboxFileSystemError, SandboxProcessError
from commands import python, run, sh
from leftovers import leftovers
from server import Server, pointed_at
from waiting import eventually

POOL_MIB = 400
MEMORY_MIB = 512


@pytest.fixture(scope="module")
def small(server):
    """Its own server; the client of this process speaks to it while this module runs."""
    # Not below pytest's own directory, which it deletes later with whatever may still be mounted there.
    directory = Path(tempfile.mkdtemp(prefix="fermata-e2e-small-", dir="/var/tmp"))
    small = Server(
        directory, environment={"FERMATA_POOL_SIZE": f"{POOL_MIB}MiB", "FERMATA_MEMORY_CAP": f"{MEMORY_MIB}MiB"}
    )
    small.borrow_base_image(server.pool)
    small.start()
    with pointed_at(small):
        yield small
    small.close()
    assert leftovers(directory) == []
    shutil.rmtree(directory)


def create(**options):
    """The client's default image remembers the first server that it was looked up at."""
    return Sandbox(**{"image": Image(python_version="python3.11"), **options}).create()


@pytest.fixture
def sandbox(small):
    with create() as made:
        yield made


FILL = "head -c 2G /dev/zero | tr '\\0' x >/fill"


def test_a_write_into_a_full_pool(sandbox):
    sh(sandbox, "echo kept >/kept")
    result = run(sandbox, "sh", "-c", FILL, timeout=120)
    assert result.code != 0
    assert "No space left on device" in result.stderr
    assert sandbox.fs.read_text("/kept") == "kept\n"
    with pytest.raises((SandboxFileSystemError, SandboxProcessError), match="(?i)no space left"):
        sandbox.fs.write_bytes("/upload", b"x" * (8 << 20))
    sh(sandbox, "rm /fill; sync")
    # btrfs gives the space of a deleted file back in the background.
    eventually(lambda: run(sandbox, "sh", "-c", "head -c 32M /dev/zero >/upload").code == 0, "there is room again")
    sandbox.fs.write_bytes("/upload", b"x" * (8 << 20))


def test_a_snapshot_in_a_full_pool(small, sandbox):
    """It may succeed, since it copies nothing; if not it says why, and either way nothing is broken."""
    sh(sandbox, "echo kept >/kept")
    held = sandbox.create_image_from_filesystem()
    run(sandbox, "sh", "-c", FILL, timeout=120)
    try:
        full = sandbox.create_image_from_filesystem()
    except SandboxProcessError as error:
        assert "space" in str(error).lower()
    else:
        small.api("DELETE", f"/images/{full}")
    sh(sandbox, "rm /fill; sync")
    with create(image=Image.from_id(held)) as child:
        assert sh(child, "cat /kept") == "kept\n"
    small.api("DELETE", f"/images/{held}")


def test_a_build_in_a_full_pool(small):
    images = len(small.api("GET", "/images"))
    with pytest.raises(ImageBuildError, match="(?i)no space left"):
        create(image=Image().add_commands([f"echo {uuid.uuid4().hex}", FILL]))
    assert len(small.api("GET", "/images")) == images
    with create() as after:
        sh(after, "echo room again >/file")


def test_a_crash_of_a_full_server(small, sandbox):
    run(sandbox, "sh", "-c", FILL, timeout=120)
    small.kill()
    small.start()
    assert run(sandbox, "echo", "alive").stdout == "alive\n"
    sh(sandbox, "rm /fill; sync; echo room again >/file")


def test_memory_inside_a_sandbox_ends_at_the_hosts_cap(sandbox):
    """The program dies, the sandbox and the host live."""
    result = run(sandbox, "python3", "-c", f"x = b'x' * ({2 * MEMORY_MIB} << 20)", timeout=120)
    assert result.code == 137
    assert python(sandbox, "print('alive')") == "alive\n"
