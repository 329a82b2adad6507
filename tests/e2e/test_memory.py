"""Holding a sandbox with its memory and playing it on, with the official client."""

import os
import subprocess
import sys
import urllib.error
from concurrent.futures import ThreadPoolExecutor

import pytest
from beam import Image, Sandbox
from beta9.exceptions import SandboxConnectionError, SandboxProcessError
from commands import run, sh
from server import REPOSITORY
from servers_inside import HTTP, get, is_open, start
from waiting import eventually

# Counts once for each line of its input, and says the count.
COUNTER = "import sys\nfor n, _ in enumerate(sys.stdin): print(n, flush=True)"
UNKNOWN = "ms-000000000000000"


def test_the_programs_of_the_demo(server, tmp_path):
    """As a user runs them: nothing but the client, and an id that is passed on."""
    environment = {"PATH": "/usr/bin:/bin", **server.client_environment()}
    note = tmp_path / "snapshot"

    def demo(*argv: str) -> str:
        answer = subprocess.run(
            [sys.executable, *argv],
            env=environment,
            cwd=REPOSITORY / "demo",
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert answer.returncode == 0, answer
        return answer.stdout

    assert "8000" in demo("3_hold_memory.py", str(note))
    snapshot = note.read_text()
    try:
        for _ in range(2):
            assert ": 200\n" in demo("4_play_memory_on.py", snapshot)
    finally:
        server.api("DELETE", f"/snapshots/{snapshot}")


def test_the_sandbox_runs_on(sandbox, hold):
    process = sandbox.process.exec("sh", "-c", "until [ -e /tmp/go ]; do sleep 0.01; done; echo on; exit 3")
    snapshots = [hold(sandbox) for _ in range(3)]
    assert len(set(snapshots)) == 3
    sandbox.fs.write_text("/tmp/go", "")
    assert (process.wait(20), process.stdout.read()) == (3, "on\n")
    assert run(sandbox, "echo", "takes commands").stdout == "takes commands\n"


def test_what_is_done_later_is_not_in_it(sandbox, hold, play_on):
    sh(sandbox, "echo before >/file")
    snapshot = hold(sandbox)
    sh(sandbox, "echo after >/file; touch /new")
    first = play_on(snapshot)
    assert sh(first, "cat /file; ls /new || true") == "before\n"
    sh(first, "echo elsewhere >/file")
    assert sh(play_on(snapshot), "cat /file") == "before\n"
    assert sh(sandbox, "cat /file") == "after\n"


def test_a_dozen_at_once(sandbox, hold, play_on):
    process = sandbox.process.exec("sh", "-c", "x=kept; until [ -e /tmp/go ]; do sleep 0.02; done; hostname; echo $x")
    snapshot = hold(sandbox)
    with ThreadPoolExecutor(12) as pool:
        children = list(pool.map(play_on, [snapshot] * 12))
    assert len({child.sandbox_id() for child in children}) == 12
    said = set()
    for child in children:
        child.fs.write_text("/tmp/go", "")
        held = child.process.get_process(process.pid)
        assert held.wait(20) == 0
        said.add(held.stdout.read())
    assert len(said) == 12
    assert all(words.endswith("\nkept\n") for words in said)
    assert process.status()[0] == -1


def test_after_the_source_and_the_server_are_gone(server, sandbox, hold, play_on):
    process = sandbox.process.exec("sh", "-c", "until [ -e /tmp/go ]; do sleep 0.02; done; exit 9")
    snapshot = hold(sandbox)
    sandbox.terminate()
    before = play_on(snapshot)
    server.kill()
    server.start()
    after = play_on(snapshot)
    for child in (before, after):
        child.fs.write_text("/tmp/go", "")
        assert child.process.get_process(process.pid).wait(20) == 9
    server.stop()
    server.start()
    assert run(play_on(snapshot), "echo", "again").stdout == "again\n"


def test_the_agents_process_table_and_output(sandbox, hold, play_on):
    ended = sandbox.process.exec("sh", "-c", "echo unread; echo error >&2; exit 5")
    assert ended.wait() == 5
    read = sandbox.process.exec(
        "sh", "-c", "echo one; until [ -e /tmp/go ]; do sleep 0.02; done; echo two", env={"A": "b"}
    )
    eventually(lambda: read.stdout.read() == "one\n", "the first half is there")
    killed = sandbox.process.exec("sleep", "1000")
    killed.kill()
    assert killed.wait() == 137
    children = [play_on(hold(sandbox)) for _ in range(2)]
    table = {pid: (p.args, p.cwd, p.exit_code) for pid, p in sandbox.process.list_processes().items()}
    for each in (*children, sandbox):
        processes = each.process.list_processes()
        assert {pid: (p.args, p.cwd, p.exit_code) for pid, p in processes.items()} == table
        same = processes[ended.pid]
        assert (same.wait(), same.stdout.read(), same.stderr.read()) == (5, "unread\n", "error\n")
        assert processes[killed.pid].wait() == 137
        each.fs.write_text("/tmp/go", "")
        assert processes[read.pid].wait(20) == 0
        # What was read before the snapshot is not said again.
        assert processes[read.pid].stdout.read() == "two\n"


def test_processes_have_the_same_pids(sandbox, hold, play_on):
    script = "sleep 1000 & sleep 1000 & until [ -e /tmp/go ]; do sleep 1000; done"
    sandbox.process.exec("sh", "-c", script)
    eventually(lambda: sh(sandbox, "pgrep -c sleep || true").strip() == "3", "all have been started")
    look = "ps -eo pid,ppid,pgid,sid,s,args | grep -v 'ps -eo' | grep -v 'sh -ec'"
    tree = sh(sandbox, look)
    child = play_on(hold(sandbox))
    assert sh(child, look) == tree
    assert int(sh(child, "echo $$")) > max(int(line.split()[0]) for line in tree.splitlines()[1:])


def test_exposed_ports(server, new_sandbox, hold, play_on):
    sandbox = new_sandbox(ports=[8001])
    url = sandbox.expose_port(8000)
    start(sandbox, HTTP, "127.0.0.1", "8000")
    assert get(url, "/a") == (200, "127.0.0.1 /a")
    children = [play_on(hold(sandbox)) for _ in range(2)]
    urls = [each.list_urls() for each in (sandbox, *children)]
    assert urls[0][8000] == url
    assert all(set(of_one) == {8000, 8001} for of_one in urls)
    assert len({url for of_one in urls for url in of_one.values()}) == 6
    for of_one in urls:
        assert get(of_one[8000], "/b") == (200, "127.0.0.1 /b")
    children[0].terminate()
    assert not is_open(urls[1][8000])
    assert [get(of_one[8000])[0] for of_one in (urls[0], urls[2])] == [200, 200]
    server.kill()
    server.start()
    assert [get(of_one[8000])[0] for of_one in (urls[0], urls[2])] == [200, 200]


def test_the_filesystem_half(server, sandbox, hold, new_sandbox):
    sh(sandbox, "echo held >/held; touch /dev/shm/not-held")
    sandbox.process.exec("sleep", "1000")
    snapshot = hold(sandbox)
    image = server.api("GET", f"/snapshots/{snapshot}")["image"]
    fresh = new_sandbox(image=Image.from_id(image))
    assert sh(fresh, "cat /held; ls /dev/shm") == "held\n"
    assert fresh.process.list_processes().keys() == {
        pid for pid, p in fresh.process.list_processes().items() if p.args[0] == "sh"
    }
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.api("DELETE", f"/images/{image}")
    assert refused.value.code == 409
    fresh.terminate()


def test_lifetime_is_fresh(server, new_sandbox, hold, play_on):
    sandbox = new_sandbox()
    sandbox.update_ttl(2)
    snapshot = hold(sandbox)
    eventually(lambda: sandbox.poll() is not None, "nobody uses it")
    child = play_on(snapshot)
    assert child.poll() is None
    assert server.api("GET", f"/sandboxes/{child.sandbox_id()}")["spec"]["idle_timeout_seconds"] == 2
    eventually(lambda: child.poll() is not None, "nobody uses it either")


def test_settings_and_environment_stay(server, new_sandbox, hold, play_on):
    image = Image().with_envs({"OF_IMAGE": "i"}).add_commands(["echo built >/built"])
    sandbox = new_sandbox(image=image, cpu=0.5, memory=256, env={"OF_SANDBOX": "s"})
    process = sandbox.process.exec(
        "sh", "-c", "until [ -e /tmp/go ]; do sleep 0.02; done; echo $OF_PROCESS", env={"OF_PROCESS": "p"}
    )
    child = play_on(hold(sandbox))
    assert sh(child, "echo $OF_IMAGE$OF_SANDBOX$OF_PROCESS; cat /built") == "is\nbuilt\n"
    child.fs.write_text("/tmp/go", "")
    held = child.process.get_process(process.pid)
    assert (held.wait(20), held.stdout.read()) == (0, "p\n")
    of_child, of_source = (server.api("GET", f"/sandboxes/{each.sandbox_id()}")["spec"] for each in (child, sandbox))
    for setting in ("cpu_millicores", "memory_bytes", "environment", "network", "idle_timeout_seconds"):
        assert of_child[setting] == of_source[setting]


def test_stdin_of_a_held_process(server, sandbox, hold, play_on):
    path = f"/sandboxes/{sandbox.sandbox_id()}/processes"
    pid = server.api("POST", path, {"argv": ["python3", "-c", COUNTER], "stdin": True})["pid"]
    process = sandbox.process.get_process(pid)
    write(server, sandbox, pid, b"a\nb\n")
    eventually(lambda: process.stdout.read().endswith("1\n"), "it has counted")
    child = play_on(hold(sandbox))
    for each in (child, sandbox):
        held = each.process.get_process(pid)
        write(server, each, pid, b"c\n", "?close=true")
        assert (held.wait(20), held.stdout.read()) == (0, "2\n")


def write(server, sandbox, pid: int, data: bytes, query: str = "") -> None:
    server.api("POST", f"/sandboxes/{sandbox.sandbox_id()}/processes/{pid}/stdin{query}", data)


def test_a_terminal_of_the_agent(server, sandbox, hold, play_on):
    """A shell with job control, as `fermata exec -it` starts it: jobs, size, and what was typed but not read."""
    request = {"argv": ["bash", "--norc", "-i"], "tty": {"rows": 20, "columns": 70}, "stdin": True}
    pid = server.api("POST", f"/sandboxes/{sandbox.sandbox_id()}/processes", request)["pid"]
    shell = sandbox.process.get_process(pid)
    write(server, sandbox, pid, b"sleep 1000 & sleep 2000\n")
    eventually(lambda: sh(sandbox, "pgrep -c sleep || true").strip() == "2", "both jobs run")
    shell.stdout.read()
    write(server, sandbox, pid, b"echo typed-$((1 + 1)) ahead\n")
    child = play_on(hold(sandbox))
    for each in (child, sandbox):
        held = each.process.get_process(pid)
        server.api("POST", f"/sandboxes/{each.sandbox_id()}/processes/{pid}/resize", {"rows": 33, "columns": 111})
        said = ""

        def says(words: str, held=held) -> bool:
            nonlocal said
            said += held.stdout.read()
            return words in said

        sh(each, "pkill -n sleep")
        eventually(lambda: says("typed-2 ahead"), "the shell goes on with what was typed")
        write(server, each, pid, b"jobs; stty size; kill %1; exit 7\n")
        eventually(lambda: says("33 111"), "it has the new size")
        assert "Running" in said
        assert held.wait(20) == 7


def test_ten_generations(sandbox, hold, play_on, server):
    """Each is held from a sandbox that was played on itself."""
    process = sandbox.process.exec("python3", "-c", "import time\nwhile True: time.sleep(0.01)")
    generation = sandbox
    for number in range(1, 11):
        snapshot = hold(generation)
        generation.terminate()
        generation = play_on(snapshot)
        sh(generation, f"echo {number} >>/generations")
        assert sh(generation, "cat /run/fermata/generation") == f"{number}\n"
    assert sh(generation, "cat /generations").split() == [str(number) for number in range(1, 11)]
    assert generation.process.get_process(process.pid).status()[0] == -1
    assert server.api("GET", f"/snapshots/{snapshot}")["generation"] == 9


def test_a_sandbox_that_has_ended_cannot_be_held(sandbox):
    sandbox.terminate()
    with pytest.raises(SandboxProcessError, match="not running"):
        sandbox.snapshot_memory()


@pytest.mark.parametrize("name", [UNKNOWN, "nonsense", "../../etc/passwd", "base", " ", "x" * 500, "ms-\N{SNOWMAN}"])
def test_a_snapshot_that_is_not_there(server, name):
    before = len(server.api("GET", "/sandboxes"))
    with pytest.raises(SandboxConnectionError, match="not found|not a valid snapshot id"):
        Sandbox().create_from_memory_snapshot(name)
    assert len(server.api("GET", "/sandboxes")) == before


def test_an_image_is_no_memory_snapshot(sandbox, server):
    image = sandbox.create_image_from_filesystem()
    with pytest.raises(SandboxConnectionError, match="not found"):
        Sandbox().create_from_memory_snapshot(image)
    server.api("DELETE", f"/images/{image}")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", f"/snapshots/{UNKNOWN}", None, 404),
        ("DELETE", f"/snapshots/{UNKNOWN}", None, 404),
        ("POST", f"/snapshots/{UNKNOWN}/restore", {}, 404),
        ("GET", "/snapshots/not%20an%20id", None, 400),
        ("POST", "/sandboxes/nobody/fork", {}, 404),
        ("POST", "/sandboxes/nobody/snapshots", {"kind": "memory"}, 404),
        ("POST", "/sandboxes/SANDBOX/fork", {"count": 0}, 400),
        ("POST", "/sandboxes/SANDBOX/fork", {"count": 1001}, 400),
        ("POST", "/sandboxes/SANDBOX/fork", {"count": -1}, 400),
        ("POST", "/sandboxes/SANDBOX/fork", {"cuont": 1}, 400),
        ("POST", "/sandboxes/SANDBOX/snapshots", {"stop": True}, 400),
        ("POST", "/sandboxes/SANDBOX/snapshots", {"kind": "neither"}, 400),
        ("DELETE", "/snapshots/SNAPSHOT?keep=1", None, 400),
        ("POST", "/snapshots/SNAPSHOT/restore", {"count": 0}, 400),
        ("POST", "/snapshots/SNAPSHOT/restore", {"count": "two"}, 400),
    ],
)
def test_calls_that_are_wrong(server, sandbox, hold, method, path, body, status):
    if "SNAPSHOT" in path:
        path = path.replace("SNAPSHOT", hold(sandbox))
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.api(method, path.replace("SANDBOX", sandbox.sandbox_id()), body)
    assert refused.value.code == status, refused.value.read()
    assert sandbox.poll() is None


SHARED_BY_SYSTEM_V = """
import ctypes, os, time
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
memory = (ctypes.c_char * 16).from_address(libc.shmat(libc.shmget(0, 4096, 0o1600), None, 0))
memory.value = b"held"
open("/up", "w")
while not os.path.exists("/tmp/finish"):
    time.sleep(0.01)
print(memory.value.decode())
"""


@pytest.mark.skipif(
    os.environ.get("FERMATA_CHECKPOINTER", "auto") != "auto", reason="only one engine is to be used in this run"
)
def test_what_the_native_engine_refuses_is_held_by_criu(server, sandbox, hold, play_on):
    first = hold(sandbox)
    process = sandbox.process.exec("python3", "-c", SHARED_BY_SYSTEM_V)
    sandbox.fs.wait_for("/up")
    second = hold(sandbox)
    engines = [server.api("GET", f"/snapshots/{each}")["engine"].split()[0] for each in (first, second)]
    assert engines == ["native", "criu"]
    for each in (sandbox, play_on(second)):
        each.fs.write_text("/tmp/finish", "")
        held = each.process.get_process(process.pid)
        assert (held.wait(20), held.stdout.read()) == (0, "held\n"), held.stderr.read()
    assert run(play_on(first), "true").code == 0
