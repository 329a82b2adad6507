"""A network namespace that plays the internet, on addresses reserved for documentation (RFC 5737)."""

import contextlib
import functools
import http.server
import os
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from waiting import eventually

HOST = "198.51.100.1"
HERE = "198.51.100.2"
THERE = "198.51.100.3"
# Where clouds serve credentials to whoever asks from inside a machine.
METADATA = "169.254.169.254"
TCP_PORT = 7000
UDP_PORT = 7001
# Takes connections and says nothing.
QUIET_PORT = 7002
HTTP_PORT = 8080


class Internet(NamedTuple):
    namespace: str
    served: Path


@contextlib.contextmanager
def internet(served: Path) -> Iterator[Internet]:
    """Routes the test network to a namespace in which this file's `main` answers on every address."""
    namespace = f"fermata-e2e-{os.getpid()}"
    outside, inside = f"fe{os.getpid()}", f"fi{os.getpid()}"
    server = None
    try:
        _ip("netns", "add", namespace)
        _ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", namespace)
        _ip("address", "add", f"{HOST}/24", "dev", outside)
        _ip("link", "set", outside, "up")
        for address in (f"{HERE}/24", f"{THERE}/24", f"{METADATA}/32"):
            _ip("-n", namespace, "address", "add", address, "dev", inside)
        for device in ("lo", inside):
            _ip("-n", namespace, "link", "set", device, "up")
        # If the server let it through, it would arrive here and nowhere else.
        _ip("route", "add", METADATA, "via", HERE)
        server = subprocess.Popen(["ip", "netns", "exec", namespace, sys.executable, __file__, str(served)])
        eventually(lambda: _listens(namespace), "the internet answers")
        yield Internet(namespace, served)
    finally:
        if server is not None:
            server.kill()
            server.wait()
        # Takes the veth pair, and with it the routes, along.
        subprocess.run(["ip", "netns", "delete", namespace], check=False)
        subprocess.run(["ip", "link", "delete", outside], check=False, stderr=subprocess.DEVNULL)


# Prints the port that each TCP packet is for, as it arrives; first an empty line. 0x0800 is IPv4 (packet(7)).
_HEAR = """
import socket, struct
wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.ntohs(0x0800))
print(flush=True)
while True:
    packet, (_, _, direction, *_) = wire.recvfrom(1 << 16)
    if direction == socket.PACKET_HOST and packet[9] == socket.IPPROTO_TCP:
        print(struct.unpack_from("!H", packet, (packet[0] & 15) * 4 + 2)[0], flush=True)
"""


@contextlib.contextmanager
def packets(net: Internet) -> Iterator[Iterator[int]]:
    """The ports that TCP packets are for, in their order, from now on."""
    hearing = subprocess.Popen(
        ["ip", "netns", "exec", net.namespace, sys.executable, "-c", _HEAR], stdout=subprocess.PIPE, text=True
    )
    try:
        assert hearing.stdout.readline() == "\n"
        yield (int(line) for line in hearing.stdout)
    finally:
        hearing.kill()
        hearing.wait()
        hearing.stdout.close()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _listens(namespace: str) -> bool:
    answer = subprocess.run(
        ["ip", "netns", "exec", namespace, "cat", "/proc/net/tcp"], capture_output=True, text=True, check=True
    )
    return all(f":{port:04X} 00000000:0000 0A" in answer.stdout for port in (TCP_PORT, QUIET_PORT, HTTP_PORT))


class _TellPeerTcp(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(f"you are {self.client_address[0]}\n".encode())


class _TellPeerUdp(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request[1].sendto(f"you are {self.client_address[0]}\n".encode(), self.client_address)


class _SayNothing(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while self.request.recv(1 << 16):
            pass


def main() -> None:
    files = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])
    servers = [
        socketserver.ThreadingTCPServer(("0.0.0.0", TCP_PORT), _TellPeerTcp),
        socketserver.ThreadingUDPServer(("0.0.0.0", UDP_PORT), _TellPeerUdp),
        socketserver.ThreadingTCPServer(("0.0.0.0", QUIET_PORT), _SayNothing),
        http.server.ThreadingHTTPServer(("0.0.0.0", HTTP_PORT), files),
    ]
    threads = [threading.Thread(target=server.serve_forever) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
