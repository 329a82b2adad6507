"""kill -9 of the daemon, of the shim and of the agent, in the middle of what they do."""

import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from beam import Image, Sandbox
from beta9.exceptions import SandboxConnectionError, SandboxProcessError
from commands import run, sh
from host import agent_of, await_end, cgroups_of, shim_of
from leftovers import leftovers
from server import BINARY
from waiting import eventually

UNHEARD = (SandboxProcessError, SandboxConnectionError, OSError)


def restart(server) -> None:
    server.kill()
    server.start()


def test_everything_is_found_again(server, new_sandbox):
    sandbox = new_sandbox(env={"MARK": "m"})
    running = sandbox.process.exec(
        "sh", "-c", "echo before; until [ -e /tmp/go ]; do sleep 0.05; done; echo after; exit 6"
    )
    ended = sandbox.process.exec("sh", "-c", "echo unread; echo unread-too >&2; exit 5")
    assert ended.wait() == 5
    half_read = sandbox.process.exec("sh", "-c", "echo one; until [ -e /tmp/go ]; do sleep 0.05; done; echo two")
    eventually(lambda: half_read.stdout.read() == "one\n", "the first half is there")

    restart(server)

    assert sandbox.status() == (-1, "running")
    assert (ended.status()[0], ended.stdout.read(), ended.stderr.read()) == (5, "unread\n", "unread-too\n")
    assert running.status()[0] == -1
    sandbox.fs.write_text("/tmp/go", "")
    assert running.wait(20) == 6
    assert running.stdout.read() == "before\nafter\n"
    assert half_read.wait(20) == 0
    assert half_read.stdout.read() == "two\n"
    assert run(sandbox, "sh", "-c", "echo $MARK").stdout == "m\n"


def test_what_ended_while_the_daemon_was_away(server, new_sandbox):
    sandbox, doomed = new_sandbox(), new_sandbox()
    process = sandbox.process.exec("sh", "-c", "until [ -e /tmp/go ]; do sleep 0.02; done; echo done; exit 3")
    agent = agent_of(server, doomed)
    run(sandbox, "touch", "/tmp/go")
    server.kill()
    os.kill(agent, signal.SIGKILL)
    await_end(agent)
    server.start()
    assert process.wait(20) == 3
    assert process.stdout.read() == "done\n"
    assert doomed.poll() == 137


def test_a_call_that_was_under_way_is_made_again(server, new_sandbox):
    """The client repeats it under the same request id; the agent knows what it has started already."""
    sandbox = new_sandbox()
    for number in range(5):
        starter = threading.Thread(
            target=lambda n=number: sandbox.process.exec("sh", "-c", f"echo x >>/ran-{n}").wait(60)
        )
        starter.start()
        time.sleep(random.uniform(0, 0.03))  # anywhere in the call
        restart(server)
        starter.join(90)
        assert sandbox.fs.read_text(f"/ran-{number}") == "x\n"


def test_killed_in_the_middle_of_creating(server, new_sandbox):
    """What was answered is there; what was not is gone without a trace."""
    answered: list[str] = []
    description = Sandbox()
    description.create().terminate()
    for _ in range(5):
        creator = threading.Thread(target=lambda: create_quietly(description, answered))
        creator.start()
        time.sleep(random.uniform(0, 0.08))  # anywhere in the call
        restart(server)
        creator.join(60)
    running = {s["id"] for s in server.api("GET", "/sandboxes") if s["status"] == "running"}
    assert set(answered) <= running
    for name in running:
        sandbox = Sandbox().connect(name)
        assert run(sandbox, "echo", "fine").stdout == "fine\n"
        sandbox.terminate()
    assert not [s for s in server.api("GET", "/sandboxes") if s["status"] not in ("stopped", "failed")]


def create_quietly(description, answered) -> None:
    import grpc

    try:
        answered.append(description.create().sandbox_id())
    except (*UNHEARD, grpc.RpcError):
        pass


def test_killed_in_the_middle_of_a_snapshot(server, new_sandbox):
    """The sandbox runs on thawed; an image is whole or not there."""
    import grpc

    sandbox = new_sandbox()
    sh(sandbox, "head -c 30M /dev/urandom >/data; sha256sum /data >/sum")
    for _ in range(6):
        held: list[str] = []
        errors: list[BaseException] = []

        def hold(held=held, errors=errors) -> None:
            try:
                held.append(sandbox.create_image_from_filesystem())
            except (*UNHEARD, grpc.RpcError) as error:
                errors.append(error)

        sh(sandbox, "head -c 30M /dev/urandom >/data; sha256sum /data >/sum")
        holder = threading.Thread(target=hold)
        holder.start()
        time.sleep(random.uniform(0, 0.1))  # anywhere in the call
        restart(server)
        holder.join(60)
        assert run(sandbox, "echo", "thawed").stdout == "thawed\n"
        for image in server.api("GET", "/images"):
            if image["origin"] == {"kind": "snapshot", "sandbox": sandbox.sandbox_id()}:
                child = new_sandbox(image=Image.from_id(image["id"]))
                assert run(child, "sha256sum", "-c", "/sum").code == 0
                child.terminate()
        assert all(any(image["id"] == name for image in server.api("GET", "/images")) for name in held)


