"""Damage, crashes and quarrels while sandboxes are held and played on."""

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import grpc
import pytest
from beam import Sandbox
from beta9.exceptions import SandboxConnectionError, SandboxProcessError
from commands import python, run, sh
from host import cgroups_of, engines_of, shim_of, shims_of, writers_of
from leftovers import leftovers
from waiting import eventually

UNHEARD = (SandboxProcessError, SandboxConnectionError, OSError, grpc.RpcError)

# Counts in memory and in a file, and is wrong as soon as the two differ.
BUSY = """
import os
memory = bytearray(os.urandom(1 << 20)) * 60
file = os.open("/count", os.O_RDWR | os.O_CREAT)
count = 0
os.pwrite(file, b"%020d" % count, 0)
while not os.path.exists("/tmp/finish"):
    assert int(os.pread(file, 20, 0)) == count
    count += 1
    os.pwrite(file, b"%020d" % count, 0)
    memory[count * 4096 % len(memory)] = 1
"""


@pytest.fixture
def busy(new_sandbox):
    """A sandbox with some memory, in which a program would notice anything wrong."""
    sandbox = new_sandbox()
    process = sandbox.process.exec("python3", "-c", BUSY)
    sandbox.fs.wait_for("/count")
    return sandbox, process


def goes_on(sandbox, process) -> None:
    """The busy program is there and runs."""
    held = sandbox.process.get_process(process.pid)
    assert held.status()[0] == -1, held.stderr.read()
    count = sandbox.fs.read_text("/count")
    eventually(lambda: sandbox.fs.read_text("/count") != count, "it counts")


def comes_to_a_good_end(sandbox, process) -> None:
    goes_on(sandbox, process)
    sandbox.fs.write_text("/tmp/finish", "")
    held = sandbox.process.get_process(process.pid)
    assert held.wait(30) == 0, held.stderr.read()


def nothing_half_made(server) -> list[str]:
    """The snapshots that are there, once nothing else is."""

    def rests() -> list[object]:
        known = {snapshot["id"] for snapshot in server.api("GET", "/snapshots")}
        unfinished = [s for s in server.api("GET", "/sandboxes") if s["status"] not in ("running", "stopped", "failed")]
        return [*engines_of(server), *(set(os.listdir(server.memory)) ^ known), *unfinished]

    eventually(lambda: rests() == [], "no rest of it is left")
    snapshots = server.api("GET", "/snapshots")
    images = {image["id"] for image in server.api("GET", "/images")}
    assert {snapshot["image"] for snapshot in snapshots} <= images
    return [snapshot["id"] for snapshot in snapshots]


def sandboxes_that_run(server) -> set[str]:
    return {s["id"] for s in server.api("GET", "/sandboxes") if s["status"] == "running"}


def truncate(path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path) -> None:
    with path.open("r+b") as file:
        at = path.stat().st_size // 2
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 4]))


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, lambda path: path.unlink()], ids=["cut", "flip", "loss"])
def test_a_damaged_file_is_named_and_nothing_is_started(server, busy, hold, play_on, damage):
    sandbox, process = busy
    snapshot = hold(sandbox)
    image = server.api("GET", f"/snapshots/{snapshot}")["image"]
    directory = server.memory / snapshot
    names = sorted(os.listdir(directory))
    assert "manifest" in names
    largest = max(names, key=lambda name: (directory / name).stat().st_size)
    for name in {largest, "manifest", *random.sample(names, 3)}:
        path = directory / name
        content, size = path.read_bytes(), path.stat().st_size
        if size < 2 and damage is not os.unlink:
            continue
        before = sandboxes_that_run(server)
        damage(path)
        with pytest.raises(SandboxConnectionError, match=f"{snapshot}.*{name}|{snapshot}.*no finished") as refused:
            Sandbox().create_from_memory_snapshot(snapshot)
        # What can be had instead.
        assert image in str(refused.value)
        assert sandboxes_that_run(server) == before
        path.write_bytes(content)
    # The next try works, and nobody has been harmed.
    comes_to_a_good_end(play_on(snapshot), process)
    goes_on(sandbox, process)


