"""gVisor's runsc, driven directly, as its own documentation does for single sandboxes."""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from clock import milliseconds, pss_kib
from contender import HeldMemory, Unavailable

# A call that takes longer will not end.
CALL_SECONDS = 300

SLEEP = ["sleep", "100000"]

# Asks with the least that can ask, because its start inside is part of what is measured.
ASK = r"""
exec 3<>/dev/tcp/127.0.0.1/{port} && printf 'GET / HTTP/1.0\r\n\r\n' >&3 &&
read -r _ status _ <&3 && [ "$status" = 200 ]
"""


class Runsc:
    name = "runsc"
    restores_at_once = os.cpu_count()

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
        self._program = program
        self._work = work / "runsc-files"
        shutil.rmtree(self._work, ignore_errors=True)
        (self._work / "root").mkdir(parents=True)
        subprocess.run(["tar", "-xpf", root, "-C", self._work / "root"], check=True)
        self._bundles: dict[tuple[str, ...], Path] = {}
        self._bundle_of: dict[str, Path] = {}
        self._numbers = itertools.count(1)
        try:
            self.end(self.create())
        except subprocess.CalledProcessError as error:
            self.close()
            raise Unavailable(f"runsc cannot run a container here: {error.stderr}") from error
        except BaseException:
            self.close()
            raise

    def _bundle(self, command: list[str]) -> Path:
        """All of them share one root, whose changes are in the memory of each sandbox."""
        if tuple(command) not in self._bundles:
            bundle = self._work / f"bundle-{len(self._bundles)}"
            bundle.mkdir()
            subprocess.run([self._program, "spec", "--", *command], cwd=bundle, check=True)
            settings = json.loads((bundle / "config.json").read_text())
            settings["process"]["terminal"] = False
            settings["root"] = {"path": str(self._work / "root"), "readonly": False}
            (bundle / "config.json").write_text(json.dumps(settings))
            self._bundles[tuple(command)] = bundle
        return self._bundles[tuple(command)]

    def _call(self, *arguments: str) -> str:
        # The sandbox inherits the streams of `create`: they must not be pipes that this process waits on.
        with tempfile.TemporaryFile("w+", dir=self._work) as log:
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            code = subprocess.run([*self._runsc, *arguments], **streams, timeout=CALL_SECONDS).returncode
            log.seek(0)
            words = log.read()
        if code != 0:
            raise subprocess.CalledProcessError(code, ["runsc", *arguments], stderr=words)
        return words

    def require_snapshots(self) -> None:
        raise Unavailable("runsc has no snapshot of a filesystem alone")

    def prepare(self, image: str | None = None) -> None:
        pass

    def create(self, image: str | None = None) -> str:
        return self.run(SLEEP, None)

    def run(self, command: list[str], port: int | None) -> str:
        bundle = self._bundle(command)
        name = self._name(bundle)
        self._call("create", f"--bundle={bundle}", name)
        self._call("start", name)
        return name

    def _name(self, bundle: Path) -> str:
        name = f"bench-{next(self._numbers)}"
        self._bundle_of[name] = bundle
        return name

    def asking(self, sandbox: str, port: int) -> Callable[[], None]:
        """From inside, because it has no network here."""
        return lambda: self.execute(sandbox, ["bash", "-c", ASK.format(port=port)])

    def hold_memory(self, sandbox: str) -> HeldMemory:
        place = self._work / f"held-{next(self._numbers)}"
        place.mkdir()
        total_ms = milliseconds(
            lambda: self._call("checkpoint", "--leave-running", "--compression=none", f"--image-path={place}", sandbox)
        )
        (place / "bundle").symlink_to(self._bundle_of[sandbox])
        return HeldMemory(str(place), total_ms, None, sum(file.stat().st_size for file in place.glob("*.img")))

    def restore(self, held: HeldMemory) -> str:
        bundle = Path(held.name, "bundle").resolve()
        name = self._name(bundle)
        try:
            self._call("restore", "--detach", f"--bundle={bundle}", f"--image-path={held.name}", name)
        except BaseException:
            with contextlib.suppress(subprocess.SubprocessError):
                self.end(name)
            raise
        return name

    def forget_memory(self, held: HeldMemory) -> None:
        shutil.rmtree(held.name)

    def execute(self, sandbox: str, command: list[str]) -> None:
        self._call("exec", sandbox, *command)

    def hold(self, sandbox: str) -> tuple[str, float, float | None]:
        raise NotImplementedError

    def forget(self, image: str) -> None:
        raise NotImplementedError

    def end(self, sandbox: str) -> None:
        self._call("delete", "--force", sandbox)
        self._bundle_of.pop(sandbox, None)

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
        for name in self._bundle_of:
            subprocess.run([*self._runsc, "delete", "--force", name], stderr=subprocess.DEVNULL, check=False)
