"""Exposed ports: what is reached, what happens when nothing is there, and how long a URL lives."""

import concurrent.futures
import contextlib
import hashlib
import os
import shutil
import socket
import tempfile
import threading
import time
import urllib.error
from pathlib import Path

import pytest
from beam import Sandbox
from beta9.exceptions import SandboxConnectionError, SandboxProcessError
from commands import run
from leftovers import leftovers
from server import Server, pointed_at
from servers_inside import ECHO, HTTP, address, connect, get, is_open, read_all, start, start_after
from waiting import eventually


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "::1", "::", "10.254.254.2"])
def test_a_server_is_reached_wherever_it_listens(sandbox, host):
    url = sandbox.expose_port(8000)
    start(sandbox, HTTP, host, "8000")
    assert get(url, "/a?b=c%20d") == (200, f"{host} /a?b=c%20d")


def test_the_url_is_on_loopback_and_listed(sandbox):
    assert sandbox.list_urls() == {}
    urls = {port: sandbox.expose_port(port) for port in (8000, 1, 65535)}
    assert sandbox.list_urls() == urls
    assert len(set(urls.values())) == 3
    for url in urls.values():
        assert url.startswith("http://127.0.0.1:")


def test_exposing_twice_gives_the_same_url(sandbox):
    with concurrent.futures.ThreadPoolExecutor() as threads:
        urls = set(threads.map(lambda _: sandbox.expose_port(8000), range(8)))
    assert len(urls) == 1
    assert sandbox.list_urls() == {8000: urls.pop()}


def test_ports_of_the_constructor(new_sandbox):
    sandbox = new_sandbox(ports=[8000, 9000, 8000])
    urls = sandbox.list_urls()
    assert sorted(urls) == [8000, 9000]
    start(sandbox, HTTP, "127.0.0.1", "9000")
    assert get(urls[9000])[0] == 200


def test_half_close_both_ways(sandbox):
    url = sandbox.expose_port(7000)
    start(sandbox, ECHO, "7000")
    with connect(url) as connection:
        connection.sendall(b"hello ")
        assert connection.recv(100) == b"hello "
        connection.sendall(b"world")
        connection.shutdown(socket.SHUT_WR)
        # The server speaks on after our end, and its own end arrives.
        assert read_all(connection) == b"world|11"


def test_a_server_that_ends_its_side_first_still_hears(sandbox):
    url = sandbox.expose_port(7000)
    server = start(
        sandbox,
        """
import socket
with socket.create_server(("127.0.0.1", 7000)) as listener:
    connection, _ = listener.accept()
connection.sendall(b"bye")
connection.shutdown(socket.SHUT_WR)
print(connection.recv(100).decode(), connection.recv(100))
""",
    )
    with connect(url) as connection:
        assert read_all(connection) == b"bye"
        connection.sendall(b"late words")
        connection.shutdown(socket.SHUT_WR)
        assert server.wait(20) == 0
    assert server.stdout.read() == "late words b''\n"


def test_a_reset_is_passed_on_both_ways(sandbox):
    url = sandbox.expose_port(7000)
    server = start(
        sandbox,
        """
import socket, struct
with socket.create_server(("127.0.0.1", 7000)) as listener:
    first, _ = listener.accept()
    try:
        first.sendall(b"ready")
        print(first.recv(1))
    except ConnectionResetError:
        print("reset")
    second, _ = listener.accept()
    second.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    second.recv(1)
    second.close()
""",
    )
    with connect(url) as connection:
        assert connection.recv(5) == b"ready"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    with connect(url) as connection, pytest.raises(ConnectionResetError):
        connection.sendall(b"x")
        connection.recv(1)
    assert server.wait(20) == 0
    assert server.stdout.read() == "reset\n"


def test_fifty_megabytes_both_ways_at_once(sandbox):
    url = sandbox.expose_port(7000)
    start(sandbox, ECHO, "7000")
    data = os.urandom(1 << 20) * 50
    with connect(url) as connection:

        def send() -> None:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        heard = read_all(connection)
        sender.join()
    tail = f"|{len(data)}".encode()
    assert heard.endswith(tail)
    assert hashlib.sha256(heard[: -len(tail)]).digest() == hashlib.sha256(data).digest()


