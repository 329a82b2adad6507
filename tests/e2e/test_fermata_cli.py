"""Our own command line: data on stdout, talk on stderr, the child's exit code as its own."""

import json
import os
import pty
import select
import subprocess
import sys

from beam import Sandbox
from commands import run, written_bytes
from server import BINARY
from waiting import eventually


def test_run_passes_output_and_exit_code_through(fermata):
    answer = fermata("run", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (answer.returncode, answer.stdout) == (7, "out\n"), answer.stderr
    assert "err\n" in answer.stderr


def test_run_reads_stdin_when_asked(fermata):
    assert fermata("run", "-i", "--", "wc", "-c", stdin="12345").stdout.strip() == "5"


def test_a_flood_waits_until_it_is_read(server, sandbox):
    last = 8_000_000
    command = [BINARY, "exec", sandbox.sandbox_id(), "--", "seq", "1", str(last)]
    with subprocess.Popen(command, env=server.command_environment(), stdout=subprocess.PIPE, text=True) as process:
        pid = eventually(
            lambda: next((pid for pid, p in sandbox.process.list_processes().items() if p.args[0] == "seq"), None),
            "the command runs",
        )
        eventually(lambda: written_bytes(sandbox, pid) > 16 * 1024 * 1024, "more is written than the agent keeps")
        text = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert text == "".join(f"{number}\n" for number in range(1, last + 1))


def test_run_removes_its_sandbox(server, fermata):
    before = {s["id"] for s in server.api("GET", "/sandboxes")}
    assert fermata("run", "--", "true").returncode == 0
    assert {s["id"] for s in server.api("GET", "/sandboxes")} == before


def test_a_terminal(server):
    """`-it` gives the process a terminal of the size of ours, and what is typed reaches it."""
    terminal, theirs = pty.openpty()
    script = "test -t 0 && test -t 1 && echo ready && read x && echo got-$x"
    child = subprocess.Popen(
        [BINARY, "run", "-it", "--", "sh", "-c", script],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=server.command_environment(),
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""
    typed = False
    while select.select([terminal], [], [], 30)[0]:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # the other side is closed (EIO)
            break
        seen += piece
        if b"ready" in seen and not typed:
            os.write(terminal, b"hello\n")
            typed = True
    os.close(terminal)
    assert child.wait(30) == 0, seen
    assert b"got-hello" in seen


def test_life_of_a_sandbox(fermata):
    name = fermata("run", "--keep", "--env", "MARK=m", "--", "sh", "-c", "echo $MARK >/kept")
    assert name.returncode == 0
    listed = json.loads(fermata("--json", "ps").stdout)
    sandbox = listed[-1]["id"] if len(listed) == 1 else max(listed, key=lambda s: s["created_at"])["id"]
    try:
        assert fermata("exec", sandbox, "--", "cat", "/kept").stdout == "m\n"
        assert fermata("exec", sandbox, "--", "sh", "-c", "exit 9").returncode == 9
        image = fermata("snapshot", "create", sandbox).stdout.strip()
        assert image in fermata("image", "ls").stdout
        assert fermata("run", "--image", image, "--", "cat", "/kept").stdout == "m\n"
        assert fermata("image", "rm", image).returncode == 0
    finally:
        assert fermata("stop", sandbox).returncode == 0
    assert fermata("exec", sandbox, "--", "true").returncode != 0
    assert fermata("rm", sandbox).returncode == 0


def test_cp(fermata, sandbox, tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(256)) * 100)
    name = sandbox.sandbox_id()
    assert fermata("cp", str(tmp_path / "file"), f"{name}:/there").returncode == 0
    assert fermata("cp", f"{name}:/there", str(tmp_path / "back")).returncode == 0
    assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()
    failed = fermata("cp", f"{name}:/none", str(tmp_path / "none"))
    assert failed.returncode == 1
    assert "/none" in failed.stderr
    assert failed.stdout == ""


def test_logs_can_be_read_again_and_followed(fermata, sandbox):
    process = sandbox.process.exec("sh", "-c", "echo one; until [ -e /tmp/go ]; do sleep 0.05; done; echo two")
    name, pid = sandbox.sandbox_id(), str(process.pid)
    assert pid in fermata("ps", name).stdout
    follower = subprocess.Popen(
        [BINARY, "logs", "-f", name, pid], env={**os.environ, **endpoint(fermata)}, stdout=subprocess.PIPE, text=True
    )
    assert follower.stdout is not None
    assert follower.stdout.readline() == "one\n"
    sandbox.fs.write_text("/tmp/go", "")
    assert follower.communicate(timeout=30)[0] == "two\n"
    for _ in range(2):
        assert fermata("logs", name, pid).stdout == "one\ntwo\n"
    # The Beam client's reads are its own: what we have read is still there for it.
    assert process.wait(20) == 0
    assert process.stdout.read() == "one\ntwo\n"


def endpoint(fermata) -> dict[str, str]:
    exports = json.loads(fermata("--json", "env").stdout)
    return {name: exports[name] for name in ("FERMATA_URL", "FERMATA_TOKEN")}


def test_env_points_the_client_here(server, fermata):
    """`eval "$(fermata env)"` is all that a user's script needs."""
    script = f'eval "$({BINARY} env)"; exec "$0" -c "$1"'
    program = (
        "from beam import Sandbox; s = Sandbox().create(); print(s.process.run_code('print(42)').result); s.terminate()"
    )
    answer = subprocess.run(
        ["sh", "-c", script, sys.executable, program],
        env={**server.command_environment(), "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "42" in answer.stdout, answer


def test_names_may_be_shortened_but_not_guessed(fermata, new_sandbox):
    first = new_sandbox()
    new_sandbox()
    assert fermata("exec", first.sandbox_id()[:-3], "--", "true").returncode == 0
    ambiguous = fermata("exec", "sandbox-", "--", "true")
    assert ambiguous.returncode not in (0, 125) or ambiguous.stderr
    assert ambiguous.stderr
    unknown = fermata("exec", "nobody", "--", "true")
    assert unknown.returncode != 0
    assert "nobody" in unknown.stderr


def test_doctor(fermata):
    answer = fermata("doctor")
    assert answer.returncode == 0, answer.stdout
    for word in ("btrfs", "overlay", "cgroup"):
        assert word in answer.stdout
    assert isinstance(json.loads(fermata("--json", "doctor").stdout), list | dict)


def test_without_a_server(tmp_path):
    answer = subprocess.run(
        [BINARY, "ps"],
        env={"PATH": "/usr/bin:/bin", "FERMATA_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert answer.returncode == 2
    assert "fermata serve" in answer.stderr
    assert answer.stdout == ""


def test_sandboxes_of_both_interfaces_are_the_same(fermata, sandbox):
    assert sandbox.sandbox_id() in fermata("ps").stdout
    fermata("exec", sandbox.sandbox_id(), "--", "touch", "/from-cli")
    assert run(sandbox, "test", "-e", "/from-cli").code == 0
    assert Sandbox().connect(sandbox.sandbox_id()).ok


def test_ports(server, fermata):
    with Sandbox().create() as sandbox:
        name = sandbox.container_id
        url = fermata("port", name, "8000").stdout.strip()
        assert url == sandbox.list_urls()[8000]
        assert fermata("port", name, "8000").stdout.strip() == url
        table = [line.split() for line in fermata("port", name).stdout.splitlines()]
        assert table == [["PORT", "URL"], ["8000", url]]
        assert json.loads(fermata("port", name, "--json").stdout) == [{"port": 8000, "url": url}]
        assert fermata("port", name, "8000", "--close").returncode == 0
        assert json.loads(fermata("port", name, "--json").stdout) == []
        again = fermata("port", name, "8000", "--close")
        assert (again.returncode, again.stdout) == (1, "")
        assert "port 8000" in again.stderr and "not exposed" in again.stderr
        for wrong in (("0",), ("65536",), ("http",), ("--close",)):
            assert fermata("port", name, *wrong).returncode == 2


def test_run_with_ports(fermata):
    answer = fermata("run", "-p", "8000", "--port", "9000", "--", "echo", "out")
    assert (answer.returncode, answer.stdout) == (0, "out\n")
    assert "port 8000 at http://127.0.0.1:" in answer.stderr
    assert "port 9000 at http://127.0.0.1:" in answer.stderr
