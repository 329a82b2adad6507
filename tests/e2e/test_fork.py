"""What is new in a restored sandbox, and what is not (one test each)."""

import os
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from beam import Sandbox
from commands import python, run, sh
from internet import HERE, HTTP_PORT, QUIET_PORT, TCP_PORT, THERE, internet, packets
from servers_inside import ECHO, start
from waiting import eventually

FORKS = int(os.environ.get("FERMATA_TEST_FORKS", "1000"))
# So many at the same time.
BATCH = 50


@pytest.fixture
def beside(sandbox, hold, play_on):
    """A sandbox and two that were played on from it, once `prepare` was done to it."""

    def make(prepare=lambda sandbox: None):
        prepare(sandbox)
        snapshot = hold(sandbox)
        return [sandbox, play_on(snapshot), play_on(snapshot)]

    return make


def test_host_name(beside):
    all_three = beside()
    names = [sh(each, "hostname").strip() for each in all_three]
    assert len(set(names)) == 3
    for each, name in zip(all_three, names, strict=True):
        assert sh(each, "cat /etc/hostname").strip() == name
        assert name in sh(each, "cat /etc/hosts")
        assert sh(each, f"getent hosts {name}").split()[0].startswith("127.")
        assert each.sandbox_id().endswith(name)


def test_sandbox_id(server, beside):
    original, *forks = beside()
    records = [server.api("GET", f"/sandboxes/{each.sandbox_id()}") for each in (original, *forks)]
    assert len({record["id"] for record in records}) == 3
    assert records[0]["restored_from"] is None
    assert all(record["restored_from"]["kind"] == "snapshot" for record in records[1:])
    assert len({each.stub_id for each in (original, *forks)}) == 3


def test_files_that_a_program_holds_open_in_etc(beside):
    """The new host name is for whoever looks; what was read stays what it was."""
    process = []
    script = "exec 3</etc/hostname; until [ -e /tmp/go ]; do sleep 0.02; done; cat <&3; cat /etc/hostname"
    all_three = beside(lambda sandbox: process.append(sandbox.process.exec("sh", "-c", script)))
    for each in all_three:
        each.fs.write_text("/tmp/go", "")
        held = each.process.get_process(process[0].pid)
        assert held.wait(20) == 0
        assert held.stdout.read().splitlines()[-1] == sh(each, "hostname").strip()


def test_network_namespace(beside):
    look = "ip -brief address show eth0 | sed 's/@if[0-9]*//'; ip route; cat /etc/resolv.conf"
    all_three = beside()
    assert len({sh(each, look) for each in all_three}) == 1
    inodes = {sh(each, "readlink /proc/self/ns/net") for each in all_three}
    assert len(inodes) == 3
    for namespace in ("pid", "mnt", "uts", "ipc", "time", "cgroup"):
        assert len({sh(each, f"readlink /proc/self/ns/{namespace}") for each in all_three}) == 3, namespace


def test_sandboxes_do_not_reach_one_another(beside):
    """They have one address, and each finds only itself there: ports, abstract sockets, shared memory."""
    all_three = beside()
    for number, each in enumerate(all_three):
        start(each, ECHO, str(7100 + number))
        sh(each, f"echo {number} >/dev/shm/number; echo {number} >/own")
        each.process.exec("python3", "-c", LISTEN_ABSTRACT, f"socket-{number}")
    for number, each in enumerate(all_three):
        eventually(
            lambda each=each, number=number: python(each, REACH, "127.0.0.1", str(7100 + number)) == "reached\n",
            "it listens",
        )
        address = sh(each, "hostname -I").split()[0]
        for other in range(3):
            expected = "reached\n" if other == number else "refused\n"
            assert python(each, REACH, "127.0.0.1", str(7100 + other)) == expected
            if other != number:
                assert python(each, REACH, address, str(7100 + other)) == "refused\n"
        assert sh(each, "cat /dev/shm/number /own").split() == [str(number)] * 2
        eventually(
            lambda each=each, number=number: f"@socket-{number}" in sh(each, "cat /proc/net/unix"), "it listens too"
        )
        assert sh(each, "grep -c @socket- /proc/net/unix").strip() == "1"


