"""Programs that people run, held in the middle of their work and played on beside the original."""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from beam import Image
from beta9.abstractions.sandbox import SandboxInstance
from beta9.exceptions import ImageBuildError
from commands import run, sh
from servers_inside import get, start
from waiting import eventually

# Holds some memory, counts the requests that it has answered, and keeps connections open.
WEB_SERVER = """
import http.server, itertools, sys
held = bytearray(int(sys.argv[1]) << 20)
numbers = itertools.count()
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = str(next(numbers)).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words): pass
http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
"""


def test_a_web_server_under_load(sandbox, hold, play_on):
    """While it is held again and again, no request fails, no answer is lost or comes twice, and each fork answers."""
    url = sandbox.expose_port(8000)
    start(sandbox, WEB_SERVER, "20")
    assert get(url) == (200, "0")
    done = threading.Event()
    longest_s = 0.0

    def call() -> list[int]:
        nonlocal longest_s
        heard = []
        while not done.is_set():
            begun = time.monotonic()
            status, body = get(url)
            longest_s = max(longest_s, time.monotonic() - begun)
            assert status == 200
            heard.append(int(body))
        return heard

    with ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(call) for _ in range(4)]
        try:
            snapshots = [hold(sandbox) for _ in range(8)]
        finally:
            done.set()
        heard = sorted(number for caller in callers for number in caller.result(60))
    assert heard == list(range(1, len(heard) + 1))
    print(f"{len(heard)} requests through {len(snapshots)} snapshots, the longest took {longest_s:.3f} s")
    counts = []
    for snapshot in (snapshots[0], snapshots[-1]):
        status, body = get(play_on(snapshot).list_urls()[8000])
        assert status == 200
        counts.append(int(body))
    assert 0 < counts[0] < counts[1] <= len(heard) + 1
    assert get(url) == (200, str(len(heard) + 1))


@pytest.fixture(scope="module")
def image(server):
    """With real servers of the distribution, if it can be reached."""
    image = Image().add_commands(
        [
            "apt-get -o Acquire::http::Timeout=10 -o Acquire::Retries=0 update",
            # Databases are made by the tests, as whoever they run as there.
            "mkdir -p /etc/postgresql-common",
            "echo create_main_cluster=false >/etc/postgresql-common/createcluster.conf",
            "DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "
            "redis-server nginx-light postgresql nodejs",
        ]
    )
    try:
        image.build(quiet=True)
    except ImageBuildError as error:
        if "apt-get" not in str(error) and "E:" not in str(error):
            raise
        pytest.skip(f"the distribution's packages cannot be had from inside a sandbox: {error}")
    return image


@pytest.fixture
def machine(image, new_sandbox):
    return new_sandbox(image=image)


def succeeds(sandbox: SandboxInstance, script: str) -> bool:
    return run(sandbox, "sh", "-ec", script).code == 0


def three_of(
    sandbox: SandboxInstance, hold: Callable[[SandboxInstance], str], play_on: Callable[[str], SandboxInstance]
) -> list[SandboxInstance]:
    snapshot = hold(sandbox)
    return [sandbox, play_on(snapshot), play_on(snapshot)]


def test_redis(machine, hold, play_on):
    """Each goes on counting from the held count, saves in the background, and keeps what it saved."""
    machine.process.exec("redis-server", "--save", "", "--appendonly", "yes", "--dir", "/tmp", cwd="/tmp")
    eventually(lambda: succeeds(machine, "redis-cli ping"), "it answers")
    client = machine.process.exec(
        "sh", "-c", "until [ -e /tmp/finish ]; do redis-cli incr counter >>/tmp/replies; done"
    )
    waiter = machine.process.exec("redis-cli", "blpop", "queue", "0")
    machine.fs.wait_for("/tmp/replies")
    for each in three_of(machine, hold, play_on):
        each.fs.write_text("/tmp/finish", "")
        assert each.process.get_process(client.pid).wait(20) == 0
        replies = sh(each, "cat /tmp/replies").split()
        assert replies == [str(number) for number in range(1, len(replies) + 1)]
        # A client that waited for something since before.
        sh(each, "redis-cli rpush queue something")
        held = each.process.get_process(waiter.pid)
        assert held.wait(20) == 0
        assert "something" in held.stdout.read()
        sh(each, "redis-cli bgrewriteaof; redis-cli shutdown")
        each.process.exec("redis-server", "--appendonly", "yes", "--dir", "/tmp", cwd="/tmp")
        eventually(lambda each=each: succeeds(each, "redis-cli ping"), "it answers again")
        assert sh(each, "redis-cli get counter").strip() == replies[-1]


