"""What a sandbox can and cannot reach. The internet is a namespace that the test made."""

import socket
import socketserver
import subprocess
import threading

import pytest
from beta9.exceptions import SandboxProcessError
from commands import python, run, sh
from internet import HERE, HOST, METADATA, TCP_PORT, THERE, UDP_PORT, internet

CONNECT = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2) as peer:
        print(peer.recv(100).decode().strip())
except OSError as error:
    print("unreachable:", error)
"""

CONNECT_TO_MANY = """
import concurrent.futures, socket, sys
def ask(address):
    try:
        with socket.create_connection((address, int(sys.argv[1])), timeout=2) as peer:
            return address + " " + peer.recv(100).decode()
    except OSError as error:
        return f"{address} unreachable: {error}"
with concurrent.futures.ThreadPoolExecutor(16) as pool:
    print("\\n".join(pool.map(ask, sys.argv[2:])))
"""

ASK_BY_UDP = """
import socket, sys
peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
peer.settimeout(2)
try:
    peer.sendto(b"?", (sys.argv[1], int(sys.argv[2])))
    print(peer.recv(100).decode().strip())
except OSError as error:
    print("unreachable:", error)
"""

# Connecting a datagram socket sends nothing.
OWN_ADDRESS = """
import socket
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
probe.connect(("192.0.2.1", 9))
print(probe.getsockname()[0])
"""

OPEN = f"you are {HOST}"


@pytest.fixture(scope="module")
def outside(server, tmp_path_factory):
    with internet(tmp_path_factory.mktemp("served")) as made:
        yield made


def tcp(sandbox, address: str, port: int = TCP_PORT) -> str:
    return python(sandbox, CONNECT, address, str(port)).strip()


def udp(sandbox, address: str, port: int = UDP_PORT) -> str:
    return python(sandbox, ASK_BY_UDP, address, str(port)).strip()


def blocked(answer: str) -> bool:
    return answer.startswith("unreachable")


def test_the_outside_is_reached_behind_the_hosts_address(outside, sandbox):
    assert tcp(sandbox, HERE) == OPEN
    assert udp(sandbox, HERE) == OPEN


def test_every_sandbox_has_the_same_address_inside(new_sandbox):
    assert python(new_sandbox(), OWN_ADDRESS) == python(new_sandbox(), OWN_ADDRESS)


def test_loopback_inside(sandbox):
    script = (
        "import socket\n"
        "s = socket.create_server(('127.0.0.1', 8080)); c = socket.create_connection(('localhost', 8080))\n"
        "s.accept()[0].sendall(b'me'); print(c.recv(2).decode())\n"
    )
    assert python(sandbox, script) == "me\n"


def test_cloud_metadata_is_never_reached(outside, new_sandbox):
    """The namespace answers on the address, so only the server's own rule can be what blocks it."""
    with socket.create_connection((METADATA, TCP_PORT), timeout=2) as peer:
        assert peer.recv(100)
    assert blocked(tcp(new_sandbox(), METADATA))
    assert blocked(tcp(new_sandbox(allow_list=[f"{METADATA}/32"]), METADATA))


def host_addresses() -> list[str]:
    answer = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True)
    return [address for address in answer.stdout.split() if ":" not in address]


def gateway_of(sandbox) -> str:
    line = sh(sandbox, "awk '$2 == \"00000000\" {print $3}' /proc/net/route").strip()
    return socket.inet_ntoa(bytes.fromhex(line)[::-1])


