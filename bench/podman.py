"""podman with runc, with storage of its own."""

import itertools
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from clock import milliseconds, pss_kib
from contender import HeldMemory, Unavailable, get

BASE = "localhost/base:latest"

# Its network makes these.
TABLES = {f"table {family} {name}" for family in ("ip", "ip6") for name in ("nat", "filter")}

# A call that takes longer will not end.
CALL_SECONDS = 300


class Podman:
    name = "podman"
    # More at once are no faster: each of them unpacks its own copy.
    restores_at_once = os.cpu_count()

    def __init__(self, work: Path, root: Path, criu: list[str] | None):
        if shutil.which("podman") is None:
            raise Unavailable("podman is not installed")
        self._work = work
        self._numbers = itertools.count(1)
        self._environment = {**os.environ, "PATH": f"{_programs(work, criu)}:{os.environ['PATH']}"}
        self._criu = criu
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
        self.version = f"{version}, runc {runc}, {_version_of(criu)}"
        self._tables = _nft_tables()
        try:
            self._call("import", str(root), BASE)
            self.end(self.create())
        except subprocess.CalledProcessError as error:
            self.close()
            raise Unavailable(f"podman cannot run a container here: {error.stderr.strip().splitlines()[-1]}") from error
        except BaseException:
            self.close()
            raise

    def _call(self, *arguments: str) -> str:
        answer = subprocess.run(
            [*self._podman, *arguments],
            capture_output=True,
            text=True,
            check=True,
            env=self._environment,
            timeout=CALL_SECONDS,
        )
        return answer.stdout.strip()

    def require_snapshots(self) -> None:
        pass

    def prepare(self, image: str | None = None) -> None:
        pass

    def create(self, image: str | None = None) -> str:
        return self._run(image or BASE, ["sleep", "100000"])

    def _run(self, image: str, command: list[str]) -> str:
        # The limits that it sets by default are above what an unprivileged machine may raise.
        limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096"]
        return self._call("run", "--detach", *limits, image, *command)

    def execute(self, sandbox: str, command: list[str]) -> None:
        self._call("exec", sandbox, *command)

    def hold(self, sandbox: str) -> tuple[str, float, float | None]:
        image: list[str] = []
        total = milliseconds(lambda: image.append(self._call("commit", "--quiet", sandbox)))
        return image[0], total, None

    def forget(self, image: str) -> None:
        self._call("rmi", "--force", image)

    def run(self, command: list[str], port: int | None) -> str:
        """As the container's own program: one with a program that `exec` started is not held."""
        if self._criu is None:
            raise Unavailable("there is no CRIU that works here")
        return self._run(BASE, command)

    def asking(self, sandbox: str, port: int) -> Callable[[], None]:
        (state,) = json.loads(self._call("inspect", sandbox))
        networks = state["NetworkSettings"]["Networks"].values()
        (address,) = {network["IPAddress"] for network in networks}
        return lambda: get(f"http://{address}:{port}/")

    def hold_memory(self, sandbox: str) -> HeldMemory:
        """Into a file, without which there could be no second copy."""
        file = self._work / f"held-{next(self._numbers)}.tar"
        told: list[str] = []
        total_ms = milliseconds(
            lambda: told.append(
                self._call(
                    *("container", "checkpoint", "--leave-running", "--print-stats"),
                    *("--compress=none", f"--export={file}", sandbox),
                )
            )
        )
        (facts,) = json.loads(told[0])["container_statistics"]
        paused_us = facts["criu_statistics"]["frozen_time"]
        return HeldMemory(str(file), total_ms, paused_us / 1000, file.stat().st_size)

    def restore(self, held: HeldMemory) -> str:
        name = f"copy-{next(self._numbers)}"
        try:
            self._call("container", "restore", f"--import={held.name}", f"--name={name}")
        except BaseException:
            # What a failed restore leaves has the name already.
            subprocess.run(
                [*self._podman, "rm", "--force", "--ignore", "--time=0", name], capture_output=True, check=False
            )
            raise
        return name

    def forget_memory(self, held: HeldMemory) -> None:
        Path(held.name).unlink()

    def end(self, sandbox: str) -> None:
        self._call("rm", "--force", "--time=0", sandbox)

    def idle_kib(self, sandbox: str) -> int:
        (state,) = json.loads(self._call("inspect", sandbox))
        return pss_kib(int(state["State"]["ConmonPid"]))

    def close(self) -> None:
        for command in (["rm", "--all", "--force", "--time=0"], ["rmi", "--all", "--force"]):
            # What follows is cleaned in any case.
            subprocess.run([*self._podman, *command], stdout=subprocess.DEVNULL, check=False)
        # Its network stays behind when the last container is gone.
        for table in _nft_tables() - self._tables:
            subprocess.run(["nft", "delete", *table.split()], check=False)
        subprocess.run(["ip", "link", "delete", "podman0"], stderr=subprocess.DEVNULL, check=False)
        # Its storage is mounted onto itself.
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for place in reversed([place for place in mounts if place.startswith(f"{self._work}/podman")]):
            subprocess.run(["umount", "--lazy", place], check=False)


def _programs(work: Path, criu: list[str] | None) -> Path:
    """A directory for the front of PATH, where runc finds this CRIU: the distribution's may be too old."""
    place = work / "programs"
    place.mkdir(exist_ok=True)
    if criu is not None:
        program = place / "criu"
        program.write_text(f'#!/bin/sh\nexec {shlex.join(criu)} "$@"\n')
        program.chmod(0o755)
    return place


def _version_of(criu: list[str] | None) -> str:
    if criu is None:
        return "no CRIU"
    answer = subprocess.run([*criu, "--version"], capture_output=True, text=True, check=True).stdout
    return f"CRIU {answer.split()[1]}"


def _nft_tables() -> set[str]:
    """Those that it would make; others may come and go meanwhile and are not ours to delete."""
    answer = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True)
    return TABLES.intersection(answer.stdout.splitlines())
