"""Memory snapshots, forks and restores with our own command line."""

import json
import os
import subprocess

import pytest
from beam import Image
from commands import sh
from server import BINARY


@pytest.fixture
def forked(fermata, made):
    """Sandboxes whose ids a command printed, to end with the test."""
    from beam import Sandbox

    def connect(names: list[str]):
        instances = [Sandbox().connect(name) for name in names]
        made.extend(instances)
        return instances

    return connect


def test_a_snapshot_from_its_making_to_its_end(fermata, sandbox, forked):
    process = sandbox.process.exec("sleep", "1000")
    created = fermata("snapshot", "create", "--memory", sandbox.sandbox_id())
    assert created.returncode == 0, created
    snapshot = created.stdout.strip()
    assert "paused" in created.stderr and "ms" in created.stderr

    listed = [line.split() for line in fermata("snapshot", "ls").stdout.splitlines()]
    assert any(line[0] == snapshot and line[1] == sandbox.sandbox_id() for line in listed)
    inspected = json.loads(fermata("snapshot", "inspect", snapshot).stdout)
    assert (inspected["id"], inspected["sandbox"]) == (snapshot, sandbox.sandbox_id())
    assert (
        inspected["paused_ms"] > 0
        and inspected["memory_bytes"] > 0
        and inspected["engine"].startswith(os.environ.get("FERMATA_CHECKPOINTER", "native"))
    )
    assert snapshot in {entry["id"] for entry in json.loads(fermata("--json", "snapshot", "ls").stdout)}

    restored = fermata("restore", snapshot, "-n", "3")
    assert restored.returncode == 0, restored
    children = forked(restored.stdout.split())
    assert len(children) == 3
    assert all(child.process.get_process(process.pid).status()[0] == -1 for child in children)
    assert json.loads(fermata("snapshot", "inspect", snapshot).stdout)["sandboxes"] == 3

    refused = fermata("snapshot", "rm", snapshot)
    assert refused.returncode == 1
    assert "in use" in refused.stderr and children[0].sandbox_id() in refused.stderr
    for child in children:
        child.terminate()
    removed = fermata("snapshot", "rm", snapshot)
    assert (removed.returncode, removed.stdout.strip()) == (0, snapshot)
    assert snapshot not in fermata("snapshot", "ls").stdout
    assert inspected["image"] not in fermata("image", "ls").stdout
    gone = fermata("restore", snapshot)
    assert gone.returncode == 1
    assert snapshot in gone.stderr


def test_rm_can_leave_the_filesystem_half(fermata, sandbox, new_sandbox):
    sh(sandbox, "echo held >/held")
    snapshot = json.loads(fermata("--json", "snapshot", "create", "--memory", sandbox.sandbox_id()).stdout)
    assert fermata("snapshot", "rm", "--keep-image", snapshot["id"]).returncode == 0
    assert snapshot["id"] not in fermata("snapshot", "ls").stdout
    child = new_sandbox(image=Image.from_id(snapshot["image"]))
    assert sh(child, "cat /held") == "held\n"
    child.terminate()
    assert fermata("image", "rm", snapshot["image"]).returncode == 0


def test_rm_refuses_while_something_runs_from_the_filesystem_half(fermata, sandbox, new_sandbox):
    snapshot = json.loads(fermata("--json", "snapshot", "create", "--memory", sandbox.sandbox_id()).stdout)
    child = new_sandbox(image=Image.from_id(snapshot["image"]))
    refused = fermata("snapshot", "rm", snapshot["id"])
    assert refused.returncode == 1
    assert child.sandbox_id() in refused.stderr
    child.terminate()
    assert fermata("snapshot", "rm", snapshot["id"]).returncode == 0


def test_stop_ends_the_sandbox_at_that_instant(fermata, sandbox, snapshots, play_on):
    script = "n=0; while :; do n=$((n + 1)); echo $n >/count; done"
    process = sandbox.process.exec("sh", "-c", script)
    sandbox.fs.wait_for("/count")
    stopped = fermata("snapshot", "create", "--memory", "--stop", sandbox.sandbox_id())
    assert stopped.returncode == 0, stopped
    snapshots.append(stopped.stdout.strip())
    assert sandbox.poll() is not None
    child = play_on(snapshots[0])
    assert child.process.get_process(process.pid).status()[0] == -1
    assert fermata("snapshot", "create", "--stop", child.sandbox_id()).returncode == 2


def test_fork(fermata, server, sandbox, forked):
    process = sandbox.process.exec("sh", "-c", "until [ -e /tmp/go ]; do sleep 0.02; done; hostname")
    answer = fermata("fork", sandbox.sandbox_id(), "-n", "5")
    assert answer.returncode == 0, answer
    assert "paused" in answer.stderr
    children = forked(answer.stdout.split())
    assert len(children) == 5
    said = set()
    for each in (sandbox, *children):
        each.fs.write_text("/tmp/go", "")
        held = each.process.get_process(process.pid)
        assert held.wait(20) == 0
        said.add(held.stdout.read())
    assert len(said) == 6
    assert server.api("GET", "/snapshots") == []
    for child in children:
        record = server.api("GET", f"/sandboxes/{child.sandbox_id()}")
        assert record["restored_from"] == {"kind": "sandbox", "id": sandbox.sandbox_id()}


def test_fork_of_a_fork_whose_source_is_gone(fermata, sandbox, forked):
    sh(sandbox, "echo of the first >/file")
    process = sandbox.process.exec("sleep", "1000")
    for _ in range(3):
        answer = json.loads(fermata("--json", "fork", sandbox.sandbox_id()).stdout)
        assert answer["paused_ms"] > 0
        sandbox.terminate()
        [sandbox] = forked([child["sandbox"]["id"] for child in answer["children"]])
    assert sh(sandbox, "cat /file") == "of the first\n"
    assert sandbox.process.get_process(process.pid).status()[0] == -1


def test_a_command_that_runs_meanwhile(server, sandbox, hold):
    """`fermata exec` is connected to the sandbox all the while, and notices nothing."""
    command = [BINARY, "exec", "-i", sandbox.sandbox_id(), "--", "cat"]
    environment = server.command_environment()
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdin and process.stdout
        for number in range(4):
            process.stdin.write(f"line {number}\n")
            assert process.stdout.readline() == f"line {number}\n"
            hold(sandbox)
        process.stdin.close()
        assert process.wait(20) == 0


def test_names_may_be_shortened(fermata, sandbox, hold, forked):
    snapshot = hold(sandbox)
    assert json.loads(fermata("snapshot", "inspect", snapshot[:-4]).stdout)["id"] == snapshot
    assert len(forked(fermata("restore", snapshot[:-4]).stdout.split())) == 1
    for wrong in (
        ("restore", "nobody"),
        ("snapshot", "rm", "nobody"),
        ("snapshot", "inspect", "nobody"),
        ("fork", "nobody"),
    ):
        answer = fermata(*wrong)
        assert (answer.returncode, answer.stdout) == (1, ""), answer
        assert "nobody" in answer.stderr
    assert fermata("fork", sandbox.sandbox_id(), "-n", "0").returncode in (1, 2)