def test_a_file_too_many(server, sandbox, hold):
    snapshot = hold(sandbox)
    (server.memory / snapshot / "core-9999.img").write_bytes(b"x")
    with pytest.raises(SandboxConnectionError, match="core-9999.img"):
        Sandbox().create_from_memory_snapshot(snapshot)


def test_a_directory_that_no_record_knows_goes_with_the_next_start(server, sandbox, hold, play_on):
    snapshot = hold(sandbox)
    (server.memory / "ms-unknown").mkdir()
    (server.memory / "ms-unknown" / "pages-1.img").write_bytes(b"x")
    server.kill()
    server.start()
    assert os.listdir(server.memory) == [snapshot]
    assert run(play_on(snapshot), "true").code == 0


def test_the_server_is_killed_in_the_middle_of_a_snapshot(server, busy, snapshots, play_on):
    """The sandbox runs on thawed; a snapshot is whole or not there."""
    sandbox, process = busy
    answered: list[str] = []
    for _ in range(10):
        holder = threading.Thread(target=quietly(lambda: answered.append(sandbox.snapshot_memory())))
        holder.start()
        time.sleep(random.uniform(0, 0.4))  # anywhere in the call
        server.kill()
        server.start()
        holder.join(60)
        goes_on(sandbox, process)
        there = nothing_half_made(server)
        snapshots.extend(there)
        assert set(answered) <= set(there)
        if there:
            held = play_on(there[-1])
            comes_to_a_good_end(held, process)
            held.terminate()
    comes_to_a_good_end(sandbox, process)


def test_the_server_is_killed_in_the_middle_of_a_restore(server, busy, hold, play_on):
    """What was answered runs; what was not is gone without a trace; the snapshot is as good as before."""
    sandbox, process = busy
    snapshot = hold(sandbox)
    answered: list[str] = []
    for _ in range(10):
        restore = quietly(lambda: answered.append(Sandbox().create_from_memory_snapshot(snapshot).sandbox_id()))
        restorer = threading.Thread(target=restore)
        restorer.start()
        time.sleep(random.uniform(0, 0.3))  # anywhere in the call
        server.kill()
        server.start()
        restorer.join(60)
        assert nothing_half_made(server) == [snapshot]
        running = sandboxes_that_run(server) - {sandbox.sandbox_id()}
        assert set(answered) <= running
        for name in running:
            held = Sandbox().connect(name)
            comes_to_a_good_end(held, process)
            held.terminate()
        eventually(lambda: shims(server) == {shim_of(server, sandbox)}, "all other shims are gone")
        answered.clear()
    goes_on(sandbox, process)
    comes_to_a_good_end(play_on(snapshot), process)


def quietly(call: Callable[[], object]) -> Callable[[], None]:
    def run_it() -> None:
        with contextlib.suppress(*UNHEARD):
            call()

    return run_it


def shims(server) -> set[int]:
    return {pid for pid, _ in shims_of(server)}


def kill_when_there(find: Callable[[], set[int]], known: set[int], call: Future, at_most: float) -> bool:
    """Kills the first process that appears while the call lasts, up to so many seconds later; whether there was one."""
    while not call.done():
        for pid in sorted(find() - known):
            time.sleep(random.uniform(0, at_most))  # anywhere in its work
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return True
    return False


# What makes snapshots in this run.
CHECKPOINTER = os.environ.get("FERMATA_CHECKPOINTER", "native")


@pytest.fixture
def engine_of_its_own(server):
    if CHECKPOINTER != "criu":
        pytest.skip("the native engine is no process of its own; this runs with FERMATA_CHECKPOINTER=criu")
    if not server.engine.exists():
        pytest.skip("the machine's own criu is used, which cannot be told from that of others")


