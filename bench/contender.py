"""What every system under test can do; the measurements in `run.py` know nothing else."""

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


class Contender(Protocol):
    name: str
    version: str

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

    def end(self, sandbox: str) -> None: ...

    def idle_kib(self, sandbox: str) -> int:
        """Memory of the system's own processes for one idle sandbox, without the user's."""

    def close(self) -> None:
        """Leaves nothing running."""


class Unavailable(Exception):
    """Why a system cannot be measured here."""
