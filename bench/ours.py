"""Fermata, through the wire calls of the official client, without its polling."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from beta9.channel import Channel
from beta9.clients.gateway import GatewayServiceStub, GetOrCreateStubRequest, StopContainerRequest
from beta9.clients.pod import (
    CreatePodRequest,
    PodSandboxDownloadFileRequest,
    PodSandboxExecRequest,
    PodSandboxListUrlsRequest,
    PodSandboxSnapshotMemoryRequest,
    PodSandboxStatusRequest,
    PodServiceStub,
)
from clock import milliseconds, pss_kib
from contender import HeldMemory, get

REPOSITORY = Path(__file__).resolve().parents[1]
RELEASE = REPOSITORY / "target/x86_64-unknown-linux-gnu/release/fermata"
# Another build is for trying the benchmark out; the report says which one ran.
BINARY = Path(os.environ.get("FERMATA_BIN", RELEASE))
TOKEN = "benchmark-".ljust(64, "0")


class Fermata:
    name = "fermata"
    restores_at_once = None

    def __init__(self, data_directory: Path):
        self.data_directory = data_directory
        # Of cargo's directory for the profile.
        self.build = BINARY.resolve().parent.name
        self._urls: dict[str, dict[int, str]] = {}
        self.version = subprocess.run([BINARY, "--version"], capture_output=True, text=True, check=True).stdout.split()[
            1
        ]
        data_directory.mkdir(parents=True, exist_ok=True)
        self._log = (data_directory.parent / "fermata-bench.log").open("wb")
        self._server = subprocess.Popen(
            [
                BINARY,
                "serve",
                f"--data-dir={data_directory}",
                "--grpc=127.0.0.1:0",
                "--http=127.0.0.1:0",
                "--stop-sandboxes",
            ],
            env={**os.environ, "FERMATA_TOKEN": TOKEN},
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        assert self._server.stdout is not None
        if not self._server.stdout.readline():
            raise SystemExit(f"the server did not start; see {self._log.name}")
        endpoints = json.loads((data_directory / "endpoints.json").read_text())
        self._url = f"http://{endpoints['http']}/v1"
        self._channel = Channel(addr=endpoints["grpc"], token=TOKEN)
        self._gateway = GatewayServiceStub(self._channel)
        self._pods = PodServiceStub(self._channel)
        self._stubs: dict[str | None, str] = {}

    def _stub(self, image: str | None) -> str:
        """What the client prepares once for a description of a sandbox; `create` then sends one call."""
        if image not in self._stubs:
            images = self._api("GET", "/images")
            base = next(entry["id"] for entry in images if entry["origin"]["kind"] == "base")
            answer = self._gateway.get_or_create_stub(
                GetOrCreateStubRequest(
                    image_id=image or base,
                    stub_type="sandbox",
                    name="sandbox",
                    python_version="python3.11",
                    cpu=1000,
                    memory=128,
                    keep_warm_seconds=3600.0,
                    force_create=True,
                    entrypoint=["tail", "-f", "/dev/null"],
                )
            )
            assert answer.ok, answer.err_msg
            self._stubs[image] = answer.stub_id
        return self._stubs[image]

    def require_snapshots(self) -> None:
        pass

    def prepare(self, image: str | None = None) -> None:
        self._stub(image)

    def create(self, image: str | None = None) -> str:
        answer = self._pods.create_pod(CreatePodRequest(stub_id=self._stub(image)))
        assert answer.ok, answer.error_msg
        return answer.container_id

    def execute(self, sandbox: str, command: list[str]) -> None:
        answer = self._pods.sandbox_exec(
            PodSandboxExecRequest(container_id=sandbox, command=shlex.join(command), cwd="/", wait=True)
        )
        assert answer.ok, answer.error_msg
        code = answer.exit_code
        if not answer.done:
            code = -1
            while code < 0:
                time.sleep(0.01)
                code = self._pods.sandbox_status(
                    PodSandboxStatusRequest(container_id=sandbox, pid=answer.pid)
                ).exit_code
        assert code == 0, (command, code)

    def start(self, sandbox: str, command: list[str]) -> None:
        """Does not wait for its end."""
        self._api("POST", f"/sandboxes/{sandbox}/processes", {"argv": command})

    def expose(self, sandbox: str, port: int) -> str:
        return self._api("POST", f"/sandboxes/{sandbox}/ports", {"port": port})["url"]

    def hold(self, sandbox: str) -> tuple[str, float, float | None]:
        answer: dict = {}
        total = milliseconds(
            lambda: answer.update(self._api("POST", f"/sandboxes/{sandbox}/snapshots", {"kind": "filesystem"}))
        )
        return answer["image"], total, answer["paused_ms"]

    def forget(self, image: str) -> None:
        self._stubs.pop(image, None)
        self._api("DELETE", f"/images/{image}")

    def run(self, command: list[str], port: int | None) -> str:
        sandbox = self.create()
        if port is not None:
            self.expose(sandbox, port)
            self._urls[sandbox] = self._list_urls(sandbox)
        self.start(sandbox, command)
        return sandbox

    def asking(self, sandbox: str, port: int) -> Callable[[], None]:
        url = self._urls[sandbox][port]
        return lambda: get(url)

    def hold_memory(self, sandbox: str) -> HeldMemory:
        answers = []
        total_ms = milliseconds(
            lambda: answers.append(
                self._pods.sandbox_snapshot_memory(PodSandboxSnapshotMemoryRequest(container_id=sandbox))
            )
        )
        (answer,) = answers
        assert answer.ok, answer.error_msg
        facts = self._api("GET", f"/snapshots/{answer.checkpoint_id}")
        return HeldMemory(answer.checkpoint_id, total_ms, facts["paused_ms"], facts["memory_bytes"])

    def restore(self, held: HeldMemory) -> str:
        """With its new URLs, as whoever made it needs them."""
        answer = self._pods.create_pod(CreatePodRequest(checkpoint_id=held.name))
        assert answer.ok, answer.error_msg
        self._urls[answer.container_id] = self._list_urls(answer.container_id)
        return answer.container_id

    def _list_urls(self, sandbox: str) -> dict[int, str]:
        answer = self._pods.sandbox_list_urls(PodSandboxListUrlsRequest(container_id=sandbox))
        assert answer.ok, answer.error_msg
        return answer.urls

    def forget_memory(self, held: HeldMemory) -> None:
        self._api("DELETE", f"/snapshots/{held.name}")

    def criu(self) -> list[str] | None:
        """The words that start the CRIU in use, which the server makes in the background at its first start."""
        prefix = self.data_directory / "engines/criu"
        deadline = time.monotonic() + 60
        while not prefix.exists() and shutil.which("criu") is None and time.monotonic() < deadline:
            time.sleep(0.1)
        if not prefix.exists():
            found = shutil.which("criu")
            return [found] if found else None
        # Through its own loader, because the libraries of this machine may be older.
        loader, libraries = prefix / "usr/lib64/ld-linux-x86-64.so.2", prefix / "usr/lib/x86_64-linux-gnu"
        return [str(loader), "--library-path", str(libraries), str(prefix / "usr/sbin/criu")]

    def end(self, sandbox: str) -> None:
        self._urls.pop(sandbox, None)
        assert self._gateway.stop_container(StopContainerRequest(container_id=sandbox)).ok

    def idle_kib(self, sandbox: str) -> int:
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if sandbox in command and str(self.data_directory) in command:
                shim = int(entry.name)
                (agent,) = Path(f"/proc/{shim}/task/{shim}/children").read_text().split()
                return pss_kib(shim) + pss_kib(int(agent))
        raise AssertionError(f"the shim of {sandbox} was not found")

    def export_root(self, target: Path) -> None:
        """The base image's root as a tar file, so that all systems run the same one."""
        sandbox = self.create()
        self.execute(sandbox, ["sh", "-c", "tar --one-file-system --exclude=./root.tar -cf /root.tar -C / ."])
        with target.open("wb") as file:
            while True:
                answer = self._pods.sandbox_download_file(
                    PodSandboxDownloadFileRequest(
                        container_id=sandbox, container_path="/root.tar", offset=file.tell(), length=4 << 20
                    )
                )
                assert answer.ok, answer.error_msg
                file.write(answer.data)
                if len(answer.data) < 4 << 20:
                    break
        self.end(sandbox)

    def _api(self, method: str, path: str, body: object = None):
        request = urllib.request.Request(
            f"{self._url}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=600) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def close(self) -> None:
        self._channel.close()
        self._server.send_signal(signal.SIGTERM)
        assert self._server.wait(120) == 0
