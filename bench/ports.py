"""An exposed port beside a direct connection on loopback: the same server, once in a sandbox and once on this host."""

import contextlib
import socket
import statistics
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator

from clock import summary
from ours import Fermata

PORT = 9000

# One byte for what is wanted: an echo of each piece that follows, or a gigabyte.
SERVER = """
import socket, socketserver, sys
class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wanted = self.request.recv(1)
        if wanted == b"e":
            while piece := self.request.recv(64):
                self.request.sendall(piece)
        elif wanted == b"d":
            block = bytes(1 << 20)
            for _ in range(1024):
                self.request.sendall(block)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

BLOCK_BYTES = 1 << 20
DOWNLOAD_BYTES = 1 << 30
ROUND_TRIPS, CONNECTIONS, DOWNLOADS = 3000, 500, 5

Address = tuple[str, int]


@contextlib.contextmanager
def on_this_host() -> Iterator[Address]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(port)])
    try:
        yield "127.0.0.1", port
    finally:
        server.kill()
        server.wait()


@contextlib.contextmanager
def in_a_sandbox(system: Fermata) -> Iterator[Address]:
    sandbox = system.create()
    try:
        url = urllib.parse.urlsplit(system.expose(sandbox, PORT))
        assert url.hostname and url.port
        system.start(sandbox, ["python3", "-c", SERVER, str(PORT)])
        yield url.hostname, url.port
    finally:
        system.end(sandbox)


def wait_for(address: Address) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), connect(address, b"e") as connection:
            if round_trip(connection):
                return
        time.sleep(0.05)
    raise AssertionError(f"no server at {address}")


def connect(address: Address, wanted: bytes) -> socket.socket:
    connection = socket.create_connection(address)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(wanted)
    return connection


def round_trip(connection: socket.socket) -> bool:
    connection.sendall(b"x")
    return connection.recv(1) == b"x"


def milliseconds_since(began: float) -> float:
    return (time.perf_counter() - began) * 1000


def round_trips(addresses: list[Address]) -> list[list[float]]:
    """On an open connection, taking turns: whatever else the machine does then slows all of them."""
    samples: list[list[float]] = [[] for _ in addresses]
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connect(address, b"e")) for address in addresses]
        for number in range(ROUND_TRIPS + 200):
            for connection, taken in zip(connections, samples, strict=True):
                began = time.perf_counter()
                assert round_trip(connection)
                if number >= 200:
                    taken.append(milliseconds_since(began))
    return samples


def connections(addresses: list[Address]) -> list[list[float]]:
    """Connecting, and a first round trip."""
    samples: list[list[float]] = [[] for _ in addresses]
    for number in range(CONNECTIONS + 20):
        for address, taken in zip(addresses, samples, strict=True):
            began = time.perf_counter()
            with connect(address, b"e") as connection:
                assert round_trip(connection)
                if number >= 20:
                    taken.append(milliseconds_since(began))
    return samples


def downloads(addresses: list[Address]) -> list[list[float]]:
    """Bytes a second of one connection."""
    samples: list[list[float]] = [[] for _ in addresses]
    block = bytearray(BLOCK_BYTES)
    for number in range(DOWNLOADS + 1):
        for address, rates in zip(addresses, samples, strict=True):
            with connect(address, b"d") as connection:
                began, received = time.perf_counter(), 0
                while length := connection.recv_into(block):
                    received += length
                assert received == DOWNLOAD_BYTES
                if number > 0:
                    rates.append(received / (time.perf_counter() - began))
    return samples


def measure(system: Fermata) -> dict:
    with on_this_host() as direct, in_a_sandbox(system) as exposed:
        addresses = [direct, exposed]
        for address in addresses:
            wait_for(address)
        trips, connects, rates = round_trips(addresses), connections(addresses), downloads(addresses)
    return {
        "direct": {"round_trip": summary(trips[0]), "connect": summary(connects[0]), "rate": summary(rates[0])},
        "exposed": {"round_trip": summary(trips[1]), "connect": summary(connects[1]), "rate": summary(rates[1])},
        "added_ms": statistics.median(trips[1]) - statistics.median(trips[0]),
        "added_to_connect_ms": statistics.median(connects[1]) - statistics.median(connects[0]),
        "throughput_share": statistics.median(rates[1]) / statistics.median(rates[0]),
    }
