"""`process.run_code`."""

import pytest
from beta9.exceptions import SandboxProcessError


def test_quick_code_is_answered_at_once(sandbox):
    answer = sandbox.process.run_code("import sys; print('out'); print('err', file=sys.stderr)")
    assert (answer.exit_code, answer.result) == (0, "out\nerr\n")


def test_slow_code_is_waited_for(sandbox):
    answer = sandbox.process.run_code("import time; time.sleep(1.5); print('slow')")
    assert (answer.exit_code, answer.result) == (0, "slow\n")


def test_failing_code_shows_its_traceback(sandbox):
    answer = sandbox.process.run_code("raise ValueError('of course')")
    assert answer.exit_code == 1
    assert "ValueError: of course" in answer.result


def test_background_code(sandbox):
    process = sandbox.process.run_code("print(input())", blocking=False)
    assert process.wait(20) == 1
    assert "EOFError" in process.stderr.read()


def test_directory_and_environment(sandbox):
    code = "import os; print(os.getcwd(), os.environ['MARK'])"
    answer = sandbox.process.run_code(code, cwd="/tmp", env={"MARK": "m"})
    assert answer.result == "/tmp m\n"


def test_more_output_than_one_answer_holds(sandbox):
    answer = sandbox.process.run_code("print('x' * 12_000_000)")
    assert answer.exit_code == 0
    assert len(answer.result) == 12_000_001


def test_a_directory_that_does_not_exist(sandbox):
    with pytest.raises(SandboxProcessError, match="/does/not/exist"):
        sandbox.process.run_code("1", cwd="/does/not/exist")