LISTEN_ABSTRACT = """
import socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind("\\0" + sys.argv[1])
listener.listen()
time.sleep(1000)
"""

REACH = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)
    print("reached")
except ConnectionRefusedError:
    print("refused")
"""

# A connection to itself, one to the internet that is half closed, and one on which a thread waits for what never comes.
CONNECTED = f"""
import os, queue, socket, threading, time
listener = socket.create_server(("127.0.0.1", 7300))
inside = socket.create_connection(("127.0.0.1", 7300))
inside_end, _ = listener.accept()
half_closed = socket.create_connection(("{HERE}", {TCP_PORT}))
while half_closed.recv(100):
    pass
idle = socket.create_connection(("{HERE}", {QUIET_PORT}))
heard = queue.Queue()
def wait():
    try:
        heard.put(repr(idle.recv(100)))
    except OSError as error:
        heard.put(type(error).__name__)
threading.Thread(target=wait, daemon=True).start()
open("/tmp/ready", "w").close()
while not os.path.exists("/tmp/go"):
    time.sleep(0.01)
inside.sendall(b"inside")
print(inside_end.recv(100).decode())
try:
    print(heard.get(timeout=2))
except queue.Empty:
    print("waits")
try:
    half_closed.sendall(b"x")
    print("sent")
except OSError as error:
    print(type(error).__name__)