AS_POSTGRES = (
    "cd /workspace; env PATH=$PATH:$(echo /usr/lib/postgresql/*/bin) setpriv --reuid postgres --clear-groups sh -ec"
)


def test_postgresql(machine, hold, play_on):
    """Every committed row is there and no other, in a transaction that was open as well as after it."""
    sh(
        machine,
        f"""
        chown postgres /workspace
        {AS_POSTGRES} 'initdb --no-sync -D /workspace/db && pg_ctl -D /workspace/db -l /workspace/log -w start && createdb tests'
        """,
        timeout=120,
    )
    query = "psql -h localhost -U postgres -qtA tests"
    sh(machine, f"{query} -c 'create table t (n serial primary key, x int)'")
    writer = machine.process.exec(
        "sh",
        "-c",
        f"until [ -e /tmp/finish ]; do echo 'insert into t (x) values (1) returning n;'; done | {query} >/tmp/said",
    )
    opened = machine.process.exec(
        "sh",
        "-c",
        f"(echo 'begin; insert into t (x) values (-1);'; until [ -e /tmp/commit ]; do sleep 0.1; done; echo 'commit;')"
        f"| {query}",
    )
    eventually(lambda: succeeds(machine, "test -s /tmp/said"), "it writes")
    for each in three_of(machine, hold, play_on):
        each.fs.write_text("/tmp/finish", "")
        assert each.process.get_process(writer.pid).wait(30) == 0
        said = len(sh(each, "cat /tmp/said").split())
        assert sh(each, f"{query} -c 'select count(*), sum(x) from t'").strip() == f"{said}|{said}"
        each.fs.write_text("/tmp/commit", "")
        assert each.process.get_process(opened.pid).wait(30) == 0
        assert sh(each, f"{query} -c 'select count(*), sum(x) from t'").strip() == f"{said + 1}|{said - 1}"
        sh(each, f"{AS_POSTGRES} 'pg_ctl -D /workspace/db -l /workspace/log -w -m fast restart'")
        assert sh(each, f"{query} -c 'select count(*) from t'").strip() == str(said + 1)
        assert "PANIC" not in sh(each, "cat /workspace/log")


def test_nginx(machine, hold, play_on):
    """Its master still reloads and ends its workers."""
    sh(machine, "echo held >/var/www/html/file; nginx")
    urls = [machine.expose_port(80)]
    assert get(urls[0], "/file") == (200, "held\n")
    all_three = three_of(machine, hold, play_on)
    for each in all_three:
        url = each.list_urls()[80]
        assert get(url, "/file") == (200, "held\n")
        master = sh(each, "cat /run/nginx.pid").strip()
        before = sh(each, f"pgrep -P {master}")
        sh(each, "nginx -s reload")
        eventually(lambda e=each, m=master, b=before: sh(e, f"pgrep -P {m}") not in (b, ""), "it has new workers")
        assert get(url, "/file") == (200, "held\n")
        sh(each, "nginx -s quit")
        eventually(lambda e=each: not succeeds(e, "pgrep nginx"), "it has ended")


NODE = """
const fs = require("fs"), http = require("http"), { Worker } = require("worker_threads");
let ticks = 0, threads = 0;
setInterval(() => ticks++, 5);
new Worker("setInterval(() => require('worker_threads').parentPort.postMessage(1), 5)", { eval: true })
  .on("message", () => threads++);
const server = http.createServer((request, response) => fs.promises.readFile("/etc/hostname").then(name =>
  response.end(JSON.stringify({ ticks, threads, name: name.toString().trim() }))));
server.listen(8000, "127.0.0.1");
"""


def test_node(machine, hold, play_on):
    """Timers, a worker thread, the thread pool and its event loop go on."""
    machine.process.exec("node", "-e", NODE)
    machine.expose_port(8000)

    def say(sandbox: SandboxInstance) -> dict:
        status, body = get(sandbox.list_urls()[8000])
        assert status == 200
        return json.loads(body)

    eventually(lambda: say(machine)["threads"] > 10, "the worker works")
    before = say(machine)
    for each in three_of(machine, hold, play_on):
        answer = say(each)
        assert answer["ticks"] >= before["ticks"] and answer["threads"] >= before["threads"]
        assert answer["name"] == sh(each, "hostname").strip()
        eventually(
            lambda e=each, a=answer: min(say(e)["ticks"] - a["ticks"], say(e)["threads"] - a["threads"]) > 10, "on"
        )
