"""A machine that was switched off and on: what was held can be played on."""

import shutil
import tempfile
from pathlib import Path

import pytest
from beam import Image, Sandbox
from commands import run, sh
from guest_programs import finish, start
from leftovers import leftovers
from reboot import reboot
from server import Server, pointed_at
from servers_inside import HTTP, get
from servers_inside import start as serve
from waiting import eventually

# The machine of before had been up for so much longer: monotonic clocks begin anew at a boot.
EARLIER_SECONDS = 1_000_000
OLD_CLOCKS = ("unshare", "--time", f"--monotonic={EARLIER_SECONDS}", f"--boottime={EARLIER_SECONDS}")


@pytest.fixture
def machine(server):
    directory = Path(tempfile.mkdtemp(prefix="fermata-e2e-reboot-", dir="/var/tmp"))
    machine = Server(directory)
    machine.borrow_base_image(server.pool)
    machine.borrow_engine(server.engine)
    machine.start(under=OLD_CLOCKS)
    with pointed_at(machine):
        yield machine
    machine.close()
    eventually(lambda: leftovers(directory) == [], f"nothing is left of {directory}")
    shutil.rmtree(directory)


def test_a_memory_snapshot_outlives_a_reboot(machine):
    # Not the client's default image, which remembers the first server that it was looked up at.
    sandbox = Sandbox(image=Image(python_version="python3.11"), ports=[8000]).create()
    assert sandbox.ok, sandbox.error_msg
    clocks = start(sandbox, "clocks")
    sh(sandbox, "rm /tmp/ready")
    counter = start(sandbox, "counter")
    serve(sandbox, HTTP, "127.0.0.1", "8000")
    eventually(lambda: get(sandbox.list_urls()[8000])[0] == 200, "it serves")
    uptime = "import time; print(time.monotonic())"
    before = float(run(sandbox, "python3", "-c", uptime).stdout)
    assert before > EARLIER_SECONDS
    snapshot = sandbox.snapshot_memory()

    reboot(machine)
    machine.start()

    record = machine.api("GET", f"/sandboxes/{sandbox.sandbox_id()}")
    assert record["status"] == "failed"
    assert record["failure"]
    for _ in range(2):
        restored = Sandbox().create_from_memory_snapshot(snapshot)
        assert restored.ok, restored.error_msg
        assert get(restored.list_urls()[8000]) == (200, "127.0.0.1 /")
        assert before < float(run(restored, "python3", "-c", uptime).stdout) < before + 60
        sh(restored, "test $(cat /count) -gt 0")
        finish(restored, counter.pid)
        finish(restored, clocks.pid)
        restored.terminate()
    # The filesystem half, and what is made afresh.
    image = machine.api("GET", f"/snapshots/{snapshot}")["image"]
    for options in ({"image": Image.from_id(image)}, {"image": Image(python_version="python3.11")}):
        with Sandbox(**options).create() as fresh:
            assert run(fresh, "true").code == 0
