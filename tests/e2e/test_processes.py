"""Looking at processes and ending them."""

import pytest
from beta9.exceptions import SandboxProcessError
from commands import run, sh
from waiting import eventually


def test_status_goes_from_running_to_exited(sandbox):
    process = sandbox.process.exec("sh", "-c", "until [ -e /tmp/go ]; do sleep 0.05; done; exit 4")
    assert process.status() == (-1, "running")
    sandbox.fs.write_text("/tmp/go", "")
    assert process.wait(20) == 4
    assert process.status() == (4, "exited")


def test_wait_with_a_timeout_does_not_end_the_process(sandbox):
    process = sandbox.process.exec("sleep", "1000")
    with pytest.raises(SandboxProcessError, match="did not exit within"):
        process.wait(0.2)
    assert process.status()[0] == -1


def test_kill_ends_the_whole_group(sandbox):
    process = sandbox.process.exec("sh", "-c", "sleep 1234 & sleep 1234; true")
    count = "grep -lz 1234 /proc/[0-9]*/cmdline 2>/dev/null | wc -l"
    # Three of the processes carry the number: the shell and two sleeps (the counting shell has it too).
    eventually(lambda: int(sh(sandbox, count)) >= 4, "the children run")
    process.kill()
    assert process.wait(10) == 137
    eventually(lambda: "sleep" not in sh(sandbox, "cat /proc/[0-9]*/comm"), "the children ended too")


def test_kill_of_an_ended_process_changes_nothing(sandbox):
    process = sandbox.process.exec("sh", "-c", "exit 5")
    assert process.wait() == 5
    process.kill()
    assert process.status()[0] == 5


def test_unknown_pid(sandbox):
    process = sandbox.process.exec("true")
    process.wait()
    process.pid = 30_000
    for call in (process.status, process.kill, process._stdout, process._stderr):
        with pytest.raises(SandboxProcessError, match="30000"):
            call()


def test_a_pid_that_was_not_started_by_exec_is_not_a_process_of_the_caller(sandbox):
    process = sandbox.process.exec("true")
    process.wait()
    process.pid = 1
    with pytest.raises(SandboxProcessError):
        process.kill()
    assert run(sandbox, "true").code == 0


def test_list_processes(sandbox):
    running = sandbox.process.exec("sleep", "1000", cwd="/tmp", env={"MARK": "m"})
    ended = sandbox.process.exec("sh", "-c", "exit 9")
    ended.wait()
    processes = sandbox.process.list_processes()
    assert processes[running.pid].args == ["sleep", "1000"]
    assert processes[running.pid].cwd == "/tmp"
    assert "MARK=m" in processes[running.pid].env
    assert processes[running.pid].exit_code == -1
    assert processes[ended.pid].exit_code == 9
    assert processes[ended.pid].args == ["sh", "-c", "exit 9"]


def test_arguments_in_the_list_can_be_split_again(sandbox):
    arguments = ["sh", "-c", "true", "it's", 'a "b"', "new\nline", ""]
    process = sandbox.process.exec(*arguments)
    process.wait()
    assert sandbox.process.get_process(process.pid).args == arguments


def test_get_process(sandbox):
    process = sandbox.process.exec("sh", "-c", "echo hello; exit 2")
    again = sandbox.process.get_process(process.pid)
    assert again.wait(10) == 2
    assert again.stdout.read() == "hello\n"
    with pytest.raises(SandboxProcessError, match="30000"):
        sandbox.process.get_process(30_000)


def test_ended_processes_stay_readable(sandbox):
    first = sandbox.process.exec("echo", "first")
    first.wait()
    for _ in range(50):
        run(sandbox, "true")
    assert first.status()[0] == 0
    assert first.stdout.read() == "first\n"
