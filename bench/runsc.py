"""gVisor's runsc, driven directly, as its own documentation does for single sandboxes."""

import json
import shutil
import subprocess
from pathlib import Path

from clock import pss_kib
from contender import Unavailable


class Runsc:
    name = "runsc"

    def __init__(self, work: Path, root: Path, program: Path | None):
        if program is None or not program.exists():
            raise Unavailable("runsc is not installed")
        self._runsc = [
            str(program),
            f"--root={work}/runsc",
            "--platform=systrap",
            # It cannot make a network of its own when driven directly; the others have one.
            "--network=none",
            "--overlay2=root:memory",
            "--ignore-cgroups",
        ]
        self.version = subprocess.run(
            [program, "--version"], capture_output=True, text=True, check=True
        ).stdout.split()[2]
        self._bundle = work / "bundle"
        shutil.rmtree(self._bundle, ignore_errors=True)
        (self._bundle / "rootfs").mkdir(parents=True)
        subprocess.run(["tar", "-xpf", root, "-C", self._bundle / "rootfs"], check=True)
        subprocess.run([program, "spec", "--", "sleep", "100000"], cwd=self._bundle, check=True)
        settings = json.loads((self._bundle / "config.json").read_text())
        settings["process"]["terminal"] = False
        settings["root"]["readonly"] = False
        (self._bundle / "config.json").write_text(json.dumps(settings))
        self._number = 0
        try:
            self.end(self.create())
        except subprocess.CalledProcessError as error:
            raise Unavailable(f"runsc cannot run a container here: {error.stderr}") from error

    def _call(self, *arguments: str) -> str:
        # The sandbox inherits the streams of `create`: they must not be pipes that this process waits on.
        with open(self._bundle / "log", "w+") as log:
            subprocess.run([*self._runsc, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)
            log.seek(0)
            return log.read()

    def require_snapshots(self) -> None:
        raise Unavailable("runsc has no snapshot of a filesystem alone")

    def prepare(self, image: str | None = None) -> None:
        pass

    def create(self, image: str | None = None) -> str:
        self._number += 1
        name = f"bench-{self._number}"
        self._call("create", f"--bundle={self._bundle}", name)
        self._call("start", name)
        return name

    def execute(self, sandbox: str, command: list[str]) -> None:
        self._call("exec", sandbox, *command)

    def hold(self, sandbox: str) -> tuple[str, float, float | None]:
        raise NotImplementedError

    def forget(self, image: str) -> None:
        raise NotImplementedError

    def end(self, sandbox: str) -> None:
        self._call("delete", "--force", sandbox)

    def idle_kib(self, sandbox: str) -> int:
        pids = [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and self._belongs(entry, sandbox)
        ]
        assert pids, f"no process of {sandbox} was found"
        return sum(pss_kib(pid) for pid in pids)

    @staticmethod
    def _belongs(entry: Path, sandbox: str) -> bool:
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            return False
        return words[0].startswith("runsc-") and sandbox in words

    def close(self) -> None:
        for number in range(1, self._number + 1):
            subprocess.run(
                [*self._runsc, "delete", "--force", f"bench-{number}"], stderr=subprocess.DEVNULL, check=False
            )