"""


SAY = f"""
import socket, sys
print(socket.create_connection((sys.argv[1], {TCP_PORT}), timeout=10).recv(100).decode())
"""


@pytest.fixture
def outside(tmp_path):
    with internet(tmp_path) as net:
        yield net


def test_connections(outside, beside):
    process = []

    def connect(sandbox):
        process.append(sandbox.process.exec("python3", "-c", CONNECTED))
        sandbox.fs.wait_for("/tmp/ready")

    original, *forks = beside(connect)
    for each in (*forks, original):
        each.fs.write_text("/tmp/go", "")
        held = each.process.get_process(process[0].pid)
        assert held.wait(20) == 0, held.stderr.read()
        if each is original:
            assert held.stdout.read() == "inside\nwaits\nsent\n"
        else:
            # Closed, and told so at once: nobody waits for a timeout.
            inside, idle, half_closed = held.stdout.read().split()
            assert inside == "inside"
            assert idle in ("ConnectionAbortedError", "ConnectionResetError")
            assert half_closed in ("ConnectionAbortedError", "ConnectionResetError", "BrokenPipeError")
        assert "you are" in python(each, SAY, HERE), "a new connection can be made"


def test_no_packet_of_a_connection_that_is_not_its_own(outside, sandbox, hold, play_on):
    """Whoever is at the other end talks to the original, and hears of no other."""
    process = sandbox.process.exec("python3", "-c", CONNECTED)
    sandbox.fs.wait_for("/tmp/ready")
    snapshot = hold(sandbox)
    with packets(outside) as heard:
        for _ in range(3):
            fork = play_on(snapshot)
            fork.fs.write_text("/tmp/go", "")
            assert fork.process.get_process(process.pid).wait(20) == 0
        # Had there been any, they would have come before this.
        python(fork, f"import socket; socket.create_connection(('{HERE}', {HTTP_PORT}), timeout=10)")
        assert next(heard) == HTTP_PORT


def test_network_policy(outside, new_sandbox, hold, play_on):
    """What was closed for the original is closed for a fork, and both can be changed apart from each other."""
    reach = f"import socket\nsocket.create_connection(('%s', {TCP_PORT}), timeout=2).recv(100)"

    def reaches(sandbox, address: str) -> bool:
        return run(sandbox, "python3", "-c", reach % address).code == 0

    blocked = new_sandbox(block_network=True)
    fork = play_on(hold(blocked))
    assert not reaches(fork, HERE)
    fork.update_network_permissions(block_network=False)
    assert reaches(fork, HERE)
    assert not reaches(blocked, HERE)

    limited = new_sandbox(allow_list=[f"{HERE}/32"])
    fork = play_on(hold(limited))
    assert reaches(fork, HERE)
    assert not reaches(fork, THERE)
    # As it was when it was held, not as it was when it was made.
    limited.update_network_permissions(allow_list=[f"{THERE}/32"])
    fork = play_on(hold(limited))
    assert reaches(fork, THERE)
    assert not reaches(fork, HERE)


def test_wall_clock(sandbox, hold, play_on, server):
    """A held sandbox does not wake up in the past."""
    snapshot = hold(sandbox)
    held_at = float(sh(sandbox, "date +%s.%N"))
    eventually(lambda: float(sh(sandbox, "date +%s.%N")) > held_at + 1.5, "time has passed")
    before = float(sh(sandbox, "date +%s.%N"))
    within = float(sh(play_on(snapshot), "date +%s.%N"))
    after = float(sh(sandbox, "date +%s.%N"))
    assert before <= within <= after


def test_monotonic_clock_goes_on_from_the_held_instant(sandbox, hold, play_on):
    """Timeouts that run do not end early, and never does it step back."""
    look = "import time; print(time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime(time.CLOCK_BOOTTIME))"
    before = [float(word) for word in python(sandbox, look).split()]
    snapshot = hold(sandbox)
    held = [float(word) for word in python(sandbox, look).split()]
    eventually(lambda: float(python(sandbox, look).split()[0]) > held[0] + 2, "time has passed")
    forks = [play_on(snapshot)]
    forks.append(play_on(snapshot))
    for fork in forks:
        after = [float(word) for word in python(fork, look).split()]
        assert all(one <= other < one + 2 for one, other in zip(before, after, strict=True)), (before, after)


def test_a_timeout_that_runs_is_not_over_early(sandbox, hold, play_on):
    process = sandbox.process.exec("sh", "-c", "sleep 2; date +%s.%N")
    snapshot = hold(sandbox)
    assert process.wait(20) == 0
    fork = play_on(snapshot)
    restored_at = float(sh(fork, "date +%s.%N"))
    held = fork.process.get_process(process.pid)
    assert held.wait(20) == 0
    assert float(held.stdout.read()) > restored_at + 1


def test_generation(beside, hold, play_on):
    original, fork, _ = beside()
    assert sh(original, "cat /run/fermata/generation") == "0\n"
    assert sh(fork, "cat /run/fermata/generation") == "1\n"
    assert sh(play_on(hold(fork)), "cat /run/fermata/generation") == "2\n"
    assert sh(play_on(hold(original)), "cat /run/fermata/generation") == "1\n"


def test_resume_hooks(sandbox, hold, play_on):
    sh(
        sandbox,
        """
        mkdir -p /etc/fermata/resume.d
        cd /etc/fermata/resume.d
        printf '#!/bin/sh\\nsleep 0.3\\necho first $FERMATA_GENERATION $FERMATA_SANDBOX_ID >>/hooks\\n' >10-first
        printf '#!/bin/sh\\necho second >>/hooks; exit 3\\n' >20-fails
        printf '#!/no/such/interpreter\\n' >30-cannot-run
        printf '#!/bin/sh\\necho third $(hostname) >>/hooks\\n' >40-third
        printf '#!/bin/sh\\necho not executable >>/hooks\\n' >50-not
        chmod +x 10-first 20-fails 30-cannot-run 40-third
        mkdir 60-directory
        ln -s /no/such/file 70-dangling
        """,
    )
    fork = play_on(hold(sandbox))
    # The first command already sees what they did.
    assert sh(fork, "cat /hooks").splitlines() == [
        f"first 1 {fork.sandbox_id()}",
        "second",
        f"third {sh(fork, 'hostname').strip()}",
    ]
    assert run(sandbox, "cat", "/hooks").code != 0
    # Its own snapshot has the hooks too.
    again = play_on(hold(fork))
    assert f"first 2 {again.sandbox_id()}" in sh(again, "cat /hooks")


def test_a_hook_that_does_not_end_holds_up_only_so_long(sandbox, hold, play_on):
    hook = "/etc/fermata/resume.d/hangs"
    sh(sandbox, f"mkdir -p /etc/fermata/resume.d; printf '#!/bin/sh\\nsleep 1000\\n' >{hook}; chmod +x {hook}")
    fork = play_on(hold(sandbox))
    assert run(fork, "echo", "takes commands").stdout == "takes commands\n"


# Draws all the time, and tells what it draws first once it finds itself played on.
DRAW = """
import os, time
while True:
    with open("/run/fermata/generation") as file:
        generation = file.read()
    word = os.getrandom(64).hex()
    if generation != "0\\n":
        break
    time.sleep(0.0005)
