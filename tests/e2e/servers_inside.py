"""Servers that tests start inside a sandbox, and clients that speak to them through an exposed port."""

import http.client
import shlex
import socket
import urllib.parse

from beta9.abstractions.sandbox import SandboxInstance, SandboxProcess

HTTP = """
import http.server, socket, sys
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
    request_queue_size = 256
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{sys.argv[1]} {self.path}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words): pass
Server((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"""

# Says back what it hears, and once it has heard the end, says how much that was.
ECHO = """
import socketserver, sys
class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        heard = 0
        while piece := self.request.recv(1 << 16):
            heard += len(piece)
            self.request.sendall(piece)
        self.request.sendall(f"|{heard}".encode())
class Server(socketserver.ThreadingTCPServer):
    request_queue_size = 256
    allow_reuse_address = True
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def start(sandbox: SandboxInstance, program: str, *arguments: str) -> SandboxProcess:
    """Does not wait until it listens: that is what an exposed port does."""
    return sandbox.process.exec("python3", "-c", program, *arguments)


def start_after(sandbox: SandboxInstance, seconds: float, program: str, *arguments: str) -> SandboxProcess:
    command = shlex.join(["python3", "-c", program, *arguments])
    return sandbox.process.exec("sh", "-c", f"sleep {seconds}; exec {command}")


def address(url: str) -> tuple[str, int]:
    parts = urllib.parse.urlsplit(url)
    assert parts.hostname and parts.port, url
    return parts.hostname, parts.port


def get(url: str, path: str = "/", method: str = "GET") -> tuple[int, str]:
    """Status and body of an answer; no proxy of whoever runs the tests comes in between."""
    connection = http.client.HTTPConnection(*address(url), timeout=30)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def connect(url: str) -> socket.socket:
    return socket.create_connection(address(url), timeout=30)


def read_all(connection: socket.socket) -> bytes:
    pieces = []
    while piece := connection.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def is_open(url: str) -> bool:
    """Whether anybody takes connections there."""
    try:
        connect(url).close()
    except ConnectionRefusedError:
        return False
    return True
