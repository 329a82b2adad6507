"""Building images."""

import base64
import hashlib
import threading
import uuid
import zipfile

import pytest
from beam import Image, Sandbox
from beta9.exceptions import ImageBuildError
from commands import run, sh
from internet import HERE, HTTP_PORT, internet


def unique() -> str:
    """Builds are cached by content, also between runs: what must be built now needs content of its own."""
    return uuid.uuid4().hex


@pytest.fixture(scope="module")
def index(server, tmp_path_factory):
    """A package index on the test's own internet, with one pure package."""
    served = tmp_path_factory.mktemp("index")
    folder = served / "simple" / "fermata-sample"
    folder.mkdir(parents=True)
    wheel = folder / "fermata_sample-1.2.3-py3-none-any.whl"
    write_wheel(wheel)
    (folder / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    with internet(served):
        yield {"PIP_INDEX_URL": f"http://{HERE}:{HTTP_PORT}/simple", "PIP_TRUSTED_HOST": HERE}


def write_wheel(path) -> None:
    name = "fermata_sample-1.2.3.dist-info"
    files = {
        "fermata_sample.py": "VALUE = 'from the wheel'\n",
        f"{name}/METADATA": "Metadata-Version: 2.1\nName: fermata-sample\nVersion: 1.2.3\n",
        f"{name}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        record = ""
        for file, text in files.items():
            wheel.writestr(file, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{file},sha256={digest},{len(text)}\n"
        wheel.writestr(f"{name}/RECORD", record + f"{name}/RECORD,,\n")


def test_commands_in_order_with_environment(new_sandbox):
    image = (
        Image(commands=["echo last >>/steps"])
        .add_commands(["echo first >>/steps", "echo $GREETING >>/steps"])
        .with_envs({"GREETING": f"hello-{unique()}"})
    )
    sandbox = new_sandbox(image=image)
    lines = sh(sandbox, "cat /steps").splitlines()
    assert lines[0] == "first"
    assert lines[1].startswith("hello-")
    assert lines[2] == "last"
    assert sh(sandbox, "echo $GREETING").strip() == lines[1]


def test_the_sandboxs_environment_wins_over_the_images(new_sandbox):
    sandbox = new_sandbox(image=Image().with_envs({"WHO": "image"}), env={"WHO": "sandbox"})
    assert sh(sandbox, "echo $WHO") == "sandbox\n"


def test_python_packages(index, new_sandbox):
    image = Image(python_packages=["fermata-sample==1.2.3"], env_vars=index).with_envs({"RUN": unique()})
    sandbox = new_sandbox(image=image)
    answer = sandbox.process.run_code("import fermata_sample; print(fermata_sample.VALUE)")
    assert answer.result == "from the wheel\n"


def test_a_package_that_does_not_exist_fails_with_pips_words(index):
    image = Image(env_vars=index).pip_install("fermata-no-such-package")
    with pytest.raises(ImageBuildError, match="fermata-no-such-package"):
        Sandbox(image=image).create()


def test_an_equal_build_is_found(server, new_sandbox):
    mark = unique()
    new_sandbox(image=Image().add_commands([f"echo {mark} >/mark"]))
    again = Image().add_commands([f"echo {mark} >/mark"])
    exists, found = again.exists()
    assert exists
    assert found.image_id
    assert sh(new_sandbox(image=again), "cat /mark") == f"{mark}\n"
    exists, _ = Image().add_commands([f"echo {unique()}"]).exists()
    assert not exists


def test_a_failing_step_shows_its_output_and_leaves_nothing(server):
    images = len(server.api("GET", "/images"))
    image = Image().add_commands([f"echo {unique()}", "echo what went wrong; exit 3"])
    with pytest.raises(ImageBuildError, match="what went wrong") as caught:
        Sandbox(image=image).create()
    assert "3" in str(caught.value)
    assert len(server.api("GET", "/images")) == images
    assert [s for s in server.api("GET", "/sandboxes") if s["status"] == "running"] == []


def test_equal_builds_at_once_are_one_build(server, index):
    mark = unique()
    # Each real run of the step leaves a request in nobody's hands but its own: count by a random file's content.
    step = f"echo {mark}; head -c 16 /dev/urandom | sha256sum >/drawn"
    ids: list[str] = []
    threads = [
        threading.Thread(target=lambda: ids.append(Image().add_commands([step]).build(quiet=True).image_id))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 3
    assert len(set(ids)) == 1


def test_a_built_image_is_held_and_changed_like_any_other(new_sandbox):
    sandbox = new_sandbox(image=Image().add_commands([f"echo {unique()} >/built; rm -r /usr/share/doc"]))
    sh(sandbox, "echo more >>/built")
    held = new_sandbox(image=Image.from_id(sandbox.create_image_from_filesystem()))
    assert sh(held, "wc -l </built").strip() == "2"
    assert run(held, "ls", "/usr/share/doc").code != 0


def test_a_build_goes_on_when_the_server_is_killed_or_is_done_again(server, new_sandbox):
    """A half-made image must not be taken for a whole one."""
    mark = unique()
    image = Image().add_commands([f"echo {mark} >/half; touch /tmp/began; sleep 2; echo whole >>/half"])
    errors: list[Exception] = []

    def build() -> None:
        try:
            image.build(quiet=True)
        except Exception as error:
            errors.append(error)

    builder = threading.Thread(target=build)
    builder.start()
    builder.join(1)
    server.kill()
    builder.join(60)
    server.start()
    again = Image().add_commands([f"echo {mark} >/half; touch /tmp/began; sleep 2; echo whole >>/half"])
    assert sh(new_sandbox(image=again), "cat /half") == f"{mark}\nwhole\n"
