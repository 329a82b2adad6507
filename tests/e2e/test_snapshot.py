"""Holding a filesystem and playing on from it."""

import threading

import pytest
from beam import Image, Sandbox
from beta9.exceptions import ImageBuildError, SandboxProcessError
from commands import run, sh


def play_on(new_sandbox, image_id):
    return new_sandbox(image=Image.from_id(image_id))


def test_programs_1_and_2(new_sandbox):
    first = new_sandbox(cpu=1)
    process = first.process.exec("sh", "-c", "mkdir -p /something && touch /something/file.txt")
    process.wait()
    assert process.logs.read() == ""
    image_id = first.create_image_from_filesystem()
    first.terminate()

    process = play_on(new_sandbox, image_id).process.exec("ls", "-l", "/something")
    process.wait()
    assert "file.txt" in process.logs.read()


def test_the_image_is_what_was_and_stays_so(new_sandbox):
    """Neither the source's nor another sandbox's later changes reach it."""
    source = new_sandbox()
    sh(
        source,
        "echo held >/state; echo changed >>/etc/motd; rm -r /usr/share/doc;"
        " mkdir /usr/share/doc; echo mine >/usr/share/doc/only",
    )
    image_id = source.create_image_from_filesystem()
    sh(source, "echo later >/state; rm /usr/share/doc/only")
    for _ in range(2):
        sandbox = play_on(new_sandbox, image_id)
        look = "cat /state; ls /usr/share/doc; tail -1 /etc/motd"
        assert sh(sandbox, look) == "held\nonly\nchanged\n"
        sh(sandbox, "rm /state; rm -r /usr/share/doc")
    assert sh(source, "cat /state") == "later\n"


def test_the_source_runs_on(sandbox):
    process = sandbox.process.exec("sh", "-c", "echo before; until [ -e /tmp/go ]; do sleep 0.02; done; echo after")
    sandbox.create_image_from_filesystem()
    assert process.status()[0] == -1
    sandbox.fs.write_text("/tmp/go", "")
    assert process.wait(20) == 0
    assert process.stdout.read() == "before\nafter\n"


def test_generations(new_sandbox):
    sandbox = new_sandbox()
    images = []
    for generation in range(6):
        sh(sandbox, f"echo {generation} >/g{generation}; rm -f /g{generation - 2}; echo {generation} >>/history")
        images.append(sandbox.create_image_from_filesystem())
        sandbox.terminate()
        sandbox = play_on(new_sandbox, images[-1])
    assert len(set(images)) == 6
    assert sh(sandbox, "ls -d /g*; cat /history") == "/g4\n/g5\n0\n1\n2\n3\n4\n5\n"
    early = play_on(new_sandbox, images[1])
    assert sh(early, "ls -d /g*; cat /history") == "/g0\n/g1\n0\n1\n"


def test_it_survives_its_source_and_the_server(server, new_sandbox):
    source = new_sandbox()
    sh(source, "echo held >/state")
    image_id = source.create_image_from_filesystem()
    source.terminate()
    server.kill()
    server.start()
    assert sh(play_on(new_sandbox, image_id), "cat /state") == "held\n"


def test_it_is_of_one_instant(new_sandbox):
    """A writer keeps two files in step: at any instant the first is ahead by one at most."""
    source = new_sandbox()
    writer = (
        "import os\n"
        "a, b = (os.open(f'/{n}', os.O_CREAT | os.O_WRONLY) for n in 'ab')\n"
        "n = 0\n"
        "while True:\n"
        "    n += 1\n"
        "    for f in (a, b): os.pwrite(f, b'%012d' % n, 0)\n"
    )
    source.process.exec("python3", "-c", writer)
    source.fs.wait_for("/b", size=12)
    seen = []
    for _ in range(5):
        held = play_on(new_sandbox, source.create_image_from_filesystem())
        ahead, behind = (int(held.fs.read_text(path)) for path in ("/a", "/b"))
        assert ahead - behind in (0, 1)
        seen.append(ahead)
    assert seen == sorted(set(seen)), "the writer stood still"