print(word, open("/dev/urandom", "rb").read(64).hex(), open("/proc/sys/kernel/random/uuid").read())
"""


def test_kernel_randomness(sandbox, fermata, made):
    """What a process draws first that was held while it drew, from each source: no two forks get the same."""
    process = sandbox.process.exec("python3", "-c", DRAW)

    def drawn(fork) -> str:
        held = fork.process.get_process(process.pid)
        assert held.wait(30) == 0, held.stderr.read()
        return held.stdout.read()

    words = []
    with ThreadPoolExecutor(4) as pool:
        for _ in range(FORKS // BATCH):
            answer = fermata("fork", sandbox.sandbox_id(), "-n", str(BATCH))
            assert answer.returncode == 0, answer
            forks = [Sandbox().connect(name) for name in answer.stdout.split()]
            made.extend(forks)
            words.extend(word for text in pool.map(drawn, forks) for word in text.split())
            assert all(pool.map(lambda fork: fork.terminate(), forks))
    assert len(words) == 3 * FORKS
    assert len({word[:16] for word in words}) == len(words)
    # Not even shifted against one another: no eight bytes come twice.
    pieces = [word[at : at + 16] for word in words if len(word) == 128 for at in range(0, 128, 16)]
    assert len(pieces) == 2 * 8 * FORKS
    assert len(set(pieces)) == len(pieces)


def test_addresses_of_new_programs_differ(beside):
    """Address space randomisation of what starts later is its own."""
    look = "grep -m1 stack /proc/self/maps"
    all_three = beside()
    assert len({sh(each, look) for each in all_three}) == 3


def test_what_was_secret_of_an_exec_is_in_the_process_only(sandbox, hold, play_on):
    process = sandbox.process.exec("sleep", "1000", env={"PASSWORD": "hunter2"})
    fork = play_on(hold(sandbox))
    assert "hunter2" in sh(fork, f"tr '\\0' '\\n' </proc/{process.pid}/environ")
    assert "hunter2" not in sh(fork, "env")


def test_what_listens_for_the_host_is_not_reachable_from_inside(beside):
    """The agent's socket in a fork takes commands from the host only, as everywhere."""
    _, fork, _ = beside()
    name = next(line.split()[-1] for line in sh(fork, "cat /proc/net/unix").splitlines() if "@fermata" in line)
    assert name.startswith("@"), name
    answer = python(fork, KNOCK, name[1:])
    assert answer in ("b''\n", "ConnectionResetError\n")


KNOCK = f"""
import socket, sys
agent = socket.socket({socket.AF_UNIX.value})
agent.settimeout(10)
agent.connect("\\0" + sys.argv[1])
try:
    print(agent.recv(100))
except ConnectionError as error:
    print(type(error).__name__)
"""