def test_who_does_not_read_holds_the_other_side_up(sandbox):
    url = sandbox.expose_port(7000)
    start(
        sandbox,
        """
import socket
with socket.create_server(("127.0.0.1", 7000)) as listener:
    connection, _ = listener.accept()
connection.settimeout(1)
sent = 0
try:
    while True:
        sent += connection.send(bytes(1 << 16))
except TimeoutError:
    open("/tmp/sent", "w").write(str(sent))
connection.close()
""",
    )
    with connect(url) as connection:
        eventually(lambda: run(sandbox, "test", "-s", "/tmp/sent").code == 0, "the sender came to a halt")
        sent = int(sandbox.fs.read_text("/tmp/sent"))
        # Buffers of two connections and a pipe; without back-pressure it would have gone on for ever.
        assert sent < 64 << 20
        assert len(read_all(connection)) == sent


def test_a_hundred_connections_at_once(sandbox):
    url = sandbox.expose_port(7000)
    start(sandbox, ECHO, "7000")
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connect(url)) for _ in range(100)]
        for number, connection in enumerate(connections):
            connection.sendall(f"{number}".encode())
            connection.shutdown(socket.SHUT_WR)
        for number, connection in enumerate(connections):
            said = f"{number}"
            assert read_all(connection) == f"{said}|{len(said)}".encode()


def test_nothing_listens(sandbox):
    url = sandbox.expose_port(8000)
    began = time.monotonic()
    status, body = get(url)
    took = time.monotonic() - began
    assert (status, body) == (502, "nothing listens on port 8000 of the sandbox\n")
    assert 1.9 < took < 5, "it waited for a server that may be starting, but not for ever"
    assert get(url, method="HEAD") == (502, "")
    with connect(url) as connection:
        connection.sendall(b"SSH-2.0-test\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100) == b""


def test_a_large_request_to_nobody_still_gets_its_answer(sandbox):
    url = sandbox.expose_port(8000)
    with connect(url) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n")
        connection.sendall(bytes(1_000_000))
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection).startswith(b"HTTP/1.1 502 Bad Gateway\r\n")


def test_a_server_that_starts_within_the_wait(sandbox):
    url = sandbox.expose_port(8000)
    start_after(sandbox, 1, HTTP, "127.0.0.1", "8000")
    assert get(url) == (200, "127.0.0.1 /")


def test_a_blocked_network_does_not_close_the_way_in(new_sandbox):
    sandbox = new_sandbox(block_network=True, ports=[8000])
    start(sandbox, HTTP, "127.0.0.1", "8000")
    assert get(sandbox.list_urls()[8000])[0] == 200


def test_another_sandbox_gets_nowhere(new_sandbox):
    owner, stranger = new_sandbox(), new_sandbox()
    url = owner.expose_port(8000)
    start(owner, HTTP, "0.0.0.0", "8000")
    assert get(url)[0] == 200
    host, port = address(url)
    gateway = run(stranger, "sh", "-c", "ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p'").stdout.strip()
    attempt = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"
    for target, number in ((host, port), (gateway or "10.254.254.1", port), ("10.254.254.2", 8000)):
        tried = run(stranger, "python3", "-c", attempt, target, str(number))
        assert tried.code != 0, (target, number)
        assert "Error" in tried.stderr, tried


def test_ports_close_with_their_sandbox(sandbox):
    url = sandbox.expose_port(7000)
    start(sandbox, ECHO, "7000")
    with connect(url) as connection:
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"
        sandbox.terminate()
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    assert not is_open(url)
    with pytest.raises(SandboxProcessError, match="Failed to expose port"):
        sandbox.expose_port(7000)
    with pytest.raises(SandboxConnectionError):
        sandbox.list_urls()


def test_a_killed_daemon_comes_back_with_the_same_urls(server, sandbox):
    urls = {port: sandbox.expose_port(port) for port in (7000, 8000)}
    start(sandbox, HTTP, "127.0.0.1", "8000")
    assert get(urls[8000])[0] == 200
    server.kill()
    assert not is_open(urls[8000])
    server.start()
    assert sandbox.list_urls() == urls
    assert get(urls[8000])[0] == 200
    assert server.stop() == 0
    assert not is_open(urls[8000])
    server.start()
    assert sandbox.list_urls() == urls
    assert get(urls[8000])[0] == 200


def test_a_port_that_was_taken_meanwhile_is_replaced(server, sandbox):
    before = sandbox.expose_port(8000)
    start(sandbox, HTTP, "127.0.0.1", "8000")
    assert get(before)[0] == 200
    server.kill()
    with socket.create_server(address(before)):
        server.start()
        after = sandbox.list_urls()[8000]
        assert after != before
        assert get(after)[0] == 200
        assert "a URL has changed" in server.log_tail(200)
        server.kill()
        server.start()
        assert sandbox.list_urls() == {8000: after}