def test_the_engine_is_killed_in_the_middle_of_a_snapshot(
    engine_of_its_own, server, busy, new_sandbox, hold, snapshots, play_on
):
    """What holds whatever the moment: it may cost that one sandbox, never wrongly, silently or anybody else."""
    bystander, untouched = busy
    held_ones = []
    failures = 0
    for _ in range(8):
        sandbox = new_sandbox()
        process = sandbox.process.exec("python3", "-c", BUSY)
        sandbox.fs.wait_for("/count")
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(sandbox.snapshot_memory)
            kill_when_there(lambda: set(engines_of(server)), set(), held, 0.15)
        try:
            snapshots.append(held.result())
            held_ones.append((snapshots[-1], process))
        except SandboxProcessError:
            failures += 1
        assert set(nothing_half_made(server)) == set(snapshots)
        runs_on_rightly_or_has_ended(server, sandbox, process)
        sandbox.terminate()
        goes_on(bystander, untouched)
    assert failures, "it was never hit"
    fresh = new_sandbox()
    later = fresh.process.exec("python3", "-c", BUSY)
    fresh.fs.wait_for("/count")
    comes_to_a_good_end(play_on(hold(fresh)), later)
    hold(bystander)
    comes_to_a_good_end(bystander, untouched)
    for snapshot, process in held_ones:
        comes_to_a_good_end(play_on(snapshot), process)


def runs_on_rightly_or_has_ended(server, sandbox, process) -> None:
    """Code of CRIU that nobody steers any more ends the process it is in, which may be the sandbox's first."""

    def answers_or_has_ended() -> str:
        status = server.api("GET", f"/sandboxes/{sandbox.sandbox_id()}")["status"]
        if status != "running":
            return status
        with contextlib.suppress(*UNHEARD):
            return run(sandbox, "echo", "runs").stdout.strip()
        return ""

    found = eventually(answers_or_has_ended, "it takes commands or has ended")
    if found != "runs":
        assert found in ("stopped", "failed")
        return
    code, _ = sandbox.process.get_process(process.pid).status()
    if code == -1:
        comes_to_a_good_end(sandbox, process)
    else:
        # By a signal: the program itself ends with 1 when it finds anything wrong.
        assert code > 128


@pytest.mark.skipif(CHECKPOINTER == "criu", reason="only the native engine writes while the sandbox runs")
def test_the_writer_is_killed_in_the_middle_of_a_snapshot(server, busy, hold, snapshots, play_on):
    sandbox, process = busy
    failures = 0
    for _ in range(8):
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(sandbox.snapshot_memory)
            kill_when_there(lambda: writers_of(server), set(), held, 0.03)
        try:
            snapshots.append(held.result())
        except SandboxProcessError as error:
            assert "writer" in str(error)
            failures += 1
        assert set(nothing_half_made(server)) == set(snapshots)
        goes_on(sandbox, process)
    assert failures, "it was never hit"
    comes_to_a_good_end(play_on(hold(sandbox)), process)
    comes_to_a_good_end(sandbox, process)


def test_the_shim_is_killed_in_the_middle_of_a_snapshot(server, busy, new_sandbox, snapshots, play_on):
    """It keeps the sandbox, so that ends; nobody else does."""
    bystander, untouched = busy
    for _ in range(4):
        sandbox = new_sandbox()
        process = sandbox.process.exec("python3", "-c", BUSY)
        sandbox.fs.wait_for("/count")
        shim = shim_of(server, sandbox)
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(sandbox.snapshot_memory)
            time.sleep(random.uniform(0, 0.1))  # anywhere in the call
            os.kill(shim, signal.SIGKILL)
        with contextlib.suppress(*UNHEARD):
            snapshots.append(held.result())
            comes_to_a_good_end(play_on(snapshots[-1]), process)
        assert set(nothing_half_made(server)) == set(snapshots)
        eventually(lambda sandbox=sandbox: cgroups_of(sandbox) == [], "nothing of it runs")
        goes_on(bystander, untouched)
    comes_to_a_good_end(bystander, untouched)


