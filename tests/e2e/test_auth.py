"""Tokens, and calls that never came from a well-behaved client."""

import subprocess
import sys
import urllib.error
import urllib.request
import uuid

import grpc
import pytest
from beam import Sandbox
from beta9.channel import Channel, request_metadata
from beta9.clients.gateway import AuthorizeRequest, GatewayServiceStub, ListContainersRequest
from beta9.clients.pod import PodSandboxExecRequest, PodServiceStub
from server import TOKEN


@pytest.fixture
def channel_with(server):
    channels = []

    def make(token: str | None) -> Channel:
        channel = Channel(addr=f"127.0.0.1:{server.grpc_port}", token=token)
        channels.append(channel)
        return channel

    yield make
    for channel in channels:
        channel.close()


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN[:-1], TOKEN + "0"])
def test_a_wrong_token_is_refused_everywhere(channel_with, token):
    channel = channel_with(token)
    calls = [
        lambda: GatewayServiceStub(channel).list_containers(ListContainersRequest()),
        lambda: PodServiceStub(channel).sandbox_exec(PodSandboxExecRequest(container_id="x", command="true")),
    ]
    for call in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert "token" in caught.value.details()


def test_the_right_token(channel_with):
    answer = GatewayServiceStub(channel_with(TOKEN)).authorize(AuthorizeRequest())
    assert answer.ok
    assert answer.workspace_id


def test_a_script_with_a_wrong_token(server):
    program = "from beam import Sandbox; Sandbox().create()"
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": "/usr/bin:/bin", **server.client_environment(), "BETA9_TOKEN": "wrong", "BEAM_TOKEN": "wrong"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert answer.returncode != 0
    assert "token" in answer.stderr + answer.stdout


@pytest.mark.parametrize("header", [None, "Bearer wrong", f"Basic {TOKEN}", TOKEN])
def test_our_own_interface_wants_it_too(server, header):
    request = urllib.request.Request(f"{server.url}/v1/sandboxes", headers={"Authorization": header} if header else {})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    assert caught.value.code == 401


def test_health_and_version_are_open(server):
    for path in ("/healthz", "/version"):
        with urllib.request.urlopen(f"{server.url}{path}", timeout=10) as answer:
            assert answer.status == 200


def test_the_token_is_in_no_log(server, sandbox):
    assert TOKEN not in server.log.read_text(errors="replace")


def test_calls_this_server_does_not_know(channel_with):
    """A client that is newer than the server gets the protocol's own answer, not silence."""
    call = channel_with(TOKEN).unary_unary("/pod.PodService/NoSuchMethod")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"", timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("command", ["'unclosed", '"unclosed', "trailing\\", "", "   "])
def test_a_command_line_that_cannot_be_split(server, sandbox, command):
    answer = sandbox.stub.sandbox_exec(PodSandboxExecRequest(container_id=sandbox.container_id, command=command))
    assert not answer.ok
    assert answer.error_msg


def test_one_request_id_starts_one_process(sandbox):
    """The client repeats an exec under the same id when its deadline passes."""
    request = PodSandboxExecRequest(container_id=sandbox.container_id, command="sh -c 'echo x >>/ran'", cwd="/")
    repeated = request_metadata.set((("x-beta9-request-id", str(uuid.uuid4())),))
    try:
        answers = [sandbox.stub.sandbox_exec(request) for _ in range(3)]
    finally:
        request_metadata.reset(repeated)
    assert len({answer.pid for answer in answers}) == 1
    sandbox.process.get_process(answers[0].pid).wait(10)
    assert sandbox.fs.read_text("/ran") == "x\n"


def test_a_connected_script_does_not_see_other_scripts_sandboxes_end(server, sandbox):
    """Two clients with the same token share the server's sandboxes."""
    program = (
        "from beam import Sandbox\n"
        f"sandbox = Sandbox().connect('{sandbox.sandbox_id()}')\n"
        "print(sandbox.process.run_code('print(6 * 7)').result)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": "/usr/bin:/bin", **server.client_environment()},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "42" in answer.stdout, answer
    assert Sandbox().connect(sandbox.sandbox_id()).ok


def test_nobody_else_reads_what_the_server_keeps(server):
    """Environments and memory of sandboxes are in there."""
    assert server.data_directory.stat().st_mode & 0o777 == 0o700