def test_an_open_connection_keeps_a_sandbox_warm(sandbox):
    url = sandbox.expose_port(7000)
    start(sandbox, ECHO, "7000")
    with connect(url) as connection:
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"
        sandbox.update_ttl(1)
        # Three times its time: the server looks twice a second. Only waiting can show that something does not happen.
        time.sleep(3)
        connection.sendall(b"y")
        assert connection.recv(1) == b"y"
        assert sandbox.poll() is None
    eventually(lambda: sandbox.poll() is not None, "it ended", timeout=30, pause=0.2)


@pytest.mark.parametrize("port", [0, -1, 65536, 2**31 - 1])
def test_what_is_not_a_port_is_refused(server, sandbox, port, capfd):
    with pytest.raises(SandboxProcessError, match="Failed to expose port"):
        sandbox.expose_port(port)
    for method, path, body in (
        ("POST", f"/sandboxes/{sandbox.container_id}/ports", {"port": port}),
        ("DELETE", f"/sandboxes/{sandbox.container_id}/ports/{port}", None),
    ):
        with pytest.raises(urllib.error.HTTPError) as caught:
            server.api(method, path, body)
        assert caught.value.code == 400
        assert "1 to 65535" in caught.value.read().decode()


def test_wrong_ports_of_the_constructor_are_refused(server, capfd):
    before = len(server.api("GET", "/sandboxes"))
    assert not Sandbox(ports=[8000, 70000]).create().ok
    assert "70000 is not a port" in "".join(capfd.readouterr())
    assert len(server.api("GET", "/sandboxes")) == before


def test_sixty_four_ports_are_the_most(server, new_sandbox):
    sandbox = new_sandbox(ports=list(range(1000, 1064)))
    urls = sandbox.list_urls()
    assert len(urls) == 64
    assert sandbox.expose_port(1000) == urls[1000]
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.api("POST", f"/sandboxes/{sandbox.container_id}/ports", {"port": 2000})
    assert "exposes 64 ports already" in caught.value.read().decode()
    server.api("DELETE", f"/sandboxes/{sandbox.container_id}/ports/1000")
    assert not is_open(urls[1000])
    assert sandbox.expose_port(2000)


def test_our_own_interface(server, sandbox):
    path = f"/sandboxes/{sandbox.container_id}/ports"
    assert server.api("GET", path) == []
    exposed = server.api("POST", path, {"port": 8000})
    assert exposed == {"port": 8000, "url": sandbox.list_urls()[8000]}
    assert server.api("GET", path) == [exposed]
    start(sandbox, ECHO, "8000")
    with connect(exposed["url"]) as connection:
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"
        assert server.api("DELETE", f"{path}/8000") is None
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    assert server.api("GET", path) == []
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.api("DELETE", f"{path}/8000")
    assert caught.value.code == 404


def test_address_name_range_and_wait_can_be_configured(server):
    data_directory = Path(tempfile.mkdtemp(prefix="fermata-e2e-", dir="/var/tmp"))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        first = probe.getsockname()[1]
    other = Server(
        data_directory,
        {
            "FERMATA_PORT_ADDRESS": "0.0.0.0",
            "FERMATA_PORT_HOST": "localhost",
            "FERMATA_PORT_RANGE": f"{first}-{first}",
            "FERMATA_PORT_WAIT": "0",
        },
    )
    other.borrow_base_image(server.pool)
    other.start()
    try:
        with pointed_at(other), Sandbox(ports=[8000]).create() as sandbox:
            url = sandbox.list_urls()[8000]
            assert url == f"http://localhost:{first}"
            began = time.monotonic()
            assert get(url)[0] == 502
            assert time.monotonic() - began < 1
            with pytest.raises(urllib.error.HTTPError) as caught:
                other.api("POST", f"/sandboxes/{sandbox.container_id}/ports", {"port": 8001})
            assert "in use" in caught.value.read().decode()
    finally:
        other.close()
    # Sandboxes that other servers start at this moment hold our mounts until they have left the host's root.
    eventually(lambda: not leftovers(data_directory), "it left nothing behind")
    # Not left to pytest, which keeps what the last runs made: it is a base image and a pool.
    shutil.rmtree(data_directory)
