"""One server for the whole session, reached by the official client in this process."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

# Before the client is imported: it reads these once. A build that was seen once must be asked for again.
os.environ["CONFIG_PATH"] = "/nonexistent/config.ini"
os.environ["BETA9_DISABLE_IMAGE_BUILD_CACHE"] = "1"

from beam import Sandbox
from beta9.abstractions.sandbox import SandboxInstance
from leftovers import leftovers
from server import BEAM, BINARY, Server, copy, pointed_at
from waiting import eventually

# The base image is kept between runs, because it takes half a minute to make; all else is made anew. A base image that
# was made by another recipe does no harm: the server looks for its own.
CACHE = Path(os.environ.get("FERMATA_TEST_CACHE", "/var/cache/fermata-test"))
# So is the program that memory snapshots are made with.
ENGINE_CACHE = CACHE.with_name(f"{CACHE.name}-engines") / "criu"


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    assert BINARY.exists(), f"{BINARY} is not built: run `make test`, or set FERMATA_BIN"
    data_directory = Path(tempfile.mkdtemp(prefix="fermata-e2e-", dir="/var/tmp"))
    server = Server(data_directory)
    server.borrow_base_image(CACHE)
    server.borrow_engine(ENGINE_CACHE)
    server.start()
    if base_image(CACHE) != base_image(server.pool):
        keep(CACHE, server.pool / "layers", server.pool / "recipes")
    with pointed_at(server):
        yield server
    # Made in the background, and only where the machine has none of its own.
    if server.engine.exists() and not ENGINE_CACHE.exists():
        keep(ENGINE_CACHE, *server.engine.iterdir())
    server.close()
    # A program that is just starting has a copy of all mounts for a moment, and so holds the loop device.
    eventually(lambda: leftovers(data_directory) == [], "nothing of the server is left")
    shutil.rmtree(data_directory)


def keep(place: Path, *folders: Path) -> None:
    """Whole or not at all: another run may be reading it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fermata-test-", dir=place.parent) as fresh:
        copy(Path(fresh, "new"), *folders)
        shutil.rmtree(place, ignore_errors=True)
        Path(fresh, "new").rename(place)


def base_image(pool: Path) -> set[str]:
    """Names of the recipes of base images; those of other layers have no environment."""
    return {recipe.name for recipe in pool.glob("recipes/*.json") if "environment" in recipe.read_text()}


@pytest.fixture(autouse=True)
def running_server(server: Server) -> Iterator[None]:
    """A test that ended the server, and failed before it started it again, harms no other test."""
    yield
    if not server.is_running():
        server.start()


@pytest.fixture
def snapshots(server: Server) -> Iterator[list[str]]:
    """Memory snapshots that go with the test, once the sandboxes are gone that were restored from them."""
    held: list[str] = []
    yield held
    if not server.is_running():
        server.start()
    there = {snapshot["id"] for snapshot in server.api("GET", "/snapshots")}
    for snapshot in there.intersection(held):
        server.api("DELETE", f"/snapshots/{snapshot}")


@pytest.fixture
def made(server: Server, snapshots: list[str]) -> Iterator[list[SandboxInstance]]:
    """Sandboxes that end with the test."""
    made: list[SandboxInstance] = []
    yield made
    if not server.is_running():
        server.start()
    for instance in made:
        instance.terminate()


@pytest.fixture
def new_sandbox(made: list[SandboxInstance]) -> Callable[..., SandboxInstance]:
    """Makes sandboxes that end with the test."""

    def create(**options: object) -> SandboxInstance:
        instance = Sandbox(**options).create()
        assert instance.ok, instance.error_msg
        made.append(instance)
        return instance

    return create


@pytest.fixture
def sandbox(new_sandbox: Callable[..., SandboxInstance]) -> SandboxInstance:
    return new_sandbox()


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def fermata(server: Server) -> Command:
    """Our own command line."""
    return partial(command, BINARY, env=server.command_environment())


@pytest.fixture
def beam(server: Server, tmp_path: Path) -> Command:
    """Beam's command line, run by somebody who has no settings of it."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **server.client_environment()}
    return partial(command, BEAM, env=environment, cwd=tmp_path)


def command(*argv: str | Path, stdin: str | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
    streams = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, **streams, **options)


@pytest.fixture
def hold(snapshots: list[str]) -> Callable[[SandboxInstance], str]:
    """Takes memory snapshots that go with the test."""

    def snapshot_memory(sandbox: SandboxInstance) -> str:
        snapshot = sandbox.snapshot_memory()
        snapshots.append(snapshot)
        return snapshot

    return snapshot_memory


@pytest.fixture
def play_on(made: list[SandboxInstance]) -> Callable[[str], SandboxInstance]:
    """Restores sandboxes that end with the test."""

    def create_from_memory_snapshot(snapshot: str) -> SandboxInstance:
        instance = Sandbox().create_from_memory_snapshot(snapshot)
        assert instance.ok, instance.error_msg
        made.append(instance)
        return instance

    return create_from_memory_snapshot
