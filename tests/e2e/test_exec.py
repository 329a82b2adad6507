"""Starting processes: arguments, environment, directories, exit codes, output."""

import json
import threading

import pytest
from beta9.exceptions import SandboxProcessError
from commands import finish, python, run, sh
from waiting import eventually

PRINT_ARGUMENTS = "import json, sys; print(json.dumps(sys.argv[1:]))"


def test_arguments_arrive_byte_for_byte(sandbox):
    arguments = [
        "plain",
        "two words",
        "'single'",
        '"double"',
        "$HOME ${x} `id` $(id)",
        "* ? [a] {a,b} ~",
        "back\\slash\\",
        "",
        "new\nline\ttab",
        "ünï ☃ 𝄐",
        "--flag=value",
        "a;b&c|d>e<f#g!h",
    ]
    assert json.loads(python(sandbox, PRINT_ARGUMENTS, *arguments)) == arguments


def test_a_list_is_taken_as_the_command(sandbox):
    process = sandbox.process.exec(["printf", "%s", "a b"])
    assert finish(process).stdout == "a b"


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -KILL $$", 137)],
)
def test_exit_code(sandbox, script, code):
    assert run(sandbox, "sh", "-c", script).code == code


def test_stdout_and_stderr_are_apart_and_logs_has_both(sandbox):
    script = "echo out; echo err >&2"
    assert run(sandbox, "sh", "-c", script) == (0, "out\n", "err\n")
    process = sandbox.process.exec("sh", "-c", script)
    process.wait()
    assert process.logs.read() == "out\nerr\n"


def test_output_is_read_once(sandbox):
    process = sandbox.process.exec("echo", "once")
    process.wait()
    assert process.stdout.read() == "once\n"
    assert process.stdout.read() == ""


def test_all_output_is_there_when_the_exit_code_is(sandbox):
    """The client waits, then reads until it gets nothing: a late last piece would be lost."""
    for _ in range(30):
        process = sandbox.process.exec("sh", "-c", "head -c 300000 /dev/zero | tr '\\0' x; echo end")
        process.wait()
        assert process.stdout.read() == "x" * 300_000 + "end\n"


def test_output_can_be_followed_while_the_process_runs(sandbox):
    script = "echo first; until [ -e /tmp/go ]; do sleep 0.05; done; echo second; printf third"
    process = sandbox.process.exec("sh", "-c", script)
    lines = iter(process.logs)
    assert next(lines) == "first\n"
    assert process.status()[0] == -1
    sandbox.fs.write_text("/tmp/go", "")
    assert list(lines) == ["second\n", "third"]


def test_a_character_is_never_cut_in_half(sandbox):
    script = (
        "import os, sys, time\n"
        "out = sys.stdout.buffer\n"
        "out.write('ab☃'.encode()[:-1]); out.flush(); open('/tmp/half', 'w').close()\n"
        "while not os.path.exists('/tmp/go'): time.sleep(0.02)\n"
        "out.write('☃'.encode()[-1:] + b'cd')\n"
    )
    process = sandbox.process.exec("python3", "-c", script)
    sandbox.fs.wait_for("/tmp/half")
    text = process.stdout.read()
    sandbox.fs.write_text("/tmp/go", "")
    process.wait()
    assert text + process.stdout.read() == "ab☃cd"


def test_bytes_that_are_not_text_are_replaced_and_the_rest_kept(sandbox):
    result = run(sandbox, "printf", r"ok \377\376 fine \303")
    assert result == (0, "ok \ufffd\ufffd fine \ufffd", "")


def test_environment(new_sandbox):
    sandbox = new_sandbox(env={"FROM_SANDBOX": "s", "BOTH": "sandbox"})
    text = run(sandbox, "env", env={"FROM_EXEC": "with spaces and = and \n newline", "BOTH": "exec"}).stdout
    assert "FROM_SANDBOX=s\n" in text
    assert "FROM_EXEC=with spaces and = and \n newline\n" in text
    assert "BOTH=exec\n" in text
    assert "PATH=" in text
    assert "FROM_EXEC" not in run(sandbox, "env").stdout


def test_the_servers_own_environment_stays_outside(sandbox):
    text = run(sandbox, "env").stdout
    assert "FERMATA" not in text
    assert "BEAM_TOKEN" not in text
    assert run(sandbox, "sh", "-c", "tr '\\0' '\\n' </proc/1/environ").stdout.count("TOKEN") == 0


def test_working_directory(sandbox):
    assert run(sandbox, "pwd").stdout == "/workspace\n"
    assert run(sandbox, "pwd", cwd="/tmp").stdout == "/tmp\n"


@pytest.mark.parametrize("directory", ["/does/not/exist", "/etc/passwd"])
def test_a_working_directory_that_is_none_is_named(sandbox, directory):
    with pytest.raises(SandboxProcessError, match=directory):
        sandbox.process.exec("true", cwd=directory)


def test_a_command_that_does_not_exist_is_named(sandbox):
    with pytest.raises(SandboxProcessError, match="no-such-command"):
        sandbox.process.exec("no-such-command", "argument")


@pytest.mark.parametrize("command", ["/etc/passwd", "/etc"])
def test_a_command_that_cannot_be_executed_is_named(sandbox, command):
    with pytest.raises(SandboxProcessError, match=command):
        sandbox.process.exec(command)


def test_a_failed_start_leaves_the_sandbox_usable(sandbox):
    for _ in range(20):
        with pytest.raises(SandboxProcessError):
            sandbox.process.exec("no-such-command")
    assert run(sandbox, "echo", "fine").stdout == "fine\n"


def test_no_command_is_refused(sandbox):
    with pytest.raises(SandboxProcessError):
        sandbox.process.exec("")


def test_a_process_that_forks_and_dies_is_over_when_it_dies(sandbox):
    process = sandbox.process.exec("sh", "-c", "sleep 1000 & echo parent; exit 3")
    assert process.wait(10) == 3
    assert process.stdout.read() == "parent\n"


def test_background_grandchildren_run_on_and_are_reaped(sandbox):
    script = (
        "(setsid sh -c 'until [ -e /tmp/go ]; do sleep 0.05; done; echo late >/tmp/late' >/dev/null 2>&1 &) ; exit 0"
    )
    assert run(sandbox, "sh", "-c", script).code == 0
    sandbox.fs.write_text("/tmp/go", "")
    sandbox.fs.wait_for("/tmp/late")
    zombies = "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l"
    eventually(lambda: sh(sandbox, zombies).strip() == "0", "no zombie is left")


def test_many_at_once(sandbox):
    results: dict[int, str] = {}

    def one(number: int) -> None:
        results[number] = run(sandbox, "sh", "-c", f"echo {number}").stdout

    threads = [threading.Thread(target=one, args=(number,)) for number in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: f"{number}\n" for number in range(60)}


def test_base_image_has_what_users_expect(sandbox):
    assert run(sandbox, "python", "--version").stdout.startswith("Python 3.11")
    assert run(sandbox, "python3", "--version").stdout.startswith("Python 3.11")
    assert run(sandbox, "id", "-u").stdout == "0\n"
