"""Creating, connecting, expiring and ending sandboxes."""

import re
import time

import pytest
from beam import Sandbox
from beta9.exceptions import SandboxConnectionError, SandboxProcessError
from commands import run
from waiting import eventually

UNKNOWN = "sandbox-00000000-0000-4000-8000-000000000000-abcdefgh"


def test_ids_have_the_shape_that_beams_tools_parse(sandbox):
    assert re.fullmatch(r"sandbox-[a-f0-9-]{36}-[a-zA-Z0-9]{8}", sandbox.sandbox_id())


def test_create_twice_from_one_description(server):
    description = Sandbox(cpu=1)
    with description.create() as first, description.create() as second:
        assert first.sandbox_id() != second.sandbox_id()
        assert run(first, "touch", "/only-here").code == 0
        assert run(second, "test", "-e", "/only-here").code == 1


def test_status_poll_wait_and_terminate(sandbox):
    assert sandbox.status() == (-1, "running")
    assert sandbox.poll() is None
    assert sandbox.terminate()
    assert sandbox.poll() is not None
    assert sandbox.wait(5) == sandbox.poll()


def test_terminate_twice_by_two_callers(sandbox):
    other = Sandbox().connect(sandbox.sandbox_id())
    assert sandbox.terminate()
    assert other.terminate()


def test_an_ended_sandbox_takes_no_commands(sandbox):
    sandbox.terminate()
    for call in (
        lambda: sandbox.process.exec("true"),
        lambda: sandbox.process.list_processes(),
        lambda: sandbox.update_ttl(60),
        lambda: sandbox.update_network_permissions(),
    ):
        with pytest.raises(SandboxProcessError, match="not running"):
            call()


def test_connect(sandbox):
    run(sandbox, "touch", "/tmp/mark")
    again = Sandbox().connect(sandbox.sandbox_id())
    assert run(again, "ls", "/tmp").stdout == "mark\n"


@pytest.mark.parametrize("name", [UNKNOWN, "nonsense", "../../etc", ""])
def test_connect_to_what_is_not_there(server, name):
    with pytest.raises(SandboxConnectionError) as caught:
        Sandbox().connect(name)
    assert str(caught.value).strip()


def test_calls_on_an_unknown_sandbox(sandbox):
    real = sandbox.container_id
    sandbox.container_id = UNKNOWN
    try:
        for call in (sandbox.status, sandbox.process.list_processes, sandbox.create_image_from_filesystem):
            with pytest.raises(SandboxProcessError, match=UNKNOWN):
                call()
        assert not sandbox.terminate()
    finally:
        sandbox.container_id = real


def test_a_sandbox_nobody_uses_ends(new_sandbox):
    sandbox = new_sandbox(keep_warm_seconds=1)
    eventually(lambda: sandbox.poll() is not None, "it ended", timeout=30, pause=0.2)
    with pytest.raises(SandboxProcessError, match="not running"):
        sandbox.process.exec("true")


def test_update_ttl(sandbox):
    sandbox.update_ttl(-1)
    sandbox.update_ttl(1)
    eventually(lambda: sandbox.poll() is not None, "it ended", timeout=30, pause=0.2)


def test_each_call_is_a_use(sandbox):
    sandbox.update_ttl(2)
    for _ in range(8):
        sandbox.fs.stat_file("/tmp")
        # Only waiting can show that something does not happen.
        time.sleep(0.5)
    assert sandbox.poll() is None


def test_a_call_is_a_use_for_as_long_as_it_lasts(server, sandbox):
    pid = sandbox.process.exec("sleep", "4").pid
    sandbox.update_ttl(1)
    ended = server.api("GET", f"/sandboxes/{sandbox.container_id}/processes/{pid}?wait_ms=20000")
    assert ended["exit_code"] == 0


def test_expiry_that_came_while_the_server_was_away(server, new_sandbox):
    sandbox = new_sandbox()
    sandbox.update_ttl(1)
    server.kill()
    server.start()
    eventually(lambda: sandbox.poll() is not None, "it ended", timeout=30, pause=0.2)


def test_hostname_and_id_inside(sandbox):
    assert run(sandbox, "hostname").stdout.strip() != ""
    assert run(sandbox, "sh", "-c", "getent hosts $(hostname)").code == 0
