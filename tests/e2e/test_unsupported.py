"""What this server does not offer is refused by its name, never ignored."""

import re

import pytest
from beam import CloudBucket, CloudBucketConfig, DurableDisk, Image, Sandbox, Volume


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"gpu": "A10G"}, "gpu"),
        ({"volumes": [Volume(name="v", mount_path="/v")]}, "volume"),
        ({"volumes": [CloudBucket("b", "/b", CloudBucketConfig(access_key="a", secret_key="s"))]}, "volume|bucket"),
        ({"disks": [DurableDisk(name="d", size="1Gi", mount_path="/d")]}, "disk"),
        ({"secrets": ["PASSWORD"]}, "secret"),
        ({"sync_local_dir": True}, "sync_local_dir|object"),
        ({"docker_enabled": True}, "docker"),
        ({"use_vm": True}, "vm"),
        ({"pool": "private"}, "pool"),
        ({"authorized": True, "ports": [8000]}, "authorized"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_options_of_a_sandbox(server, tmp_path, monkeypatch, capfd, options, name):
    # The client looks into the working directory for some of these. Without a file there would be nothing to sync.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("content")
    before = len(server.api("GET", "/sandboxes"))
    said = refusal(lambda: Sandbox(**options).create(), capfd)
    assert re.search(name, said, re.IGNORECASE), said
    assert re.search("not supported|unsupported", said, re.IGNORECASE), said
    assert len(server.api("GET", "/sandboxes")) == before


def dockerfile(folder) -> Image:
    (folder / "Dockerfile").write_text("FROM scratch\n")
    return Image.from_dockerfile(str(folder / "Dockerfile"))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda _: Image.from_registry("docker.io/library/debian"), "registry"),
        (lambda _: Image(base_image="docker.io/library/debian"), "registry"),
        (dockerfile, "dockerfile"),
        (lambda _: Image().micromamba(), "micromamba"),
        (lambda _: Image().with_secrets(["PASSWORD"]), "secret"),
        (lambda _: Image().build_with_gpu("A10G"), "gpu"),
        (lambda _: Image(python_version="python3.12").add_python_version("python3.12"), "python3.12"),
    ],
    ids=["from_registry", "base_image", "from_dockerfile", "micromamba", "with_secrets", "build_with_gpu", "python"],
)
def test_options_of_an_image(server, tmp_path, monkeypatch, capfd, make, name):
    monkeypatch.chdir(tmp_path)
    said = refusal(lambda: Sandbox(image=make(tmp_path)).create(), capfd)
    assert re.search(name, said, re.IGNORECASE), said
    assert re.search("not supported|unsupported", said, re.IGNORECASE), said


def refusal(call, capfd) -> str:
    """Everything that a user gets to see of a call that must fail: the exception, or what the client prints."""
    capfd.readouterr()
    try:
        instance = call()
    # Some refusals end the program (SystemExit), as the client has it.
    except BaseException as error:
        return f"{error} {''.join(capfd.readouterr())}"
    if instance.ok:
        instance.terminate()
        pytest.fail("it was not refused")
    return "".join(capfd.readouterr())