@pytest.mark.parametrize("victim", ["engine", "shim"])
def test_killed_in_the_middle_of_a_restore(request, server, busy, hold, victim):
    if victim == "engine":
        request.getfixturevalue("engine_of_its_own")
    sandbox, process = busy
    snapshot = hold(sandbox)
    find = (lambda: set(engines_of(server))) if victim == "engine" else (lambda: shims(server))
    failures = 0
    for _ in range(8):
        before = sandboxes_that_run(server)
        known = find()
        made: list[Sandbox] = []
        restore = quietly(lambda made=made: made.append(Sandbox().create_from_memory_snapshot(snapshot)))
        with ThreadPoolExecutor(1) as pool:
            hit = kill_when_there(find, known, pool.submit(restore), 0.1)
        if made and victim == "engine":
            comes_to_a_good_end(made[0], process)
        if made:
            made[0].terminate()
        else:
            failures += hit
        eventually(lambda before=before: sandboxes_that_run(server) == before, "nothing of it runs")
        assert nothing_half_made(server) == [snapshot]
        eventually(lambda: shims(server) == {shim_of(server, sandbox)}, "no shim of it is left")
    assert failures, "it was never hit"
    held = Sandbox().create_from_memory_snapshot(snapshot)
    comes_to_a_good_end(held, process)
    held.terminate()
    goes_on(sandbox, process)
    records = server.api("GET", "/sandboxes")
    assert any(record["status"] == "failed" and record["failure"] for record in records)
    rests = [line for line in leftovers(server.data_directory) if "run/sandboxes" in line]
    assert all(sandbox.sandbox_id() in line for line in rests)


def test_a_sandbox_that_is_ended_while_it_is_held(server, new_sandbox, snapshots, play_on):
    for _ in range(5):
        sandbox = new_sandbox()
        process = sandbox.process.exec("python3", "-c", BUSY)
        sandbox.fs.wait_for("/count")
        holder = threading.Thread(target=quietly(lambda s=sandbox: snapshots.append(s.snapshot_memory())))
        holder.start()
        time.sleep(random.uniform(0, 0.25))  # anywhere in the call
        assert sandbox.terminate()
        holder.join(60)
        assert not holder.is_alive()
        eventually(lambda s=sandbox: s.poll() is not None, "it ended")
        eventually(lambda s=sandbox: cgroups_of(s) == [], "its control groups are gone")
        assert set(nothing_half_made(server)) == set(snapshots)
    for snapshot in snapshots:
        comes_to_a_good_end(play_on(snapshot), process)


def test_a_program_that_is_killed_while_it_is_held(server, new_sandbox, snapshots, play_on):
    """The largest goes while the others stay; whatever is held is consistent."""
    sandbox = new_sandbox()
    stays = sandbox.process.exec("sleep", "1000")
    for _ in range(5):
        goes = sandbox.process.exec(
            "python3", "-c", "x = bytearray(30 << 20)\nopen('/up', 'w')\nimport time; time.sleep(99)"
        )
        sandbox.fs.wait_for("/up")
        holder = threading.Thread(target=lambda: snapshots.append(sandbox.snapshot_memory()))
        holder.start()
        time.sleep(random.uniform(0, 0.2))  # anywhere in the call
        goes.kill()
        holder.join(60)
        assert goes.wait(20) == 137
        sh(sandbox, "rm /up")
    assert len(snapshots) == 5
    child = play_on(snapshots[-1])
    assert child.process.get_process(stays.pid).status()[0] == -1


def test_held_by_several_at_once(busy, snapshots, play_on):
    """They follow one another."""
    sandbox, process = busy
    with ThreadPoolExecutor(4) as pool:
        snapshots.extend(pool.map(lambda _: sandbox.snapshot_memory(), range(4)))
        filesystems = list(pool.map(lambda _: sandbox.create_image_from_filesystem(), range(2)))
    assert len(set(snapshots)) == 4
    assert len(set(filesystems)) == 2
    for snapshot in snapshots:
        comes_to_a_good_end(play_on(snapshot), process)
    comes_to_a_good_end(sandbox, process)


def test_restored_while_it_is_held(busy, hold, snapshots, play_on):
    sandbox, process = busy
    first = hold(sandbox)
    with ThreadPoolExecutor(6) as pool:
        restored = [pool.submit(play_on, first) for _ in range(3)]
        held = [pool.submit(sandbox.snapshot_memory) for _ in range(2)]
        forks = [future.result(60) for future in restored]
        snapshots.extend(future.result(60) for future in held)
    for each in (*forks, sandbox, play_on(snapshots[-1])):
        comes_to_a_good_end(each, process)