def test_services_of_the_host_are_not_reached(outside, sandbox):
    class Answer(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.sendall(b"the host\n")

    with socketserver.ThreadingTCPServer(("0.0.0.0", 0), Answer) as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        port = service.server_address[1]
        with socket.create_connection((HOST, port), timeout=2) as peer:
            assert peer.recv(100) == b"the host\n"
        reached = {address: tcp(sandbox, address, port) for address in {HOST, gateway_of(sandbox), *host_addresses()}}
        service.shutdown()
    assert all(blocked(answer) for answer in reached.values()), reached


def test_the_server_itself_is_not_reached(server, outside, sandbox):
    for address in {HOST, gateway_of(sandbox), *host_addresses()}:
        for port in (server.grpc_port, server.http_port):
            assert blocked(tcp(sandbox, address, port)), address


def test_sandboxes_do_not_reach_each_other(new_sandbox):
    """The listener is tried on every address that the host has a route to for its sandboxes."""
    listener, prober = new_sandbox(), new_sandbox()
    listener.process.exec(
        "python3",
        "-c",
        "import socket; s = socket.create_server(('', 9999)); open('/tmp/up', 'w'); s.accept()[0].sendall(b'found')",
    )
    listener.fs.wait_for("/tmp/up")
    candidates = {python(listener, OWN_ADDRESS).strip(), gateway_of(listener), *sandbox_side_addresses()}
    answers = python(prober, CONNECT_TO_MANY, "9999", *candidates, timeout=120)
    assert len(answers.splitlines()) == len(candidates)
    assert "found" not in answers


def sandbox_side_addresses() -> set[str]:
    """Single-host routes and small networks that the host keeps for others."""
    answer = subprocess.run(["ip", "-4", "-o", "route", "show"], capture_output=True, text=True, check=True)
    found = set()
    for line in answer.stdout.splitlines():
        target, _, bits = line.split()[0].partition("/")
        if target != "default" and bits in ("", "32", "31", "30"):
            first = int.from_bytes(socket.inet_aton(target), "big")
            size = 1 if bits in ("", "32") else 1 << (32 - int(bits))
            found |= {socket.inet_ntoa((first + n).to_bytes(4, "big")) for n in range(size)}
    return found


def test_block_network(outside, new_sandbox):
    sandbox = new_sandbox(block_network=True)
    assert blocked(tcp(sandbox, HERE))
    assert blocked(udp(sandbox, HERE))
    assert run(sandbox, "echo", "commands still work").code == 0


def test_allow_list(outside, new_sandbox):
    sandbox = new_sandbox(allow_list=[f"{HERE}/32"])
    assert tcp(sandbox, HERE) == OPEN
    assert blocked(tcp(sandbox, THERE))
    assert blocked(udp(sandbox, THERE))


def test_permissions_change_while_it_runs(outside, sandbox):
    assert tcp(sandbox, HERE) == OPEN
    sandbox.update_network_permissions(block_network=True)
    assert blocked(tcp(sandbox, HERE))
    sandbox.update_network_permissions(allow_list=["192.0.2.0/24", f"{THERE}/32"])
    assert blocked(tcp(sandbox, HERE))
    assert tcp(sandbox, THERE) == OPEN
    sandbox.update_network_permissions()
    assert tcp(sandbox, HERE) == OPEN


def test_a_change_closes_what_is_open(outside, sandbox):
    """The client's documentation says: "replaces existing network rules and closes existing connections"."""
    script = (
        "import os, socket, time\n"
        "peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"peer.connect(('{HERE}', {UDP_PORT})); peer.settimeout(2)\n"
        "peer.send(b'?'); peer.recv(100); open('/tmp/open', 'w').close()\n"
        "while not os.path.exists('/tmp/go'): time.sleep(0.02)\n"
        "try:\n"
        "    peer.send(b'?'); print(peer.recv(100))\n"
        "except OSError as error:\n"
        "    print('closed', error)\n"
    )
    process = sandbox.process.exec("python3", "-c", script)
    sandbox.fs.wait_for("/tmp/open")
    sandbox.update_network_permissions(block_network=True)
    sandbox.fs.write_text("/tmp/go", "")
    assert process.wait(20) == 0
    assert process.stdout.read().startswith("closed")


@pytest.mark.parametrize("entry", ["not a network", "300.1.1.1/8", "10.0.0.0/33", "example.com"])
def test_what_is_no_network_is_refused_by_name(sandbox, entry):
    with pytest.raises(SandboxProcessError, match=entry.replace(".", r"\.")):
        sandbox.update_network_permissions(allow_list=[entry])


def test_a_refused_change_changes_nothing(outside, sandbox):
    sandbox.update_network_permissions(block_network=True)
    with pytest.raises(SandboxProcessError):
        sandbox.update_network_permissions(allow_list=["nonsense"])
    assert blocked(tcp(sandbox, HERE))


def test_too_many_entries_are_refused(sandbox):
    with pytest.raises(SandboxProcessError, match="64"):
        sandbox.update_network_permissions(allow_list=[f"192.0.2.{n}/32" for n in range(65)])


def test_policy_survives_a_crash_of_the_server(server, outside, new_sandbox):
    closed, opened = new_sandbox(block_network=True), new_sandbox()
    server.kill()
    server.start()
    assert blocked(tcp(closed, HERE))
    assert tcp(opened, HERE) == OPEN
    assert tcp(new_sandbox(), HERE) == OPEN


def test_ipv6_is_no_way_around(outside, new_sandbox):
    sandbox = new_sandbox(block_network=True)
    addresses = sh(sandbox, "cat /proc/net/if_inet6 2>/dev/null || true")
    assert all(line.split()[-1] == "lo" or line.startswith("fe80") for line in addresses.splitlines()), addresses
