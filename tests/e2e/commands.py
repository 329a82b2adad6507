"""Running commands in a sandbox and looking at it from the host."""

from typing import NamedTuple

from beta9.abstractions.sandbox import SandboxInstance, SandboxProcess


class Finished(NamedTuple):
    code: int
    stdout: str
    stderr: str


def finish(process: SandboxProcess, timeout: float = 60.0) -> Finished:
    code = process.wait(timeout)
    return Finished(code, process.stdout.read(), process.stderr.read())


def run(sandbox: SandboxInstance, *argv: str, timeout: float = 60.0, **options: object) -> Finished:
    return finish(sandbox.process.exec(*argv, **options), timeout)


def sh(sandbox: SandboxInstance, script: str, timeout: float = 60.0, **options: object) -> str:
    """The standard output of a shell script that must succeed."""
    result = run(sandbox, "sh", "-ec", script, timeout=timeout, **options)
    assert result.code == 0, result
    return result.stdout


def python(sandbox: SandboxInstance, code: str, *arguments: str, timeout: float = 60.0) -> str:
    """The standard output of a Python program that must succeed."""
    result = run(sandbox, "python3", "-c", code, *arguments, timeout=timeout)
    assert result.code == 0, result
    return result.stdout


def written_bytes(sandbox: SandboxInstance, pid: int) -> int:
    """How much a process has written since it was started (proc(5))."""
    return int(sh(sandbox, f"sed -n 's/^wchar: //p' /proc/{pid}/io"))
