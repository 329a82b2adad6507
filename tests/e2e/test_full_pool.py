"""A server with little room: what is full says so, and nothing that was held is lost."""

import shutil
import subprocess
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
# For all memory snapshots.
SNAPSHOTS_MIB = 48


@pytest.fixture(scope="module")
def small(server):
    """Its own server; the client of this process speaks to it while this module runs."""
    # Not below pytest's own directory, which it deletes later with whatever may still be mounted there.
    directory = Path(tempfile.mkdtemp(prefix="fermata-e2e-small-", dir="/var/tmp"))
    small = Server(
        directory, environment={"FERMATA_POOL_SIZE": f"{POOL_MIB}MiB", "FERMATA_MEMORY_CAP": f"{MEMORY_MIB}MiB"}
    )
    small.borrow_base_image(server.pool)
    small.borrow_engine(server.engine)
    small.memory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SNAPSHOTS_MIB}m", "fermata-e2e", small.memory], check=True)
    try:
        small.start()
        with pointed_at(small):
            yield small
        small.close()
    finally:
        subprocess.run(["umount", "--lazy", small.memory], check=True)
    eventually(lambda: not leftovers(directory), f"nothing is left of {directory}")
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


def test_a_memory_snapshot_without_room(small, sandbox):
    """It ends in the middle, says why, and leaves nothing; the sandbox runs on."""
    program = (
        f"import os, time\nx = os.urandom({2 * SNAPSHOTS_MIB} << 20)\nopen('/up', 'w')\nwhile True: time.sleep(0.01)"
    )
    process = sandbox.process.exec("python3", "-c", program)
    sandbox.fs.wait_for("/up")
    images = len(small.api("GET", "/images"))
    for _ in range(2):
        with pytest.raises(SandboxProcessError, match="(?i)no space left"):
            sandbox.snapshot_memory()
        assert list(small.memory.iterdir()) == []
        assert small.api("GET", "/snapshots") == []
        assert len(small.api("GET", "/images")) == images
        assert process.status()[0] == -1
    process.kill()
    assert process.wait() == 137
    snapshot = sandbox.snapshot_memory()
    with Sandbox().create_from_memory_snapshot(snapshot) as child:
        assert run(child, "echo", "played on").stdout == "played on\n"
    small.api("DELETE", f"/snapshots/{snapshot}")


def test_a_memory_snapshot_in_a_full_pool(small, sandbox):
    """As with a snapshot of the filesystem: it may succeed."""
    process = sandbox.process.exec("sleep", "1000")
    run(sandbox, "sh", "-c", FILL, timeout=120)
    try:
        full = sandbox.snapshot_memory()
    except SandboxProcessError as error:
        assert "space" in str(error).lower()
        assert list(small.memory.iterdir()) == []
    else:
        small.api("DELETE", f"/snapshots/{full}")
    assert process.status()[0] == -1
    sh(sandbox, "rm /fill; sync")
    snapshot = sandbox.snapshot_memory()
    with Sandbox().create_from_memory_snapshot(snapshot) as child:
        assert child.process.get_process(process.pid).status()[0] == -1
    small.api("DELETE", f"/snapshots/{snapshot}")


def test_memory_inside_a_sandbox_ends_at_the_hosts_cap(sandbox):
    """The program dies, the sandbox and the host live."""
    result = run(sandbox, "python3", "-c", f"x = b'x' * ({2 * MEMORY_MIB} << 20)", timeout=120)
    assert result.code == 137
    assert python(sandbox, "print('alive')") == "alive\n"
