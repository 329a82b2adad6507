"""One server for the whole session, reached by the official client in this process."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Before the client is imported: it reads these once. A build that was seen once must be asked for again.
os.environ["CONFIG_PATH"] = "/nonexistent/config.ini"
os.environ["BETA9_DISABLE_IMAGE_BUILD_CACHE"] = "1"

from beam import Sandbox
from beta9.abstractions.sandbox import SandboxInstance
from leftovers import leftovers
from server import BINARY, REPOSITORY, Server, pointed_at

CACHE = Path(os.environ.get("FERMATA_TEST_CACHE", "/var/cache/fermata-test"))


def _storage_version() -> str:
    """Changes with what decides how a data directory looks, so that an old one is never taken for a new one."""
    digest = hashlib.sha256()
    for folder in ("crates/pool", "crates/engine/migrations"):
        for file in sorted((REPOSITORY / folder).rglob("*")):
            if file.is_file():
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


@pytest.fixture(scope="session")
def data_directory() -> Iterator[Path]:
    """Kept between runs, because the base image takes half a minute to make; a temporary one if another run has it."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            temporary = Path(tempfile.mkdtemp(prefix="fermata-e2e-", dir="/var/tmp"))
            yield temporary
            shutil.rmtree(temporary)
            return
        mine = CACHE / _storage_version()
        for other in CACHE.iterdir():
            if other.is_dir() and other != mine:
                shutil.rmtree(other)
        yield mine


@pytest.fixture(scope="session")
def server(data_directory: Path) -> Iterator[Server]:
    assert BINARY.exists(), f"{BINARY} is not built: run `make test`, or set FERMATA_BIN"
    server = Server(data_directory)
    server.start()
    with pointed_at(server):
        yield server
        server.remove_images()
    server.close()
    assert leftovers(data_directory) == [], "the server left something behind"


@pytest.fixture(autouse=True)
def running_server(server: Server) -> Iterator[None]:
    """A test that ended the server, and failed before it started it again, harms no other test."""
    yield
    if not server.is_running():
        server.start()


@pytest.fixture
def new_sandbox(server: Server) -> Iterator[Callable[..., SandboxInstance]]:
    """Makes sandboxes that end with the test."""
    made: list[SandboxInstance] = []

    def create(**options: object) -> SandboxInstance:
        instance = Sandbox(**options).create()
        assert instance.ok, instance.error_msg
        made.append(instance)
        return instance

    yield create
    if not server.is_running():
        server.start()
    for instance in made:
        instance.terminate()


@pytest.fixture
def sandbox(new_sandbox: Callable[..., SandboxInstance]) -> SandboxInstance:
    return new_sandbox()
