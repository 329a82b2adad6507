"""What every system under test can do; the measurements in `run.py` know nothing else."""

import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

# Fills a file with data that no filesystem can share or squeeze.
WRITE_500_MB = ["sh", "-c", "head -c 500000000 /dev/urandom >/data"]

# In directories of 500, as a package manager's cache would be.
WRITE_50000_FILES = [
    "python3",
    "-c",
    "import os\n"
    "for d in range(100):\n"
    "    os.makedirs(f'/many/{d}', exist_ok=True)\n"
    "    for f in range(500):\n"
    "        with open(f'/many/{d}/{f}', 'wb') as file: file.write(os.urandom(200))\n",
]


@dataclass
class HeldMemory:
    """A sandbox held with its processes and memory."""

    name: str
    total_ms: float
    # How long the sandbox stood still, where the system tells.
    paused_ms: float | None
    size_bytes: int


class Contender(Protocol):
    name: str
    version: str
    # How many restores of one snapshot to ask for at the same time: `None` for all.
    restores_at_once: int | None

    def create(self, image: str | None = None) -> str:
        """Starts a sandbox from the base image or a held one, and returns its name once it was asked for."""

    def execute(self, sandbox: str, command: list[str]) -> None:
        """Runs a command to its end; raises if it fails."""

    def require_snapshots(self) -> None:
        """Raises `Unavailable` when it cannot hold the filesystem of a running sandbox."""

    def prepare(self, image: str | None = None) -> None:
        """What a user does once before the first of many `create`."""

    def hold(self, sandbox: str) -> tuple[str, float, float | None]:
        """Holds the filesystem: the image, milliseconds in total, and milliseconds of pause where the system tells."""

    def forget(self, image: str) -> None: ...

    def run(self, command: list[str], port: int | None) -> str:
        """Starts a sandbox in which this program runs to be held, and a port of it can be reached."""

    def asking(self, sandbox: str, port: int) -> Callable[[], None]:
        """What asks the web server inside, and raises until it answers with 200."""

    def hold_memory(self, sandbox: str) -> HeldMemory:
        """The sandbox runs on."""

    def restore(self, held: HeldMemory) -> str:
        """A new sandbox beside all others."""

    def forget_memory(self, held: HeldMemory) -> None: ...

    def end(self, sandbox: str) -> None: ...

    def idle_kib(self, sandbox: str) -> int:
        """Memory of the system's own processes for one idle sandbox, without the user's."""

    def close(self) -> None:
        """Leaves nothing running."""


class Unavailable(Exception):
    """Why a system cannot be measured here."""


def get(url: str) -> None:
    """Raises unless the answer is 200."""
    # No proxy: all of them are on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        answer.read()
        if answer.status != 200:
            raise OSError(f"{url} answered {answer.status}")
