"""A real server, started as a user starts it, that can be killed and started again on the same data and ports."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from beta9.abstractions.base import unset_channel
from waiting import eventually

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT_BINARY = REPOSITORY / "target/x86_64-unknown-linux-gnu/debug/fermata"
# The official client's command line.
BEAM = Path(sys.executable).parent / "beam"
BINARY = Path(os.environ.get("FERMATA_BIN", DEFAULT_BINARY))

# The client's command line accepts nothing shorter than 64 characters.
TOKEN = "end-to-end-".ljust(64, "0")

# The first start makes the base image from the distribution's packages.
FIRST_START_SECONDS = 300.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def copy(place: Path, *folders: Path) -> None:
    """With device nodes and links as such, which `shutil` would read from."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "--archive", "--reflink=auto", *folders, place], check=True)


class Server:
    """`fermata serve` on loopback. `start`, `kill` and `stop` may be called in any order, any number of times."""

    def __init__(self, data_directory: Path, environment: dict[str, str] | None = None):
        self.data_directory = data_directory
        self._environment = environment or {}
        self.grpc_port = free_port()
        self.http_port = free_port()
        self.log = Path(tempfile.mkstemp(prefix="fermata-e2e-", suffix=".log")[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None and self._process.poll() is None, f"the server is not running; see {self.log}"
        return self._process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def client_environment(self) -> dict[str, str]:
        """What points the official client at this server, and away from the configuration of whoever runs the tests."""
        return {
            "BETA9_GATEWAY_HOST": "127.0.0.1",
            "BETA9_GATEWAY_PORT": str(self.grpc_port),
            "BETA9_API_URL": self.url,
            # Read anew for each channel; BEAM_TOKEN only once, when the client is imported.
            "BETA9_TOKEN": TOKEN,
            "BEAM_TOKEN": TOKEN,
            "CONFIG_PATH": "/nonexistent/config.ini",
            # Where the client's command line would look for a newer version of itself.
            "BASE_API_URL": "http://127.0.0.1:9",
            "NO_PROXY": "127.0.0.1",
        }

    def command_environment(self) -> dict[str, str]:
        """For our own command line. A token that was given to the server by hand is given to its clients by hand."""
        return {**os.environ, "FERMATA_DATA_DIR": str(self.data_directory), "FERMATA_TOKEN": TOKEN}

    def start(self, *options: str, timeout: float = FIRST_START_SECONDS, under: tuple[str, ...] = ()) -> None:
        """`under` is a program that becomes the server when it has changed its surroundings."""
        assert self._process is None, "the server is running already"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *under,
                    BINARY,
                    "serve",
                    f"--data-dir={self.data_directory}",
                    f"--grpc=127.0.0.1:{self.grpc_port}",
                    f"--http=127.0.0.1:{self.http_port}",
                    *options,
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environment, "FERMATA_TOKEN": TOKEN},
            )
        eventually(self._answers, f"the server is ready; see {self.log}", timeout)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"the server ended with {self._process.returncode}:\n{self.log_tail()}")
        # Written when the server takes requests; a killed one left its own behind.
        try:
            return json.loads((self.data_directory / "endpoints.json").read_text())["pid"] == self._process.pid
        except FileNotFoundError:
            return False

    def borrow_base_image(self, pool: Path) -> None:
        """Takes over what makes the first start long: the layers of another pool, and which recipe they came from."""
        folders = [pool / folder for folder in ("layers", "recipes") if (pool / folder).exists()]
        if folders:
            copy(self.pool, *folders)

    def borrow_engine(self, engine: Path) -> None:
        """Takes over the program for memory snapshots that another server has made, so that none has to wait."""
        if engine.exists():
            copy(self.engine.parent, engine)

    @property
    def pool(self) -> Path:
        return self.data_directory / "pool"

    @property
    def engine(self) -> Path:
        """What memory snapshots are made with, unless the machine has it; there only when it is whole."""
        return self.data_directory / "engines/criu"

    @property
    def memory(self) -> Path:
        """One directory a memory snapshot."""
        return self.data_directory / "memory"

    def api(self, method: str, path: str, body: object = None) -> Any:
        """One call of the server's own HTTP interface; raises `urllib.error.HTTPError` for an error status."""
        request = urllib.request.Request(
            f"{self.url}/v1{path}",
            method=method,
            data=body if body is None or isinstance(body, bytes) else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def kill(self) -> None:
        """Ends the daemon as a crash does. Sandboxes run on."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def stop(self, timeout: float = 60.0) -> int:
        """SIGTERM, as a service manager ends it; the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(timeout)
        self._process = None
        return code

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """Ends the server together with every sandbox, whatever state a test left it in."""
        if self.is_running():
            self.stop()
        self._process = None
        self.start("--stop-sandboxes")
        assert self.stop() == 0, f"the server did not end cleanly:\n{self.log_tail()}"


@contextlib.contextmanager
def pointed_at(server: Server) -> Iterator[None]:
    """The client in this process speaks to `server` inside the block."""
    wanted = server.client_environment()
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    unset_channel()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        unset_channel()