def test_killed_in_the_middle_of_an_upload(server, new_sandbox):
    """The client goes on with the chunk that was not answered."""
    sandbox = new_sandbox()
    data = os.urandom(64 << 20)
    errors: list[BaseException] = []

    def upload() -> None:
        try:
            sandbox.fs.write_bytes("/workspace/big", data)
        except BaseException as error:
            errors.append(error)

    uploader = threading.Thread(target=upload)
    uploader.start()
    eventually(lambda: any(f.size > 8 << 20 for f in sandbox.fs.list_files("/workspace")), "some of it is there")
    restart(server)
    uploader.join(120)
    assert errors == []
    assert sandbox.fs.read_bytes("/workspace/big") == data


def test_killed_while_sandboxes_end(server, new_sandbox):
    for _ in range(3):
        sandbox = new_sandbox()
        stopper = threading.Thread(target=sandbox.terminate)
        stopper.start()
        time.sleep(random.uniform(0, 0.05))  # anywhere in the call
        restart(server)
        stopper.join(60)
        eventually(lambda s=sandbox: s.poll() is not None, "it ended")
        eventually(lambda s=sandbox: cgroups_of(s) == [], "its control groups are gone")


@pytest.mark.parametrize("victim", ["shim", "agent"])
def test_a_killed_keeper_ends_its_sandbox_with_a_reason(server, new_sandbox, victim):
    sandbox, neighbour = new_sandbox(), new_sandbox()
    sandbox.process.exec("sleep", "1000")
    shim, agent = shim_of(server, sandbox), agent_of(server, sandbox)
    os.kill(shim if victim == "shim" else agent, signal.SIGKILL)
    for pid in (shim, agent):
        await_end(pid)
    eventually(lambda: sandbox.poll() is not None, "the server knows")
    record = server.api("GET", f"/sandboxes/{sandbox.sandbox_id()}")
    assert record["status"] in ("stopped", "failed")
    if victim == "shim":
        assert record["status"] == "failed"
        assert record["failure"]
        assert sandbox.poll() != 0
    else:
        assert sandbox.poll() == 137
    with pytest.raises(SandboxProcessError, match="not running"):
        sandbox.process.exec("true")
    eventually(lambda: cgroups_of(sandbox) == [], "its control groups are gone")
    eventually(
        lambda: not [line for line in leftovers(server.data_directory) if sandbox.sandbox_id() in line], "no rest"
    )
    assert run(neighbour, "echo", "fine").stdout == "fine\n"


def test_sigterm_leaves_the_sandboxes_running(server, new_sandbox):
    sandbox = new_sandbox()
    process = sandbox.process.exec("sleep", "1000")
    agent = agent_of(server, sandbox)
    assert server.stop() == 0
    assert os.path.exists(f"/proc/{agent}")
    server.start()
    assert process.status()[0] == -1
    assert run(sandbox, "echo", "fine").stdout == "fine\n"


def test_stop_sandboxes_ends_them(server, new_sandbox):
    sandbox = new_sandbox()
    agent = agent_of(server, sandbox)
    server.stop()
    server.start("--stop-sandboxes")
    assert server.stop() == 0
    assert not os.path.exists(f"/proc/{agent}")
    assert leftovers(server.data_directory) == []
    server.start()
    assert sandbox.poll() is not None


def test_a_second_server_on_the_same_data_is_refused(server):
    answer = subprocess.run(
        [BINARY, "serve", f"--data-dir={server.data_directory}", "--grpc=127.0.0.1:0", "--http=127.0.0.1:0"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert answer.returncode != 0
    assert str(server.data_directory) in answer.stderr
    assert run(Sandbox().create(), "true").code == 0


def test_a_taken_port_is_named_before_anything_is_made(server, tmp_path):
    answer = subprocess.run(
        [BINARY, "serve", f"--data-dir={tmp_path}", f"--grpc=127.0.0.1:{server.grpc_port}", "--http=127.0.0.1:0"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert answer.returncode != 0
    assert str(server.grpc_port) in answer.stderr
    assert not (tmp_path / "pool").exists()


def test_random_kills_under_load(server, new_sandbox):
    """Workers create, run, hold and end while the daemon is killed again and again; afterwards the books are right."""
    program = (
        "import sys, random\n"
        "from beam import Sandbox, Image\n"
        "import grpc\n"
        "for n in range(6):\n"
        "    try:\n"
        "        sandbox = Sandbox().create()\n"
        "        p = sandbox.process.exec('sh', '-c', f'echo {n} >/n; cat /n'); p.wait(60)\n"
        "        assert p.stdout.read() == f'{n}\\n'\n"
        "        if n % 2: sandbox.create_image_from_filesystem()\n"
        "        sandbox.terminate()\n"
        "    except (grpc.RpcError, RuntimeError, Exception) as error:\n"
        "        if isinstance(error, AssertionError): raise\n"
    )
    environment = {"PATH": "/usr/bin:/bin", **server.client_environment()}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", program], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    try:
        for _ in range(6):
            time.sleep(random.uniform(0.2, 1.0))  # a random moment is the point
            restart(server)
        for worker in workers:
            _, stderr = worker.communicate(timeout=150)
            assert worker.returncode == 0, stderr.decode()[-2000:]
    finally:
        for worker in workers:
            worker.kill()
    for sandbox in server.api("GET", "/sandboxes"):
        if sandbox["status"] == "running":
            server.api("DELETE", f"/sandboxes/{sandbox['id']}")
    assert not [s for s in server.api("GET", "/sandboxes") if s["status"] not in ("stopped", "failed")]
    for image in server.api("GET", "/images"):
        child = Sandbox(image=Image.from_id(image["id"])).create()
        assert run(child, "true").code == 0
        child.terminate()
