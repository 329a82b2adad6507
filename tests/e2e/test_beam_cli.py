"""Beam's own command line."""

import json
import re
import subprocess

import pytest
from commands import run
from server import BEAM


def test_doctor_and_whoami(beam):
    for command in ("doctor", "whoami"):
        answer = beam(command)
        assert answer.returncode == 0, (command, answer)


def test_create_list_stop(beam):
    created = beam("container", "create", "--format", "json")
    assert created.returncode == 0, created
    container = json.loads(created.stdout)["container_id"]
    listed = beam("container", "list", "--format", "json")
    entry = next(entry for entry in json.loads(listed.stdout) if entry["container_id"] == container)
    assert entry["status"] == "RUNNING"
    assert beam("container", "stop", container).returncode == 0
    listed = beam("container", "list", "--format", "json")
    assert container not in listed.stdout
    again = beam("container", "stop", "sandbox-00000000-0000-4000-8000-000000000000-abcdefgh")
    assert again.returncode == 1
    assert "not found" in again.stdout + again.stderr


def test_exec(beam, sandbox):
    answer = beam("container", "exec", sandbox.container_id, "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (answer.returncode, answer.stdout, answer.stderr) == (3, "out\n", "err\n")
    answer = beam("container", "exec", sandbox.container_id, "--", "cat", stdin="piped")
    assert answer.stdout == "piped"


def test_exec_with_a_timeout(beam, sandbox):
    answer = beam("container", "exec", sandbox.container_id, "--timeout", "1", "--", "sleep", "1000")
    assert answer.returncode == 1
    assert "timed out" in answer.stdout + answer.stderr
    assert all(process.exit_code >= 0 for process in sandbox.process.list_processes().values())


def test_cp(beam, sandbox, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 5000)
    assert beam("container", "cp", str(source), f"{sandbox.container_id}:/workspace/f").returncode == 0
    assert beam("container", "cp", f"{sandbox.container_id}:/workspace/f", str(tmp_path / "back")).returncode == 0
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    failed = beam("container", "cp", f"{sandbox.container_id}:/none", str(tmp_path / "none"))
    assert failed.returncode == 1
    assert "no such file" in (failed.stdout + failed.stderr).lower()


def test_attach_ends_with_the_sandbox(server, sandbox, tmp_path):
    attached = subprocess.Popen(
        [BEAM, "container", "attach", sandbox.container_id],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **server.client_environment()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=tmp_path,
    )
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            attached.wait(2)
        sandbox.terminate()
        attached.wait(30)
    finally:
        attached.kill()
        attached.communicate()


def test_checkpoint(beam, sandbox, snapshots, play_on):
    process = sandbox.process.exec("sleep", "1000")
    answer = beam("container", "checkpoint", sandbox.container_id)
    assert answer.returncode == 0, answer
    found = re.search(r"\bms-[0-9a-f]+", answer.stdout)
    assert found, answer
    snapshots.append(found[0])
    assert play_on(found[0]).process.get_process(process.pid).status()[0] == -1
    assert run(sandbox, "echo", "runs on").stdout == "runs on\n"
    unknown = beam("container", "checkpoint", "sandbox-00000000-0000-4000-8000-000000000000-abcdefgh")
    assert unknown.returncode == 1
    assert "not found" in unknown.stdout + unknown.stderr


def test_image_get(beam, sandbox):
    image_id = sandbox.create_image_from_filesystem()
    assert beam("image", "get", image_id).returncode == 0
    assert beam("image", "get", "no-such-image").returncode != 0
