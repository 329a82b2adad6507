"""podman with runc, with storage of its own."""

import json
import shutil
import subprocess
from pathlib import Path

from clock import milliseconds, pss_kib
from contender import Unavailable

BASE = "localhost/base:latest"


class Podman:
    name = "podman"

    def __init__(self, work: Path, root: Path):
        if shutil.which("podman") is None:
            raise Unavailable("podman is not installed")
        self._podman = [
            "podman",
            f"--root={work}/podman",
            f"--runroot={work}/podman-run",
            "--storage-driver=overlay",
            "--cgroup-manager=cgroupfs",
            "--events-backend=none",
            "--runtime=runc",
        ]
        version = subprocess.run(["podman", "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
        runc = subprocess.run(["runc", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
        self.version = f"{version}, runc {runc}"
        self._tables = _nft_tables()
        self._call("import", str(root), BASE)
        try:
            self.end(self.create())
        except subprocess.CalledProcessError as error:
            raise Unavailable(f"podman cannot run a container here: {error.stderr.strip().splitlines()[-1]}") from error

    def _call(self, *arguments: str) -> str:
        answer = subprocess.run([*self._podman, *arguments], capture_output=True, text=True, check=True)
        return answer.stdout.strip()

    def require_snapshots(self) -> None:
        pass

    def prepare(self, image: str | None = None) -> None:
        pass

    def create(self, image: str | None = None) -> str:
        # The limits that it sets by default are above what an unprivileged machine may raise.
        limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096"]
        return self._call("run", "--detach", *limits, image or BASE, "sleep", "100000")

    def execute(self, sandbox: str, command: list[str]) -> None:
        self._call("exec", sandbox, *command)

    def hold(self, sandbox: str) -> tuple[str, float, float | None]:
        image: list[str] = []
        total = milliseconds(lambda: image.append(self._call("commit", "--quiet", sandbox)))
        return image[0], total, None

    def forget(self, image: str) -> None:
        self._call("rmi", "--force", image)

    def end(self, sandbox: str) -> None:
        self._call("rm", "--force", "--time=0", sandbox)

    def idle_kib(self, sandbox: str) -> int:
        (state,) = json.loads(self._call("inspect", sandbox))
        return pss_kib(int(state["State"]["ConmonPid"]))

    def close(self) -> None:
        self._call("rm", "--all", "--force", "--time=0")
        self._call("rmi", "--all", "--force")
        # Its network stays behind when the last container is gone.
        for table in _nft_tables() - self._tables:
            subprocess.run(["nft", "delete", *table.split()], check=False)
        subprocess.run(["ip", "link", "delete", "podman0"], stderr=subprocess.DEVNULL, check=False)


def _nft_tables() -> set[str]:
    answer = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True)
    return set(answer.stdout.splitlines())