def test_commands_while_it_is_held(sandbox, hold):
    """A caller may have to wait, and notices nothing else."""
    done = threading.Event()
    counts: list[int] = []

    def call() -> None:
        count = 0
        while not done.is_set():
            assert run(sandbox, "sh", "-c", f"echo {count}").stdout == f"{count}\n"
            sandbox.fs.write_text(f"/f-{threading.get_ident()}", str(count))
            count += 1
        counts.append(count)

    with ThreadPoolExecutor(3) as pool:
        callers = [pool.submit(call) for _ in range(3)]
        try:
            for _ in range(6):
                hold(sandbox)
        finally:
            done.set()
        for caller in callers:
            caller.result(60)
    assert min(counts) > 0


def test_an_upload_while_it_is_held(sandbox, hold, play_on):
    data = os.urandom(48 << 20)
    done = threading.Event()

    def upload() -> None:
        try:
            sandbox.fs.write_bytes("/workspace/big", data)
        finally:
            done.set()

    with ThreadPoolExecutor(1) as pool:
        uploaded = pool.submit(upload)
        held = []
        while not done.is_set():
            held.append(hold(sandbox))
        uploaded.result(120)
    assert held
    assert sandbox.fs.read_bytes("/workspace/big") == data
    # In a fork the upload has no caller any more; what was there of it is whole chunks under the temporary name.
    assert sh(play_on(held[0]), "ls /workspace | grep -vc '^big' || true") == "0\n"


def test_output_that_is_read_while_it_is_held(sandbox, hold, play_on):
    """Each side gets every line once, from where its reader was."""
    last = 300_000
    process = sandbox.process.exec("seq", "1", str(last))
    lines = iter(process.stdout)
    begun = [next(lines) for _ in range(1000)]
    child = play_on(hold(sandbox))
    rest = child.process.get_process(process.pid).stdout.read().splitlines()
    assert rest[-1] == str(last)
    assert rest == [str(number) for number in range(int(rest[0]), last + 1)]
    begun.extend(lines)
    assert "".join(begun) == "".join(f"{number}\n" for number in range(1, last + 1))


@pytest.mark.parametrize(("call", "number"), [("io_uring_setup", 425), ("userfaultfd", 323)])
def test_what_cannot_be_held_cannot_come_up(sandbox, call, number):
    """Programs fall back to what can."""
    code = f"import ctypes; c = ctypes.CDLL(None, use_errno=True); print(c.syscall({number}, 1, 0), ctypes.get_errno())"
    assert python(sandbox, code) == "-1 38\n", call


TRACED = """
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
child = os.fork()
if child == 0:
    if libc.ptrace(0, 0, 0, 0):  # PTRACE_TRACEME
        open("/tmp/refused", "w").close()
    open("/tmp/traced", "w").close()
    while True: time.sleep(0.01)
while True: time.sleep(0.01)
"""


def test_what_cannot_be_held_is_named(server, sandbox, hold):
    """Here a process that another one traces."""
    process = sandbox.process.exec("python3", "-c", TRACED)
    sandbox.fs.wait_for("/tmp/traced")
    assert run(sandbox, "test", "-e", "/tmp/refused").code == 1
    with pytest.raises(SandboxProcessError, match=r"process \d+ \(python3") as refused:
        sandbox.snapshot_memory()
    assert f"process {process.pid} traces it" in str(refused.value)
    assert nothing_half_made(server) == []
    assert run(sandbox, "echo", "runs on").stdout == "runs on\n"
    process.kill()
    assert process.wait(20) == 137
    hold(sandbox)


@pytest.mark.skipif(CHECKPOINTER != "criu", reason="the native engine holds it")
def test_a_semaphore_is_refused(sandbox):
    """CRIU would make it something else."""
    process = sandbox.process.exec(
        "python3", "-c", "import os, time; e = os.eventfd(3, os.EFD_SEMAPHORE); open('/up', 'w'); time.sleep(1000)"
    )
    sandbox.fs.wait_for("/up")
    with pytest.raises(SandboxProcessError, match=rf"process {process.pid} \(python3\).*EFD_SEMAPHORE"):
        sandbox.snapshot_memory()
    assert process.status()[0] == -1