def test_no_secret_is_in_it(server, new_sandbox):
    secret = "s3cr3t-" + "x" * 20
    source = new_sandbox(env={"PASSWORD": secret})
    process = source.process.exec("sh", "-c", "echo $PASSWORD $OTHER", env={"OTHER": secret})
    process.wait()
    image_id = source.create_image_from_filesystem()
    sandbox = play_on(new_sandbox, image_id)
    assert secret not in run(sandbox, "env").stdout
    search = run(
        sandbox, "grep", "-rlF", "--exclude-dir=proc", "--exclude-dir=sys", "--exclude-dir=dev", "s3cr3t-", "/"
    )
    assert search.stdout == ""
    assert secret not in str(server.api("GET", f"/images/{image_id}"))


def test_a_stopped_sandbox_cannot_be_held(sandbox):
    sandbox.terminate()
    with pytest.raises(SandboxProcessError, match="not running"):
        sandbox.create_image_from_filesystem()


def test_two_at_once(new_sandbox):
    source = new_sandbox()
    sh(source, "echo held >/state")
    images: list[str] = []
    threads = [threading.Thread(target=lambda: images.append(source.create_image_from_filesystem())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(images)) == 4
    for image_id in images:
        assert sh(play_on(new_sandbox, image_id), "cat /state") == "held\n"
    assert run(source, "echo", "alive").stdout == "alive\n"


def test_many_sandboxes_from_one_image(new_sandbox):
    source = new_sandbox()
    sh(source, "head -c 50M /dev/urandom >/data; sha256sum /data >/sum")
    image_id = source.create_image_from_filesystem()
    description = Sandbox(image=Image.from_id(image_id))
    children = [description.create() for _ in range(8)]
    try:
        for number, child in enumerate(children):
            assert "OK" in sh(child, f"sha256sum -c /sum; echo {number} >/data")
        for number, child in enumerate(children):
            assert sh(child, "cat /data") == f"{number}\n"
    finally:
        for child in children:
            child.terminate()


def test_files_that_are_open_and_deleted_are_not_in_it(new_sandbox):
    source = new_sandbox()
    source.process.exec("sh", "-c", "exec 3>/unlinked; rm /unlinked; touch /ready; sleep 1000")
    source.fs.wait_for("/ready")
    sandbox = play_on(new_sandbox, source.create_image_from_filesystem())
    assert run(sandbox, "ls", "/unlinked").code != 0


def test_what_is_mounted_over_the_root_is_not_in_it(new_sandbox):
    source = new_sandbox()
    sh(source, "echo volatile >/dev/shm/file")
    sandbox = play_on(new_sandbox, source.create_image_from_filesystem())
    assert sh(sandbox, "ls /dev/shm") == ""


@pytest.mark.parametrize("image_id", ["no-such-image", "../../etc", "a" * 200])
def test_an_image_that_does_not_exist(server, image_id):
    with pytest.raises((ImageBuildError, SandboxProcessError)) as caught:
        Sandbox(image=Image.from_id(image_id)).create()
    assert "not found" in str(caught.value) or "not a valid" in str(caught.value)


def test_numbers_of_our_own_interface(server, sandbox):
    sh(sandbox, "head -c 20M /dev/urandom >/data")
    answer = server.api("POST", f"/sandboxes/{sandbox.sandbox_id()}/snapshots", {"kind": "filesystem"})
    assert 0 < answer["paused_ms"] <= answer["total_ms"] < 60_000
    assert answer["upper_bytes"] >= 20 * 1024 * 1024
    image = server.api("GET", f"/images/{answer['image']}")
    assert image["origin"] == {"kind": "snapshot", "sandbox": sandbox.sandbox_id()}


def test_an_image_in_use_is_not_removed(server, new_sandbox):
    image_id = new_sandbox().create_image_from_filesystem()
    user = play_on(new_sandbox, image_id)
    with pytest.raises(OSError, match="HTTP Error 4"):
        server.api("DELETE", f"/images/{image_id}")
    user.terminate()
    server.api("DELETE", f"/images/{image_id}")
    with pytest.raises(OSError, match="404"):
        server.api("GET", f"/images/{image_id}")
