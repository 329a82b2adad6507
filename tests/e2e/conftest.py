"""One server for the whole session, reached by the official client in this process."""

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
from server import BINARY, Server, pointed_at

# The base image and CRIU are kept between runs, because they take half a minute to make; all else is made anew. A base
# image that was made by another recipe does no harm: the server looks for its own.
CACHE = Path(os.environ.get("FERMATA_TEST_CACHE", "/var/cache/fermata-test"))


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    assert BINARY.exists(), f"{BINARY} is not built: run `make test`, or set FERMATA_BIN"
    data_directory = Path(tempfile.mkdtemp(prefix="fermata-e2e-", dir="/var/tmp"))
    server = Server(data_directory)
    server.borrow_base_image(CACHE, CACHE / "engines")
    server.start()
    keep(server)
    with pointed_at(server):
        yield server
    server.close()
    if not (CACHE / "engines").exists():
        keep(server)
    assert leftovers(data_directory) == [], "the server left something behind"
    shutil.rmtree(data_directory)


def keep(server: Server) -> None:
    """Whole or not at all: another run may be reading it. CRIU is made beside everything else and may come late."""
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=".fermata-test-", dir=CACHE.parent))
    for folder in ("layers", "recipes"):
        shutil.copytree(server.pool / folder, fresh / folder)
    if (server.engines / "criu").exists():
        shutil.copytree(
            server.engines / "criu", fresh / "engines" / "criu", symlinks=True, ignore=shutil.ignore_patterns("dev")
        )
    shutil.rmtree(CACHE, ignore_errors=True)
    fresh.rename(CACHE)


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
